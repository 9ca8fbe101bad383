"""Registers of stopped threads: read in the stop as fast as it goes, worked out afterwards.

The kernel writes them into memory that was made, and touched, before the stop; nothing is copied or parsed inside it.
Source: ptrace(2), PTRACE_GETREGSET.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from dataclasses import dataclass

from . import ptrace
from .arch import Arch, Regset

_ALIGNMENT = 64
_LARGEST_SET = 1 << 17
"""No register set is larger: SVE at its architectural limit has 65 KiB."""
_POPULATE = getattr(mmap, "MAP_POPULATE", 0x8000)
_ABSENT = (errno.EINVAL, errno.ENODEV, errno.EIO)


@dataclass(slots=True)
class ThreadRegisters:
    """What was read of one thread: general registers, other sets as (note type, bytes), signals as 64-bit masks."""

    tid: int
    general: bytes
    sets: list[tuple[int, memoryview]]
    signals_pending: int = 0
    signals_blocked: int = 0


class _Chunk:
    """Anonymous memory whose pages are there already when the kernel writes to it."""

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _POPULATE)
        self.view = memoryview(memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.size = size
        self.used = 0


class RegisterReader:
    """Reads one thread after the other. Which sets this machine's threads have is learned from the first of them."""

    def __init__(self, arch: Arch, threads: int) -> None:
        self._arch = arch
        a_thread = sum(arch.expected_regset_size(regset) + _ALIGNMENT for regset in arch.regsets)
        self._chunk = _Chunk(threads * a_thread + 2 * _LARGEST_SET)
        self._wanted: tuple[int, ...] = ()

    def read(self, tid: int) -> ThreadRegisters:
        """Return a thread's registers. OSError as ptrace gives it; LookupError where a set is missing that must be."""
        general = ptrace.get_regset(tid, ptrace.NT_PRSTATUS)
        sets = []
        for note_type in self._wanted:
            found = self._read_set(tid, note_type)
            if found is None:
                break
            sets.append((note_type, found))
        if not sets or len(sets) != len(self._wanted):
            sets = self._learn(tid)
        return ThreadRegisters(tid, general, sets)

    def regsets(self, registers: ThreadRegisters) -> tuple[tuple[Regset, bytes], ...]:
        """Return the sets of a thread as the machine's notes want them; the thread may run meanwhile."""
        found = dict(registers.sets)

        def get(note_type: int) -> bytes | None:
            return bytes(found[note_type]) if note_type in found else None

        return self._arch.read_regsets(get)

    def _learn(self, tid: int) -> list[tuple[int, memoryview]]:
        """Read what the machine asks for, and remember what that was."""
        sets = []

        def get(note_type: int) -> bytes | None:
            found = self._read_set(tid, note_type)
            if found is None:
                return None
            sets.append((note_type, found))
            return bytes(found)

        self._arch.read_regsets(get)
        self._wanted = tuple(note_type for note_type, _ in sets)
        return sets

    def _read_set(self, tid: int, note_type: int) -> memoryview | None:
        """Return a register set, None where this machine, or this thread, has none."""
        chunk = self._chunk
        if chunk.size - chunk.used < _LARGEST_SET:
            chunk = self._chunk = _Chunk(chunk.size)
        begin = chunk.used
        try:
            length = ptrace.get_regset_at(tid, note_type, chunk.address + begin, _LARGEST_SET)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return None
        chunk.used = (begin + length + _ALIGNMENT - 1) & -_ALIGNMENT
        return chunk.view[begin : begin + length]
