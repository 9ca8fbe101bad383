"""Where the stream goes: an open file descriptor, or a shell command.

The command runs under bash with pipefail where there is one, so that a failing first stage of 'zstd | ssh ...' is
not hidden by a last stage that ends well; else under sh, with pipefail where it knows that (busybox, newer dash).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import select
import signal
import stat
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .errors import SinkError, UsageError

PIPE_BYTES = 1 << 20
_STDERR_TAIL = 8192
_KILL_GRACE_SECONDS = 2.0
_LEAVE_SECONDS = 1.0
_DUMP_UMASK = 0o077
_SHELL_FOLDERS = "/bin:/usr/bin"
_SH = "/bin/sh"


@dataclass(frozen=True, slots=True)
class Invoker:
    """The user who called sudo: the pipe command runs as him."""

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...]


def sudo_invoker() -> Invoker | None:
    """Return who called sudo, None when nobody did or we are not root. UsageError for a SUDO_UID that is no user."""
    text = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not text or text == "0":
        return None
    try:
        entry = pwd.getpwuid(int(text))
    except (ValueError, KeyError) as error:
        raise UsageError(f"SUDO_UID={text} is no user of this host", "--pipe-as-root") from error
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Invoker(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, groups)


class Sink(Protocol):
    """The far end of the stream."""

    fd: int
    """Where to write."""
    command: str
    """The shell command, empty for a file descriptor."""
    status: int | None
    """Exit status of the command as the shell gives it, None before its end or without one."""
    stderr_fd: int
    """What the command prints, to be passed to take_stderr when it is readable; -1 without one or at its end."""

    def take_stderr(self) -> str:
        """Read what the command printed and keep its tail; returns the new text."""

    def stderr_tail(self) -> str:
        """Return the last of what the command printed."""

    def drained(self) -> bool:
        """Return whether the far end has taken all that was written. SinkError if it went away and left some of it."""

    def close(self) -> None:
        """Tell the far end that the stream is whole."""

    def poll(self) -> bool:
        """Return whether the far end is done."""

    def abort(self) -> None:
        """End the far end without letting it believe that the stream was whole."""


def set_pipe_size(fd: int) -> None:
    """Make a pipe as large as the limit for users allows; nothing for what is no pipe."""
    f_setpipe_sz = getattr(fcntl, "F_SETPIPE_SZ", 1031)
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            fcntl.fcntl(fd, f_setpipe_sz, PIPE_BYTES)


def unread_bytes(fd: int) -> int:
    """Return how many bytes a pipe holds that nobody has read; 0 for what is no pipe."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return 0
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return count


def _reader_gone(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, 0)
    return any(event & select.POLLERR for _, event in poller.poll(0))


def _drained(fd: int, command: str, ended: bool) -> bool:
    """See Sink.drained; ended: the command has ended, and what it left nobody will read."""
    gone = ended or _reader_gone(fd)  # asked first: the last byte may be taken, and the reader end, right after
    if not unread_bytes(fd):
        return True
    if gone:
        raise write_error(OSError(errno.EPIPE, os.strerror(errno.EPIPE)), command)
    return False


