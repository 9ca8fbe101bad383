"""How long a target stood still, and with what."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class StopClock:
    """Times of one freeze, CLOCK_MONOTONIC seconds; steps are the parts of the stop in the order they happened."""

    started: float = 0.0
    ended: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    _last: float = 0.0

    def start(self) -> None:
        """The first thread is about to stop."""
        self.started = self._last = time.monotonic()

    def step(self, name: str) -> None:
        """What was done since the last call is booked under that name."""
        now = time.monotonic()
        self.steps[name] = self.steps.get(name, 0.0) + now - self._last
        self._last = now

    def stop(self) -> None:
        """The last thread runs again."""
        self.step("detach")
        self.ended = self._last

    @property
    def seconds(self) -> float:
        """Length of the stop, so far or in all; 0 before."""
        if not self.started:
            return 0.0
        return (self.ended or time.monotonic()) - self.started
