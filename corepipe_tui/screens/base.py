"""What all screens share."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

if TYPE_CHECKING:
    from ..app import CorepipeApp

MUTED = "$foreground 55%"
"""Style of labels and of what matters less."""


def title(*parts: str) -> Content:
    """Return a screen's first line; parts are clean, what matters most comes first: the end may be cut."""
    words = " · ".join(part for part in parts if part)
    return Content.assemble((" corepipe ", "bold $text on $primary"), f"  {words}")


def refused(message: str, hint: str) -> list[Content]:
    """Return the lines that say what cannot be, and what to type next; both clean."""
    lines = [Content.assemble(("✗ ", "bold $text-error"), (message, "$text-error"))]
    return [*lines, Content.assemble(("  try: ", MUTED), (hint, "bold"))] if hint else lines


class CorepipeScreen(Screen[None]):
    """A screen of corepipe-tui."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that are letters to an input are not offered while one is typed in."""
        return not (action in ("filter", "help") and isinstance(self.focused, Input))

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
