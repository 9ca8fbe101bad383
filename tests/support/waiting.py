"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SLOWNESS = float(os.environ.get("COREPIPE_SLOWNESS", "1"))
"""How many times slower than a usual one this machine is, when it is emulated."""
PATIENCE_SECONDS = 30.0 * SLOWNESS
"""How long a condition that must come true may take on an overloaded machine; reached only when a test fails."""


def eventually(what: str, probe: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of probe(); fail with what was waited for when it does not come."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}; last seen: {value!r}")
        time.sleep(0.001)
