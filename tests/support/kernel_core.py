"""The kernel's own core of a process, to compare with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from .targets import Target

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@contextlib.contextmanager
def _core_pattern(value: str) -> Iterator[bool]:
    """Set kernel.core_pattern for a while, one test run at a time. Yields False where it cannot be set."""
    with CORE_PATTERN.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = CORE_PATTERN.read_text()
        try:
            CORE_PATTERN.write_text(value)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            CORE_PATTERN.write_text(before)


def end_with_kernel_core(target: Target, path: Path) -> None:
    """Abort a stopped target so that the kernel writes its core to path; core_pattern is as before afterwards.

    Where core_pattern cannot be set, as in most containers, there is no core.
    """
    with _core_pattern(f"{path}.%p") as granted:
        if not granted:
            return
        resource.prlimit(target.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.kill(target.pid, signal.SIGABRT)
        os.kill(target.pid, signal.SIGCONT)
        assert target.process.wait() == -signal.SIGABRT
    (found,) = path.parent.glob(f"{path.name}.*")
    found.rename(path)