class FdSink:
    """Standard output, or another descriptor that is open already."""

    command = ""
    status: int | None = None
    stderr_fd = -1

    def __init__(self, fd: int) -> None:
        if os.isatty(fd):
            raise UsageError(
                "standard output is a terminal; a core is binary",
                "corepipe PID > core   # or: --pipe 'zstd > core.zst'",
            )
        self.fd = fd
        set_pipe_size(fd)

    def take_stderr(self) -> str:
        """Nothing: no command."""
        return ""

    def stderr_tail(self) -> str:
        """Nothing: no command."""
        return ""

    def drained(self) -> bool:
        """See Sink.drained."""
        return _drained(self.fd, "", ended=False)

    def close(self) -> None:
        """Close the descriptor; a file system may report a write error only now (SinkError)."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            try:
                os.close(fd)
            except OSError as error:
                raise SinkError(f"cannot write the core: {error.strerror}") from error

    def poll(self) -> bool:
        """Done as soon as it is closed."""
        return True

    def abort(self) -> None:
        """Close the descriptor."""
        with contextlib.suppress(SinkError):
            self.close()


class CommandSink:
    """A shell command that reads the stream on its standard input. Errors on start: SinkError, UsageError."""

    def __init__(self, command: str, invoker: Invoker | None) -> None:
        import subprocess

        self.command = command
        self.status: int | None = None
        self._tail = b""
        shell = _shell()
        check_syntax(command, shell[0])
        read_end, write_end = os.pipe()
        stderr_read, stderr_write = os.pipe()
        if invoker is not None:  # or it could not open /dev/stdin and /dev/stderr, which lead to these pipes
            for fd in (read_end, stderr_write):
                with contextlib.suppress(OSError):
                    os.fchown(fd, invoker.uid, invoker.gid)
        try:
            self._process = subprocess.Popen(
                [*shell, "-c", command],
                stdin=read_end,
                stderr=stderr_write,
                env=_environment(invoker),
                umask=_DUMP_UMASK,
                user=invoker.uid if invoker else None,
                group=invoker.gid if invoker else None,
                extra_groups=invoker.groups if invoker else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            for fd in (write_end, stderr_read):
                os.close(fd)
            raise SinkError(f"cannot start the pipe command: {error}") from error
        finally:
            os.close(read_end)
            os.close(stderr_write)
        self.fd = write_end
        self.stderr_fd = stderr_read
        os.set_blocking(stderr_read, False)
        set_pipe_size(write_end)

    def take_stderr(self) -> str:
        """See Sink.take_stderr."""
        if self.stderr_fd < 0:
            return ""
        try:
            data = os.read(self.stderr_fd, 65536)
        except BlockingIOError:
            return ""
        if not data:
            os.close(self.stderr_fd)
            self.stderr_fd = -1
        self._tail = (self._tail + data)[-_STDERR_TAIL:]
        return data.decode("utf-8", "replace")

    def stderr_tail(self) -> str:
        """See Sink.stderr_tail."""
        return self._tail.decode("utf-8", "replace")

    def drained(self) -> bool:
        """See Sink.drained."""
        return _drained(self.fd, self.command, self.poll())

    def close(self) -> None:
        """See Sink.close."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def poll(self) -> bool:
        """See Sink.poll."""
        code = self._process.poll()
        if code is None:
            return False
        self.status = code if code >= 0 else 128 - code
        return True

    def abort(self) -> None:
        """Terminate the command with all its stages, by force after two seconds; the pipe is closed last.

        A stage that outlives the shell is waited for as well: it must not take the closed pipe for the end of a whole
        core. One that we may not kill is left after three seconds.
        """
        stages: dict[int, int] = {}  # pid -> pidfd of what has not ended yet
        begun = time.monotonic()
        try:
            while not self.poll() or stages:
                _note_stages(self._process.pid, stages)
                waited = time.monotonic() - begun
                number = signal.SIGTERM if waited < _KILL_GRACE_SECONDS else signal.SIGKILL
                if self.status is None:
                    self._process.send_signal(number)
                for pidfd in reversed(stages.values()):  # a shell before what it waits for: it must not go on after it
                    with contextlib.suppress(OSError):
                        signal.pidfd_send_signal(pidfd, number)
                if self.status is not None and waited >= _KILL_GRACE_SECONDS + _LEAVE_SECONDS:
                    break
                _forget_ended(stages, 0.01)
        finally:
            for pidfd in stages.values():
                os.close(pidfd)
        self.close()


def _shell() -> list[str]:
    """Return the shell that runs the command, with the options that make it tell of every stage that fails."""
    import shutil
    import subprocess

    bash = shutil.which("bash", path=_SHELL_FOLDERS)
    if bash:
        return [bash, "-o", "pipefail"]
    pipefail = [_SH, "-o", "pipefail"]
    null = subprocess.DEVNULL
    probe = subprocess.run([*pipefail, "-c", ":"], stdin=null, stdout=null, stderr=null, check=False)
    return [_SH] if probe.returncode else pipefail


def check_syntax(command: str, shell: str = "/bin/sh") -> None:
    """Raise UsageError where the shell cannot parse the command. Runs nothing of it."""
    if not command.strip():
        raise UsageError("the pipe command is empty", "--pipe 'zstd > core.zst'")
    if "\0" in command:
        raise UsageError("the pipe command holds a NUL byte")
    import subprocess

    result = subprocess.run(
        [shell, "-n", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if result.returncode > 0:  # below: it was killed, which tells nothing of the command
        reason = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UsageError(f"the shell cannot parse the pipe command: {reason[0] if reason else command}")


def _environment(invoker: Invoker | None) -> dict[str, str]:
    environment = dict(os.environ)
    if invoker is None:
        return environment
    environment.update(HOME=invoker.home, USER=invoker.name, LOGNAME=invoker.name)
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"):
        environment.pop(name, None)
    return environment


def _descendants(pid: int) -> Iterator[int]:
    """Yield all processes below pid, deepest first."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return
    for child in children:
        yield from _descendants(child)
        yield child


def _note_stages(pid: int, stages: dict[int, int]) -> None:
    """Add the processes below pid that are not in stages yet."""
    for stage in _descendants(pid):
        if stage not in stages:
            with contextlib.suppress(OSError):
                stages[stage] = os.pidfd_open(stage)


def _forget_ended(stages: dict[int, int], seconds: float) -> None:
    """Wait a moment, then drop the processes that have ended."""
    time.sleep(seconds)
    for pid, pidfd in list(stages.items()):
        if select.select([pidfd], [], [], 0)[0]:
            os.close(pidfd)
            del stages[pid]


def describe_status(status: int) -> str:
    """Return what an exit status of the shell means, in words."""
    if status == 127:
        return "command not found (status 127)"
    if status == 126:
        return "not executable (status 126)"
    if status > 128:
        try:
            return f"killed by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"exit status {status}"


def write_error(error: OSError, command: str) -> SinkError:
    """Return the SinkError for a failed write."""
    if error.errno == errno.EPIPE:
        who = "the pipe command" if command else "the reader of standard output"
        return SinkError(
            f"{who} closed the pipe before the end of the core", "see what it printed; try: | cat >/dev/null"
        )
    if error.errno == errno.ENOSPC:
        return SinkError("no space left where the core is written", "df -h .   # or compress: --pipe 'zstd > core.zst'")
    return SinkError(f"cannot write the core: {error.strerror}")
