"""Letting a stopped thread run as far as one system call goes, and waiting for it.

Source: ptrace(2), "Syscall-stops".
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

from . import ptrace
from .freeze import StoppedThread

CALL_SECONDS = 60.0
"""How long a call may take: the fork of a very large process takes seconds."""
ENTRY_SECONDS = 2.0
"""How long a thread may take to begin a call: it only needs a processor."""
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.1
"""How long a wait lasts at the most should the SIGCHLD that ends it go astray."""


class StuckError(Exception):
    """A thread that was to run one system call has not come back."""


class NotBegunError(Exception):
    """A thread that was to run one system call has not begun it, and is stopped again."""


def wait_for(tid: int, seconds: float = CALL_SECONDS) -> int:
    """Return the wait status of a tracee once it has stopped or ended. Errors: StuckError, ProcessLookupError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            status = ptrace.wait_stop(tid, min(max(deadline - time.monotonic(), 0.0), _LOOK_SECONDS))
        except ChildProcessError as error:
            raise ProcessLookupError(tid) from error
        if status is not None:
            return status
        if time.monotonic() >= deadline:
            raise StuckError(tid)


@contextlib.contextmanager
def sigchld_blocked() -> Iterator[None]:
    """Outside of a freeze: SIGCHLD must be blocked where a stop is waited for."""
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def run_to_entry(thread: StoppedThread) -> bool:
    """Let a stopped thread run on to the entry stop of the call that it stands at; False if a signal comes first.

    The signal is kept for the detach. Errors: NotBegunError, StuckError, ProcessLookupError.
    """
    while True:
        ptrace.resume_to_system_call(thread.tid)
        status = _wait_for_entry(thread.tid)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(thread.tid)
        if status >> 16:
            continue
        if os.WSTOPSIG(status) == ptrace.SYSCALL_STOP:
            return True
        thread.signal_number = os.WSTOPSIG(status)
        return False


def run_to_exit(
    thread: StoppedThread,
    on_clone: Callable[[int], None] = lambda tid: None,
    on_signal: Callable[[], int | None] = lambda: None,
    entered: bool = False,
) -> None:
    """Let a stopped thread run through one system call, from before its entry (or from there) to its exit stop.

    A signal that is about to be delivered on the way is kept for the detach where on_signal returns None; else what it
    returns takes the signal's place at once, 0 for no signal. Errors: NotBegunError, StuckError, ProcessLookupError.
    """
    seen, answer = int(entered), 0
    while seen < 2:
        ptrace.resume_to_system_call(thread.tid, answer)
        answer = 0
        status = wait_for(thread.tid) if seen else _wait_for_entry(thread.tid)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(thread.tid)
        number, event = os.WSTOPSIG(status), status >> 16
        if event == ptrace.EVENT_CLONE:
            on_clone(ptrace.event_message(thread.tid))
        elif event:
            continue  # a stop of the whole group begins or ends: it takes hold again at the detach
        elif number == ptrace.SYSCALL_STOP:
            seen += 1
        elif (wanted := on_signal()) is not None:
            answer = wanted
        elif number == signal.SIGSTOP:
            answer = number  # its stop, and the SIGCONT that ends it, are the kernel's to keep: it holds at the detach
        elif not thread.signal_number:
            thread.signal_number = number


def _wait_for_entry(tid: int) -> int:
    """As wait_for; a thread that does not get as far as the entry of its call is stopped where it is."""
    try:
        return wait_for(tid, ENTRY_SECONDS)
    except StuckError:
        ptrace.interrupt(tid)
        status = wait_for(tid, ENTRY_SECONDS)
    if os.WIFSTOPPED(status) and status >> 16 == ptrace.EVENT_STOP:
        raise NotBegunError(tid)
    return status  # it came after all; the stop that was asked for follows, and is passed over


def kill_tracee(pid: int) -> None:
    """End a process of ours that is traced, and take its status."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            status = ptrace.poll_stop(pid)
            if status is not None and not os.WIFSTOPPED(status):
                return
            time.sleep(0.0005)
