"""What all screens share."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.screen import Screen
from textual.widget import Widget

if TYPE_CHECKING:
    from ..app import CorepipeApp

MUTED = "$foreground 55%"
"""Style of labels and of what matters less."""


class CorepipeScreen(Screen[None]):
    """A screen of corepipe-tui."""

    @property
    def corepipe(self) -> CorepipeApp:
        """The application, by its own type."""
        return cast("CorepipeApp", self.app)

    def copy(self, text: str) -> None:
        """Put text on the clipboard of the terminal (OSC 52) and show it, for terminals that do not take it."""
        self.app.copy_to_clipboard(text)
        self.notify(text, title="copied", markup=False, timeout=6)


def app_of(widget: Widget) -> CorepipeApp:
    """Return the application by its own type."""
    return cast("CorepipeApp", widget.app)
