"""Keys of the screen below, and what corepipe does, in a few lines."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static


class HelpScreen(ModalScreen[None]):
    """Lists every key that works on the screen it was opened from."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "Close", id="help.close"),
    ]

    def __init__(self, below: Screen[Any]) -> None:
        super().__init__()
        self._below = below

    def compose(self) -> ComposeResult:
        """One scrolling panel."""
        with VerticalScroll(id="help-panel"):
            yield Static("Keys", classes="panel-title", markup=False)
            yield Static(self._keys(), id="help-keys")
            about = str(getattr(self._below, "HELP_TEXT", "")).strip()
            if about:
                yield Static(about, id="help-about", markup=False)

    def on_mount(self) -> None:
        """Let the arrow keys scroll."""
        self.query_one("#help-panel").focus()

    def _keys(self) -> Content:
        rows: dict[tuple[str, str], list[str]] = {}
        for active in self._below.active_bindings.values():
            binding = active.binding
            if binding.description and binding.id and not binding.system:
                key = binding.key_display or self.app.get_key_display(binding)
                keys = rows.setdefault((binding.action, binding.description), [])
                if key not in keys:
                    keys.append(key)
        width = max((len(" ".join(keys)) for keys in rows.values()), default=0)
        lines = []
        for (_, description), keys in rows.items():
            lines.append(Content.assemble((" ".join(keys).rjust(width), "bold $accent"), "  ", description))
        return Content("\n").join(lines)
