"""Which pages of a mapping were ever touched: PAGEMAP_SCAN, and /proc/PID/pagemap where that is missing.

Sources: Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h (struct pm_scan_arg).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from array import array
from collections.abc import Iterable, Iterator

from .procfs import PAGE_SIZE, ProcDir, translate_error
from .regions import Region

PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("<12Q")
_PAGE_REGION = struct.Struct("<3Q")
_VECTOR_LENGTH = 4096
_PRESENT, _SWAPPED, _GUARD = 1 << 3, 1 << 4, 1 << 8
_UNSUPPORTED = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_SLICE_BYTES = 1 << 20
SMALL = 1 << 20
"""Bytes of address space without pages that are walked in passing rather than in a call of their own."""
_MAX_GAP_BYTES = 16 << 20
"""Of unmapped memory: its page map takes as long to read as a call does."""

# Of each 8-byte pagemap entry the last byte holds bits 56 to 63: 63 present, 62 swapped, 58 guard page.
_TOUCHED_BYTE = bytes(1 if byte & 0xC0 and not byte & 0x04 else 0 for byte in range(256))
_TOUCHED_RUN = re.compile(rb"\x01+")


def scan_spans(regions: Iterable[Region], wanted: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) address ranges that hold the wanted regions; few, for few calls.

    The others they hold have no pages, and are small: guard pages, which take turns with what they guard. They are cut
    at gaps that it would take long to read the page map of: PAGEMAP_SCAN passes over them, but before Linux 6.7 the
    85 TiB between a heap and the mappings above it are 170 GiB of entries.
    """
    start = end = -1
    for region, want in zip(regions, wanted, strict=True):
        passed = want or not (region.rss or region.swap or region.hugetlb or region.size > SMALL)
        if start >= 0 and (not passed or region.start - end > _MAX_GAP_BYTES):
            yield start, end
            start = -1
        if want:
            if start < 0:
                start = region.start
            end = region.end
    if start >= 0:
        yield start, end


def shmem_data_runs(process: ProcDir, region: Region) -> array[int] | None:
    """Return start, end, ... (addresses) of what a mapping of a tmpfs file, memfd or SysV segment holds.

    What lies between was never written and is zeros; reading it through the mapping would allocate it, for good. None
    where it cannot be told: without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, or on a file system that cannot seek so.
    """
    try:
        fd = process.open(f"map_files/{region.start:x}-{region.end:x}")
    except OSError:
        return None
    try:
        runs: array[int] = array("Q")
        shift = region.start - region.offset
        position, end = region.offset, region.offset + region.size
        while position < end:
            try:
                data = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole to the end
                    break
                return None
            if data >= end:
                break
            hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
            if data < position or hole <= data:
                return None
            first, last = data // PAGE_SIZE * PAGE_SIZE, (hole + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
            _append(runs, max(first, region.offset) + shift, min(last, end) + shift)
            position = hole
        return runs
    except OSError:
        return None
    finally:
        os.close(fd)


class Pagemap:
    """Touched ranges of one address space.

    use_scan=False takes the slower way that kernels before 6.7 need.
    """

    def __init__(self, process: ProcDir, use_scan: bool = True) -> None:
        self._pid = process.pid
        self._use_scan = use_scan
        self._guard = _GUARD
        self._vector = array("Q", bytes(_VECTOR_LENGTH * _PAGE_REGION.size))
        try:
            self._fd = process.open("pagemap")
        except OSError as error:
            raise translate_error(error, process.pid, "pagemap") from error

    def close(self) -> None:
        """Close the pagemap file."""
        os.close(self._fd)

    def touched_runs(self, spans: Iterable[tuple[int, int]]) -> array[int]:
        """Return start, end, start, end, ... of pages that are present or swapped out, guard pages left out.

        Runs ascend and do not touch each other. Errors: NoSuchProcessError, NotPermittedError, DumpFailedError.
        """
        runs: array[int] = array("Q")
        try:
            for start, end in spans:
                self._scan_span(start, end, runs)
        except OSError as error:
            raise translate_error(error, self._pid, "pagemap") from error
        return runs

    def _scan_span(self, start: int, end: int, runs: array[int]) -> None:
        while self._use_scan:
            try:
                self._scan(start, end, runs)
                return
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                if self._guard and error.errno == errno.EINVAL:
                    self._guard = 0  # a kernel that does not tell guard pages apart yet
                else:
                    self._use_scan = False
        self._read(start, end, runs)

    def _scan(self, start: int, end: int, runs: array[int]) -> None:
        vector = self._vector
        address, _ = vector.buffer_info()
        while start < end:
            argument = bytearray(
                _SCAN_ARG.pack(
                    _SCAN_ARG.size,
                    0,
                    start,
                    end,
                    0,
                    address,
                    _VECTOR_LENGTH,
                    0,
                    self._guard,
                    self._guard,
                    _PRESENT | _SWAPPED,
                    _PRESENT,
                )
            )
            found = fcntl.ioctl(self._fd, PAGEMAP_SCAN, argument)
            for index in range(0, found * 3, 3):
                _append(runs, vector[index], vector[index + 1])
            # Only a full vector ends the walk early. Else all was walked, whatever walk_end says: the kernel walks in
            # steps of 512 regions, and leaves there the end of the last full one (fs/proc/task_mmu.c do_pagemap_scan).
            if found < _VECTOR_LENGTH:
                break
            start = max(_SCAN_ARG.unpack(argument)[4], vector[3 * found - 2])

    def _read(self, start: int, end: int, runs: array[int]) -> None:
        entry = 8
        position = start // PAGE_SIZE * entry
        last = end // PAGE_SIZE * entry
        while position < last:
            data = os.pread(self._fd, min(_SLICE_BYTES, last - position), position)
            if not data:
                break
            base = position // entry * PAGE_SIZE
            for match in _TOUCHED_RUN.finditer(data[entry - 1 :: entry].translate(_TOUCHED_BYTE)):
                _append(runs, base + match.start() * PAGE_SIZE, base + match.end() * PAGE_SIZE)
            position += len(data)


def _append(runs: array[int], start: int, end: int) -> None:
    if runs and runs[-1] == start:
        runs[-1] = end
    else:
        runs.append(start)
        runs.append(end)


@contextlib.contextmanager
def open_pagemap(process: ProcDir, use_scan: bool = True) -> Iterator[Pagemap]:
    """Open the pagemap of a process for a while."""
    pagemap = Pagemap(process, use_scan)
    try:
        yield pagemap
    finally:
        pagemap.close()
