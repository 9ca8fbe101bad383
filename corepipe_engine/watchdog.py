"""A thread that looks after a freeze while the tracing thread may be stuck in the kernel.

It reaps threads of the target that died while they were traced: until that is done the target's parent hears nothing,
and an exec in the target waits for it for ever - holding the lock that our next PTRACE_SEIZE waits for. And it is the
last resort: when the stop is long past its bound, this process ends at once, and the kernel lets every thread go.
Source: kernel/exit.c (wait_task_zombie), fs/exec.c (de_thread), kernel/ptrace.c (ptrace_attach).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from .ptrace import WALL

_PERIOD_SECONDS = 0.02
_ENDS = frozenset({os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED})
GRACE_SECONDS = 3.0
"""How long the tracing thread may take to let the target go once it should have."""


def reap_dead(tids: Iterable[int]) -> set[int]:
    """Take the exit status of those of our tracees that have ended, whichever thread traces them; return their ids.

    A wait reports the stop of a tracee even when asked for ends alone: so look first, and leave stops to the tracer.
    """
    dead = set()
    for tid in tids:
        try:
            found = os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL)
            if found is not None and found.si_code in _ENDS:
                os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | WALL)
                dead.add(tid)
        except ChildProcessError:
            dead.add(tid)
    return dead


def end_at_once(why: str) -> NoReturn:
    """End this process now. The kernel lets every thread go that we hold, and the safety net does the rest.

    For what must not happen while the target is held: the way back that needs us is then the less certain one.
    """
    message = f"corepipe: {why}; ending at once, so that the target runs\n"
    with contextlib.suppress(OSError):
        os.write(2, message.encode("utf-8", "backslashreplace"))
    os._exit(1)


class Watchdog:
    """Runs from start() to stop(). traced: the ids of all threads we hold, now.

    overdue: tells why the target should run again by now, empty while all is well; that reason lasting for
    GRACE_SECONDS ends this process with exit status 1.
    """

    def __init__(self, traced: Callable[[], Iterable[int]], overdue: Callable[[], str]) -> None:
        self.dead: set[int] = set()
        self._traced = traced
        self._overdue = overdue
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch. No signal is ever delivered to the thread."""
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    def stop(self) -> None:
        """End; a second call does nothing."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        overdue_since = 0.0
        while not self._stop.wait(_PERIOD_SECONDS):
            self.dead |= reap_dead(set(self._traced()) - self.dead)
            reason = self._overdue()
            if not reason:
                overdue_since = 0.0
                continue
            overdue_since = overdue_since or time.monotonic()
            if time.monotonic() - overdue_since >= GRACE_SECONDS:
                end_at_once(f"{reason}, and the way back is blocked")
