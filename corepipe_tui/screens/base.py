"""What all screens share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

if TYPE_CHECKING:
    from ..app import CorepipeApp


class CorepipeScreen(Screen[None]):
    """A screen of corepipe-tui."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that are letters to an input are not offered while one is typed in."""
        return not self.corepipe.leaving and not (action in ("filter", "help") and isinstance(self.focused, Input))

    @property
    def corepipe(self) -> CorepipeApp:
        """The application, by its own type."""
        return cast("CorepipeApp", self.app)

    def palette(self) -> Iterable[tuple[str, str, Callable[[], object]]]:
        """Yield what the palette offers beyond the keys: words, explanation, what to call."""
        return ()

    def copy(self, text: str) -> None:
        """Put text on the clipboard of the terminal (OSC 52) and show it, for terminals that do not take it."""
        self.app.copy_to_clipboard(text)
        self.notify(text, title="copied", markup=False, timeout=6)


def app_of(widget: Widget) -> CorepipeApp:
    """Return the application by its own type."""
    return cast("CorepipeApp", widget.app)
