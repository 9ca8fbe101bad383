"""Readers of another process's memory.

process_vm_readv is two to three times as fast as /proc/PID/mem, but stops at a page it may not read and is forbidden
in some containers; /proc/PID/mem then serves, page by page. What neither can read is zero-filled and counted.
Sources: process_vm_readv(2), mm/process_vm_access.c, proc_pid_mem(5).
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import mmap
import os
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from .errors import NoSuchProcessError
from .procfs import PAGE_SIZE, ProcDir, translate_error

IOV_MAX = 1024
_libc = ctypes.CDLL(None, use_errno=True)
_GONE = (errno.ESRCH, errno.ENOENT)
_FORBIDDEN = (errno.ENOSYS, errno.EPERM, errno.EACCES)

VmReadv = Callable[[int, int, int, int, int, int], int]
"""process_vm_readv(pid, local, local_count, remote, remote_count, flags); -1 and errno in ctypes.get_errno()."""


def _vm_readv() -> VmReadv | None:
    function = getattr(_libc, "process_vm_readv", None)
    if function is None:
        return None
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
    function.restype = ctypes.c_ssize_t
    result: VmReadv = function
    return result


_LEAKED: list[Buffer] = []


class Buffer:
    """Page-aligned anonymous memory of our own with its address. View and address are valid until close()."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.view = memoryview(self._map)

    def zero(self, offset: int, length: int) -> None:
        """Fill a part with zeros."""
        ctypes.memset(self.address + offset, 0, length)

    def advise(self, advice: int) -> None:
        """madvise(2) for the whole buffer; OSError as it comes."""
        self._map.madvise(advice)

    def leak(self) -> None:
        """Never give the memory back: a thread that cannot be ended may still write to it."""
        _LEAKED.append(self)

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        if self in _LEAKED:
            return
        self.view.release()
        self._anchor = None
        self._map.close()


class MemoryReader(Protocol):
    """What the stream reads from. Not thread-safe: one reader thread uses one reader."""

    @property
    def unreadable(self) -> list[tuple[int, int]]:
        """Ranges (address, length) that could not be read, so far."""

    def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
        """Read ranges (address, length, address, length, ...) to places (offset, length, ...) in the buffer.

        What cannot be read is zero-filled and noted in unreadable as (address, length). Errors: NoSuchProcessError
        when the address space is gone.
        """

    def close(self) -> None:
        """Give back what the reader holds."""


