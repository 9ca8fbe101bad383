"""As many rounds as were asked for, unless that takes too long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

LEAST = 2
"""Rounds that are made in any case."""


@dataclass(frozen=True)
class Rounds:
    """How often a measurement is made. deadline: CLOCK_MONOTONIC seconds after which LEAST rounds must do."""

    count: int
    deadline: float

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            if number >= LEAST and time.monotonic() > self.deadline:
                return
            yield number

    def fewer(self) -> Rounds:
        """For what takes long and spreads little."""
        return Rounds(min(self.count, max(LEAST, self.count // 2)), self.deadline)
