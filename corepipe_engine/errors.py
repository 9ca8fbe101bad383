"""What can go wrong, in words a person under pressure can use.

Every error that a user can meet is a CorepipeError: what failed and why (the message), what to type next
(the hint), and the exit status that the command ends with.
"""

from __future__ import annotations

import enum
import errno


class ExitCode(enum.IntEnum):
    """Exit status of `corepipe` and `corepipe-tui`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_PERMITTED = 3
    NO_PROCESS = 4
    SINK_FAILED = 5
    UNREADABLE = 6
    INTERRUPTED = 130


class CorepipeError(Exception):
    """A failure with an exit status and, where there is one, the next thing to type."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class DumpFailedError(CorepipeError):
    """The dump could not be made or finished; the target runs."""


class ModeUnavailableError(DumpFailedError):
    """The dump mode cannot serve this target now; another one may. Raised before or with the target resumed."""


class StopDeadlineError(DumpFailedError):
    """The target was let go because `--max-stop` was reached; the core is not whole."""


class UsageError(CorepipeError):
    """The command line, or the target named on it, makes no sense."""

    exit_code = ExitCode.USAGE


class NotPermittedError(CorepipeError):
    """The kernel refuses; the hint names the rule and the command that mends it."""

    exit_code = ExitCode.NOT_PERMITTED


class NoSuchProcessError(CorepipeError):
    """There is no such process, or it ended."""

    exit_code = ExitCode.NO_PROCESS


class SinkError(CorepipeError):
    """The pipe command or the reader of standard output failed."""

    exit_code = ExitCode.SINK_FAILED


class InterruptedDumpError(CorepipeError):
    """The user, or a signal, ended the dump; the target runs."""

    exit_code = ExitCode.INTERRUPTED


def in_words(error: Exception) -> CorepipeError:
    """Return the error as one that a user can use. It is raised on the way out, when the target runs again."""
    if isinstance(error, CorepipeError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return DumpFailedError("corepipe ran out of memory; the target runs", "--mode direct needs the least")
    if number in (errno.EMFILE, errno.ENFILE):
        return DumpFailedError("corepipe may open no more files; the target runs", "ulimit -n 1024   # then again")
    if number == errno.EAGAIN or (isinstance(error, RuntimeError) and "start new thread" in str(error)):
        return DumpFailedError(
            "corepipe may start no more threads or processes; the target runs",
            "ulimit -u; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/pids.max   # the limits",
        )
    return DumpFailedError(
        f"internal error: {type(error).__name__}: {error}; the target runs",
        "the same with -v, which shows where, and report it",
    )