class ProcessMemory:
    """Reads the memory of a process, or of one of its threads when the leader has exited.

    pinned=False reads through /proc/PID/mem alone. process_vm_readv pins the pages it reads, and to pin a page that a
    fork shares the kernel copies it first (mm/gup.c, gup_must_unshare): a snapshot would double as it is read, and so
    would a target with the pages it has in common with its parent or children. unpinned (start, end, ...; ascending):
    where such pages are. A range to be read lies in one of them, or in none.
    """

    def __init__(
        self,
        process: ProcDir,
        task_id: int | None = None,
        vm_readv: VmReadv | None = None,
        pinned: bool = True,
        unpinned: Sequence[int] = (),
    ) -> None:
        self._pid = process.pid
        self._task_id = task_id or process.task_id
        self._vm_readv = (vm_readv or _vm_readv()) if pinned else None
        self._unpinned = unpinned if self._vm_readv is not None else ()
        self.unreadable: list[tuple[int, int]] = []
        try:
            self._mem_fd = process.open("mem")
        except OSError as error:
            raise translate_error(error, process.pid, "mem") from error

    def close(self) -> None:
        """Close /proc/PID/mem; a second call does nothing."""
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
            self._mem_fd = -1

    def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
        """See MemoryReader.read."""
        local = array("Q", places)
        for index in range(0, len(local), 2):
            local[index] += buffer.address
        count = len(ranges) // 2
        position = 0
        while position < count:
            stretch = self._to_pin(ranges, position, min(count - position, IOV_MAX))
            if stretch:
                position += self._read_some(ranges, local, position, stretch)
            else:
                self._read_pages(ranges[2 * position], ranges[2 * position + 1], local[2 * position], pinned=False)
                position += 1

    def _to_pin(self, ranges: array[int], first: int, count: int) -> int:
        """Return how many of the ranges from the first-th on may be read with their pages pinned."""
        if not self._unpinned:
            return count
        for index in range(first, first + count):
            if bisect.bisect_right(self._unpinned, ranges[2 * index]) % 2:
                return index - first
        return count

    def _read_some(self, ranges: array[int], local: array[int], first: int, count: int) -> int:
        """Read from the first-th range on; return how many ranges are done (with the damaged one, if there was one)."""
        done = self._call(ranges, local, first, count)
        index = first
        while index < first + count and done >= ranges[2 * index + 1]:
            done -= ranges[2 * index + 1]
            index += 1
        if index == first + count:
            return count
        self._read_pages(ranges[2 * index] + done, ranges[2 * index + 1] - done, local[2 * index] + done)
        return index - first + 1

    def _call(self, ranges: array[int], local: array[int], first: int, count: int) -> int:
        """Return the bytes that process_vm_readv could read, 0 when it can read nothing or is forbidden."""
        if self._vm_readv is None:
            return 0
        offset = first * 16
        local_address, _ = local.buffer_info()
        remote_address, _ = ranges.buffer_info()
        while True:
            result = self._vm_readv(self._task_id, local_address + offset, count, remote_address + offset, count, 0)
            if result >= 0:
                return result
            number = ctypes.get_errno()
            if number in _FORBIDDEN:
                self._vm_readv = None
                return 0
            if number in _GONE:
                raise NoSuchProcessError(f"process {self._pid} ended while its memory was read")
            if number != errno.EINTR:
                return 0

    def _read_pages(self, address: int, length: int, local: int, pinned: bool = True) -> None:
        """Read one range through /proc/PID/mem; page by page where it is broken."""
        end = address + length
        while address < end:
            target = (ctypes.c_char * (end - address)).from_address(local)
            done = self._pread(memoryview(target).cast("B"), address)
            if not done:
                done = min(PAGE_SIZE - address % PAGE_SIZE, end - address)
                ctypes.memset(local, 0, done)
                self._note_unreadable(address, done)
            address += done
            local += done
            if address < end and pinned and self._vm_readv is not None:  # behind it the fast way may serve again
                pair = array("Q", (address, end - address)), array("Q", (local, end - address))
                done = self._call(*pair, 0, 1)
                address += done
                local += done

    def _pread(self, view: memoryview, address: int) -> int:
        """Return how many bytes /proc/PID/mem gave at the address; 0 for an unreadable page."""
        try:
            done = os.preadv(self._mem_fd, [view], address)
        except OSError as error:
            if error.errno in _GONE:
                raise NoSuchProcessError(f"process {self._pid} ended while its memory was read") from error
            return 0
        except OverflowError:  # an address beyond off_t, such as the vsyscall page
            return self._pread_high(view, address)
        if not done and len(view):
            raise NoSuchProcessError(f"process {self._pid} ended while its memory was read")
        return done

    def _pread_high(self, view: memoryview, address: int) -> int:
        """As _pread for addresses in the upper half: off_t takes them only as negative numbers, and only to seek."""
        _libc.lseek.restype = ctypes.c_int64
        position = ctypes.c_int64(ctypes.c_uint64(address).value)
        if _libc.lseek(self._mem_fd, position, os.SEEK_SET) != position.value:
            return 0
        try:
            return os.readv(self._mem_fd, [view])
        except OSError:
            return 0

    def _note_unreadable(self, address: int, length: int) -> None:
        if self.unreadable and sum(self.unreadable[-1]) == address:
            start, before = self.unreadable[-1]
            self.unreadable[-1] = (start, before + length)
        else:
            self.unreadable.append((address, length))


class CopiedMemory:
    """Bytes that were copied into RAM: the buffer mode's reader, and part of the snapshot's.

    ranges: pairs (address, length), ascending; buffer holds them one after the other.
    """

    def __init__(self, ranges: array[int], buffer: Buffer) -> None:
        self._starts = ranges[::2]
        self._lengths = ranges[1::2]
        offsets = array("Q")
        total = 0
        for length in self._lengths:
            offsets.append(total)
            total += length
        self._offsets = offsets
        self._buffer = buffer
        self._lock = threading.Lock()
        self._closed = False
        self.unreadable: list[tuple[int, int]] = []

    def close(self) -> None:
        """Give the memory back; waits for a read in another thread to end."""
        with self._lock:
            self._closed = True
            self._buffer.close()

    def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
        """See MemoryReader.read. Every range must lie in one that was copied: LookupError else, and once closed."""
        with self._lock:
            if self._closed:
                raise LookupError("the copy is closed")
            for index in range(0, len(ranges), 2):
                address, length = ranges[index], ranges[index + 1]
                at = bisect.bisect_right(self._starts, address) - 1
                if at < 0 or address + length > self._starts[at] + self._lengths[at]:
                    raise LookupError(f"{address:#x} was not copied")
                source = self._buffer.address + self._offsets[at] + address - self._starts[at]
                ctypes.memmove(buffer.address + places[index], source, length)
