"""The stop clock: how long the target has stood still, in large digits."""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.timer import Timer
from textual.widgets import Digits, Static

_TICK_SECONDS = 1 / 20


class StopClock(Vertical):
    """Runs while the target is stopped; then stands still in another look, showing what the engine measured."""

    DEFAULT_CSS = """
    StopClock { height: 5; width: 1fr; padding: 0 2; border-left: wide $panel; }
    StopClock Digits { width: auto; color: $foreground 55%; }
    StopClock.running { border-left: wide $warning; }
    StopClock.running Digits { color: $text-warning; }
    StopClock.resumed { border-left: wide $success; }
    StopClock.resumed Digits { color: $text-success; }
    StopClock #clock-state { color: $foreground 55%; }
    StopClock.running #clock-state { color: $text-warning; text-style: bold; }
    StopClock.resumed #clock-state { color: $text-success; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._started = 0.0
        self._timer: Timer | None = None
        self.seconds: float | None = None

    def compose(self) -> ComposeResult:
        """Digits and a line of words."""
        yield Digits("0.000", id="clock-digits")
        yield Static("target runs", id="clock-state", markup=False)

    def start(self) -> None:
        """The target is being stopped."""
        self._started = time.monotonic()
        self.set_classes("running")
        self.query_one("#clock-state", Static).update("■ target stands still")
        if self._timer is None:
            self._timer = self.set_interval(_TICK_SECONDS, self._tick)

    def stop(self, seconds: float) -> None:
        """The target runs again; seconds as the engine measured it."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self.seconds = seconds
        self.set_classes("resumed")
        self.query_one("#clock-digits", Digits).update(f"{seconds:.3f}")
        self.query_one("#clock-state", Static).update(f"▶ target runs, resumed after {seconds:.3f} s")

    def gone(self) -> None:
        """Nobody measures any more; the kernel let the target go."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
            self.set_classes("")
            self.query_one("#clock-state", Static).update("▶ target runs, let go by the kernel")

    def _tick(self) -> None:
        self.query_one("#clock-digits", Digits).update(f"{time.monotonic() - self._started:.3f}")
