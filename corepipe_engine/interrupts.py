"""Signals to corepipe become a flag that is looked at where it is safe; the target is always let go first."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

from .errors import InterruptedDumpError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupts:
    """A context manager that catches the signals which end a program. fd is readable once one has come.

    A signal that was ignored when we started (nohup, a shell's background job) stays ignored.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.fd = -1
        self._write_fd = -1
        self._old: dict[int, object] = {}
        self._old_wakeup = -1

    def __enter__(self) -> Interrupts:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._old_wakeup)
        for fd in (self.fd, self._write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.request(f"by {signal.Signals(number).name}")

    def request(self, reason: str) -> None:
        """Ask for the end of the dump; the first reason stands."""
        self.reason = self.reason or reason

    def drain(self) -> None:
        """Empty fd."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 64):
                pass

    def check(self) -> None:
        """Raise InterruptedDumpError if the end was asked for."""
        if self.reason:
            raise InterruptedDumpError(f"interrupted {self.reason}; the target runs, the core is not whole")
