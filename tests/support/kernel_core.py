"""The kernel's own core of a process, to compare with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from . import proc
from .targets import Target
from .waiting import eventually

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


def _asleep(pid: int) -> int:
    """How many threads sleep, the first left out."""
    return sum(state == "S" for tid, state in proc.thread_states(pid).items() if tid != pid)


def end_with_kernel_core(target: Target, path: Path, asleep: int = 0) -> None:
    """Abort a stopped target so that the kernel writes its core to path; core_pattern is as before afterwards.

    asleep: so many threads beside the first sleep again before that. Without, they may be on their way back to their
    calls. Where core_pattern cannot be set, as in most containers, there is no core.
    """
    with _core_pattern(f"{path}.%p") as granted:
        if not granted:
            return
        resource.prlimit(target.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if asleep:
            os.kill(target.pid, signal.SIGCONT)
            eventually("the threads sleep again", lambda: _asleep(target.pid) == asleep)
        os.kill(target.pid, signal.SIGABRT)
        os.kill(target.pid, signal.SIGCONT)
        assert target.process.wait() == -signal.SIGABRT
    (found,) = path.parent.glob(f"{path.name}.*")
    found.rename(path)
