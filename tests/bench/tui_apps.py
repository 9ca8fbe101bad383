"""What the bench of the user interface runs in a terminal: `python -m tests.bench.tui_apps KIND COUNT`.

Everything is imported, and what the application shows is made, before the clock starts: its time is written to file
descriptor 3 right before the application runs.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from textual.app import App, ComposeResult
from textual.widgets import Footer, Static

from corepipe_tui.app import CorepipeApp, Settings

from ..tui import spaces
from ..tui.fakes import FIRST_PID, FakeProcesses, row


class Empty(App[None]):
    """The floor: two lines of text, and a key that changes one of them."""

    BINDINGS = [("j", "next", "Next")]
    count = 0

    def compose(self) -> ComposeResult:
        yield Static("empty and ready", id="line")
        yield Footer()

    def action_next(self) -> None:
        self.count += 1
        self.query_one("#line", Static).update(f"line {self.count}")


def make(kind: str, count: int) -> App[Any]:
    if kind == "empty":
        return Empty()
    if kind == "processes":
        return CorepipeApp(Settings(), provider=FakeProcesses([row(index) for index in range(count)]))
    if kind == "regions":
        ready = spaces.selection(spaces.many(count))
        return CorepipeApp(Settings(pid=FIRST_PID), provider=FakeProcesses(), load_selection=lambda pid, options: ready)
    return CorepipeApp(Settings())


def main() -> None:
    app = make(sys.argv[1], int(sys.argv[2]))
    os.write(3, f"{time.monotonic()}\n".encode())
    app.run()


if __name__ == "__main__":
    main()
