"""Keys of the screen below, and what corepipe does, in a few lines."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

_DESCRIPTION_WIDTH = 23


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
        """Two columns of keys, the screen's own before those that move in a list."""
        rows: dict[str, list[str]] = {}
        own: set[str] = set()
        for active in self._below.active_bindings.values():
            binding = active.binding
            if binding.description and binding.id and not binding.system:
                keys = rows.setdefault(binding.description, [])
                if active.node is self._below:
                    own.add(binding.description)
                key = binding.key_display or self.app.get_key_display(binding)
                if key not in keys:
                    keys.append(key)
        last = {"Quit", "Suspend", "Keys"}
        ordered = sorted(rows.items(), key=lambda row: (row[0] in last, row[0] not in own))
        entries = [(" ".join(sorted(keys, key=len)), description) for description, keys in ordered]
        half = (len(entries) + 1) // 2
        columns = [entries[:half], entries[half:]]
        lines = []
        for index in range(half):
            parts: list[Content | str | tuple[str, str]] = []
            for column in columns:
                if index < len(column):
                    width = max(len(names) for names, _ in column)
                    names, description = column[index]
                    parts += [(names.rjust(width), "bold $accent"), f"  {description:<{_DESCRIPTION_WIDTH}}"]
            lines.append(Content.assemble(*parts))
        return Content("\n").join(lines)
