"""The snapshot puts its own pages into pipes, from which they are passed on into the sink: nobody copies them.

The snapshot, which never changes, is run through one vmsplice(2) after the other; the pipe then holds references to its
pages. They stay as they are whoever writes to them, also when the snapshot has ended: the kernel copies a page for a
writer while anybody else holds it. For single pages that is so since Linux 5.9 (mm/memory.c, do_wp_page), for huge
pages and those that come back from swap since 5.18 (mm/huge_memory.c, do_huge_pmd_wp_page, and do_swap_page): before,
only mappings counted. It takes ptrace calls, which only the thread that froze the target may make.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import struct
import time
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from . import ptrace
from .arch import Gadgets, Injection, SystemCall
from .elf import ElfFormat
from .errors import CorepipeError
from .freeze import StoppedThread
from .procfs import PAGE_SIZE, ProcDir
from .stepping import NotBegunError, StuckError, run_to_exit, sigchld_blocked

PIPES: Final = 2
"""One is emptied while the other is filled."""
PIPE_BYTES: Final = (4 << 20, 1 << 20)
"""What is asked for: the first takes two thirds of the processor time, and CAP_SYS_RESOURCE; see Sizes."""
_MIN_PIPE_BYTES: Final = 1 << 18
_MAX_RANGES: Final = 48
"""Of memory in one fill: the list of them lies in the snapshot's net, below the frame that it ends by."""
_PIDFD_GETFD: Final = 438
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_SPLICE_F_NONBLOCK = 2
"""Nothing of ours may wait for ever without us; an empty pipe takes it all."""
_SLOW_SECONDS: Final = 0.05
_PATIENCE: Final = 4
"""After so many slow fills in a row the snapshot, which gets no processor, is read instead."""
_FIRST_KERNEL: Final = (5, 18)
_libc = ctypes.CDLL(None, use_errno=True)


class SnapshotCalls:
    """Runs system calls in the snapshot, which sleeps in a ptrace stop in between."""

    def __init__(self, pid: int, injection: Injection, gadgets: Gadgets, general: bytes, stack: int) -> None:
        self.pid = pid
        self._injection = injection
        self._gadgets = gadgets
        self._general = general
        self._stack = stack

    def run(self, call: SystemCall, arguments: tuple[int, ...]) -> int:
        """Return what the call returned (-errno for an error). OSError where the snapshot did not run it."""
        registers = self._injection.registers_for(self._general, self._gadgets, call, arguments, self._stack)
        try:
            ptrace.set_regset(self.pid, ptrace.NT_PRSTATUS, registers)
            with sigchld_blocked():
                run_to_exit(StoppedThread(self.pid), on_signal=lambda: 0)  # SIGSTOP would hold it for ever without us
            return self._injection.result(ptrace.get_regset(self.pid, ptrace.NT_PRSTATUS))
        except (StuckError, NotBegunError) as error:
            raise OSError(f"the snapshot does not run {call.name.lower()}") from error


class PagePipes:
    """Pipes that the snapshot fills with its pages. fds: the ends to read from; size: bytes that fit into one.

    ranges: (start, end, ...), ascending: the memory that can be sent so. fill() is for the tracing thread alone.
    """

    def __init__(
        self,
        calls: SnapshotCalls,
        folder: ProcDir,
        pidfd: int,
        scratch: int,
        elf: ElfFormat,
        count: int = PIPES,
        wanted: Sequence[int] = PIPE_BYTES,
    ) -> None:
        self.fds: list[int] = []
        self.size = 0
        self.ranges: array[int] = array("Q")
        self.usable = True
        self._calls = calls
        self._folder = folder
        self._scratch = scratch
        self._iovec = struct.Struct("<" + 2 * elf.word.format.lstrip("<"))
        self._ends: list[int] = []
        self._slow = 0
        self._mem_fd = folder.open("mem", os.O_RDWR)
        try:
            sizes = [self._open_pipe(pidfd, wanted) for _ in range(count)]
            self.size = min(sizes)
            if self.size < _MIN_PIPE_BYTES:
                raise OSError("the pipes are too small")
        except BaseException:
            self.close()
            raise

    def _open_pipe(self, pidfd: int, wanted: Sequence[int]) -> int:
        """Let the snapshot make a pipe, and take the end to read from; return how many bytes it holds."""
        result = self._calls.run(SystemCall.PIPE2, (self._scratch, os.O_CLOEXEC))
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        read_end, write_end = struct.unpack("<ii", os.pread(self._mem_fd, 8, self._scratch))
        fd = _libc.syscall(_PIDFD_GETFD, pidfd, read_end, 0)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.fds.append(fd)
        self._ends.append(write_end)
        for wanted_bytes in wanted:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _F_SETPIPE_SZ, wanted_bytes)
                break
        size: int = fcntl.fcntl(fd, _F_GETPIPE_SZ)
        return size

    def fill(self, slot: int, ranges: array[int]) -> int:
        """Put ranges (address, length, ...), `size` bytes at the most, into an empty pipe; return how many bytes went.

        Fewer than all, down to none, where a page could not be read: it, and what follows, must be read another way.
        Errors: NoSuchProcessError when the snapshot is gone.
        """
        count = len(ranges) // 2
        if count > _MAX_RANGES:
            return 0
        begun = time.monotonic()
        try:
            os.pwrite(self._mem_fd, b"".join(map(self._iovec.pack, ranges[::2], ranges[1::2])), self._scratch)
            result = self._calls.run(SystemCall.VMSPLICE, (self._ends[slot], self._scratch, count, _SPLICE_F_NONBLOCK))
        except OSError:
            self._folder.stat()  # raises if it is gone
            self.usable = False
            return 0
        self._slow = self._slow + 1 if time.monotonic() - begun > _SLOW_SECONDS else 0
        self.usable = self._slow < _PATIENCE
        return max(result, 0)

    def leak(self) -> None:
        """Keep the pipes until this process ends: a thread is stuck with one of them."""
        self.fds = []

    def close(self) -> None:
        """Give back what we hold of it; a second call does nothing."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
            self._mem_fd = -1


def open_pipes(calls: SnapshotCalls, folder: ProcDir, pidfd: int, scratch: int, elf: ElfFormat) -> PagePipes | None:
    """Return pipes that the snapshot can fill, None where that cannot be had; its memory is then read instead."""
    if not hasattr(os, "splice") or kernel_version() < _FIRST_KERNEL:
        return None
    try:
        return PagePipes(calls, folder, pidfd, scratch, elf)
    except (OSError, CorepipeError):
        return None


def kernel_version() -> tuple[int, ...]:
    """Return the first two numbers of the kernel's release; (0, 0) if it has none."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def without(ranges: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]) -> array[int]:
    """Return ranges (start, end), ascending, as a flat array, joined where they touch, less the pages of holes."""
    result: array[int] = array("Q")
    cuts = sorted((start // PAGE_SIZE * PAGE_SIZE, -(-end // PAGE_SIZE) * PAGE_SIZE) for start, end in holes)
    for start, end in ranges:
        for low, high in cuts:
            if low < end and high > start:
                if low > start:
                    _add(result, start, low)
                start = min(max(high, start), end)
        if start < end:
            _add(result, start, end)
    return result


def _add(ranges: array[int], start: int, end: int) -> None:
    if ranges and ranges[-1] == start:
        ranges[-1] = end
    else:
        ranges.extend((start, end))
