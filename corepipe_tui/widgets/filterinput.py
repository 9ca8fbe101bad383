"""The line that a list is filtered by."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class FilterInput(Input):
    """Hidden until it is wanted; filters while one types. Enter and the arrows go back to the list, Esc clears."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,up,down", "leave(True)", "To the list", key_display="⏎", id="filter.keep"),
        Binding("escape", "leave(False)", "Clear filter", id="filter.clear"),
    ]

    class Left(Message):
        """The list is wanted back."""

    def __init__(self, what: str) -> None:
        super().__init__(placeholder=f"filter: words of {what}; !word leaves out", id="filter")
        self.display = False

    def open(self) -> None:
        """Show it, and take the keys from now on."""
        self.display = True
        self.screen.set_focus(self)  # at once: the next key belongs to it

    def clear_and_hide(self) -> None:
        """Filter by nothing."""
        self.value = ""
        self.display = False

    def action_leave(self, keep: bool) -> None:
        """Go back to the list, with or without the filter."""
        if keep and self.value.strip():
            self.display = True
        else:
            self.clear_and_hide()
        self.post_message(self.Left())
