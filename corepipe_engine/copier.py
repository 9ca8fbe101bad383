"""Copying memory of a target that stands still into RAM, as fast as it goes."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from array import array
from collections.abc import Sequence
from typing import Final

from .capture import Context
from .errors import DumpFailedError, ModeUnavailableError
from .freeze import Freeze
from .memory import IOV_MAX, Buffer, ProcessMemory
from .procfs import ProcDir

_MAX_READERS: Final = 4
_SLICE_BYTES: Final = 16 << 20
_PATIENCE_SECONDS: Final = 1.0
_MADV_POPULATE_WRITE: Final = 23


def populated_buffer(size: int) -> Buffer:
    """Return a buffer whose pages are there already, so that writing to it inside a stop costs no page faults.

    Errors: ModeUnavailableError where the address space is not to be had.
    """
    store = new_buffer(size)
    with contextlib.suppress(OSError, ValueError):
        store.advise(mmap.MADV_HUGEPAGE)
    with contextlib.suppress(OSError, ValueError):  # before Linux 5.14 the pages come when they are written
        store.advise(_MADV_POPULATE_WRITE)
    return store


def new_buffer(size: int) -> Buffer:
    """Return a buffer. Errors: ModeUnavailableError."""
    try:
        return Buffer(size)
    except (OSError, ValueError, OverflowError) as error:
        raise ModeUnavailableError(f"cannot get {size} bytes of memory for a copy: {error}") from error


_Slice = tuple["array[int]", "array[int]"]


def _slices(ranges: array[int]) -> list[_Slice]:
    """Cut ranges into portions for one call each: (address, length, ...) and the places (offset, length, ...)."""
    portions: list[_Slice] = []
    reads, places = array("Q"), array("Q")
    held = offset = 0
    for index in range(0, len(ranges), 2):
        address, left = ranges[index], ranges[index + 1]
        while left:
            step = min(left, _SLICE_BYTES - held)
            reads.extend((address, step))
            places.extend((offset, step))
            address, left, offset, held = address + step, left - step, offset + step, held + step
            if held == _SLICE_BYTES or len(reads) == 2 * IOV_MAX:
                portions.append((reads, places))
                reads, places = array("Q"), array("Q")
                held = 0
    if reads:
        portions.append((reads, places))
    return portions


def _readers() -> int:
    """Return how many threads copy: one does so at 0.4 of memcpy's speed, and the target's processors stand idle."""
    return min(max(len(os.sched_getaffinity(0)), 2), _MAX_READERS)


class _Copier:
    """Copies portions of a stopped target into one buffer, with a few threads."""

    def __init__(self, task: ProcDir, store: Buffer, portions: list[_Slice], unpinned: Sequence[int]) -> None:
        self._task = task
        self._store = store
        self._portions = portions
        self._unpinned = unpinned
        self._lock = threading.Lock()
        self.unreadable: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self.cancelled = False

    def run(self) -> None:
        """Take portions until there are none."""
        try:
            memory = ProcessMemory(self._task, unpinned=self._unpinned)
            try:
                while not self.cancelled:
                    with self._lock:
                        if not self._portions:
                            break
                        reads, places = self._portions.pop()
                    memory.read(reads, self._store, places)
            finally:
                memory.close()
                with self._lock:
                    self.unreadable += memory.unreadable
        except BaseException as error:
            self.error = error
            self.cancelled = True


def copy_ranges(
    context: Context, freeze: Freeze, task: ProcDir, ranges: array[int], store: Buffer, unpinned: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Copy ranges (address, length, ...) one after the other into store; return what could not be read.

    unpinned: see ProcessMemory.

    On an error the target is let go before anything else is waited for, and a copying thread that is stuck (a page
    that nobody serves) keeps the buffer. Errors: StopDeadlineError, InterruptedDumpError, NoSuchProcessError,
    DumpFailedError.
    """
    portions = _slices(ranges)
    portions.reverse()
    copier = _Copier(task, store, portions, unpinned)
    threads: list[threading.Thread] = []
    try:
        for _ in range(min(_readers(), len(portions))):
            thread = threading.Thread(target=copier.run, name="copier", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not threads:
                    raise DumpFailedError("cannot start a thread to copy memory with", "ulimit -u") from error
                break
            threads.append(thread)
        for thread in threads:
            while thread.is_alive():
                thread.join(0.02)
                freeze.check_alive()
                freeze.check_deadline()
                context.interrupts.check()
        freeze.check_deadline()
        if copier.error is not None:
            raise copier.error
    except BaseException:
        copier.cancelled = True
        freeze.release()
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)
        if any(thread.is_alive() for thread in threads):
            store.leak()
        raise
    return sorted(copier.unreadable)
