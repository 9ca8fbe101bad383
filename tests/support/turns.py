"""Two runs of tests side by side on one machine: a test that changes what all processes feel runs alone.

Every test holds a lock with others; one marked `alone` holds it for itself. Who waits for it alone stands at the gate,
so that the others do not pass for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FOLDER = Path(tempfile.gettempdir())


def _open(name: str) -> int:
    return os.open(_FOLDER / f"corepipe-tests-{os.getuid()}.{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Wait until this test may run; others that are not alone may run meanwhile."""
    gate, lock = _open("gate"), _open("lock")
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
    finally:
        os.close(gate)
        os.close(lock)
