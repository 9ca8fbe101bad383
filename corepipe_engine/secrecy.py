"""What passes through corepipe is the memory of another process: none of it may end in a core of corepipe itself."""

from __future__ import annotations

import contextlib
import ctypes
import resource

_PR_SET_DUMPABLE = 4


def forbid_own_core() -> None:
    """Let the kernel write no core of this process, to a file or to a handler. See prctl(2), core(5)."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
