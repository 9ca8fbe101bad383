"""The notes of a core, one pure function each, in the kernel's order.

Sources: fs/binfmt_elf.c (fill_note_info, fill_prstatus, fill_psinfo, fill_files_note, write_note_info),
include/linux/elfcore.h, include/uapi/linux/elfcore.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .arch import Arch, ThreadState
from .elf import ElfFormat, NoteType, note_size, pack_note, round_up
from .regions import Region

CORE = b"CORE"
SIGINFO_SIZE = 128
_PSARGS_SIZE = 80
_FNAME_SIZE = 16
_STATES = "RSDTZW"
_OVERFLOW_ID = 65534
"""What stands for an id of more than 16 bits where there is room for no more (include/linux/highuid.h)."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """What NT_PRPSINFO and every NT_PRSTATUS tell of the process. Pids are as the target sees them; times in ticks.

    root: the target's root directory (chroot) as we see it; NT_FILE's paths begin there.
    """

    pid: int
    ppid: int
    pgrp: int
    sid: int
    uid: int
    gid: int
    state: str
    nice: int
    flags: int
    comm: bytes
    cmdline: bytes
    cutime_ticks: int = 0
    cstime_ticks: int = 0
    root: bytes = b"/"


@dataclass(frozen=True, slots=True)
class FileMapping:
    """One entry of NT_FILE: addresses in bytes, offset in bytes, path as the target sees it."""

    start: int
    end: int
    offset: int
    path: bytes


def file_mappings(regions: Iterable[Region], root: bytes = b"/") -> tuple[FileMapping, ...]:
    """Return the NT_FILE entries for the mappings that have a file; root is the directory that the target took for /.

    What lies outside of it keeps its name, as d_path() in fs/d_path.c has it.
    """
    inside = root + b"/"
    cut = len(root) if len(root) > 1 else 0

    def seen(path: bytes) -> bytes:
        return path[cut:] if cut and path.startswith(inside) else path

    return tuple(FileMapping(r.start, r.end, r.offset, seen(r.file_path)) for r in regions if r.file_backed)


def _timeval(ticks: int, word: str) -> bytes:
    seconds, rest = divmod(ticks, _TICKS)
    return struct.pack("<" + 2 * word, seconds, rest * 1_000_000 // _TICKS)


def prstatus(elf: ElfFormat, process: ProcessIdentity, thread: ThreadState) -> bytes:
    """NT_PRSTATUS: struct elf_prstatus, 336 bytes on x86-64. No signal is the cause: si_signo and pr_cursig are 0."""
    wide = elf.word.size == 8
    word = "Q" if wide else "I"
    mask = elf.max_address
    fixed = struct.pack("<iiihxx", 0, 0, 0, 0)
    fixed += struct.pack("<" + 2 * word, thread.signals_pending & mask, thread.signals_blocked & mask)
    fixed += struct.pack("<iiii", thread.namespace_tid, process.ppid, process.pgrp, process.sid)
    times = (thread.utime_ticks, thread.stime_ticks, process.cutime_ticks, process.cstime_ticks)
    fixed += b"".join(_timeval(ticks, word) for ticks in times)
    record = fixed + thread.general + struct.pack("<i", 1)
    return record + bytes(round_up(len(record), elf.word.size) - len(record))


def prpsinfo(arch: Arch, process: ProcessIdentity) -> bytes:
    """NT_PRPSINFO: struct elf_prpsinfo, 136 bytes on x86-64; 79 bytes of the command line with spaces for NULs."""
    arguments = process.cmdline[: _PSARGS_SIZE - 1].replace(b"\0", b" ")
    state = process.state if process.state in _STATES else "."
    index = _STATES.find(state)
    id_max = 0xFFFFFFFF if arch.elf.word.size == 8 else 0xFFFF
    return arch.prpsinfo.pack(
        max(index, 0),
        ord(state),
        int(state == "Z"),
        process.nice,
        process.flags & arch.elf.max_address,
        process.uid if process.uid <= id_max else _OVERFLOW_ID,
        process.gid if process.gid <= id_max else _OVERFLOW_ID,
        process.pid,
        process.ppid,
        process.pgrp,
        process.sid,
        process.comm[:_FNAME_SIZE],
        arguments,
    )


def siginfo() -> bytes:
    """NT_SIGINFO: si_signo 0, which readers take for a core on demand."""
    return bytes(SIGINFO_SIZE)


def file_note(elf: ElfFormat, mappings: Sequence[FileMapping], page_size: int) -> bytes:
    """NT_FILE: count, page size, then start, end and offset in pages of each mapping, then the paths."""
    word = elf.word
    numbers = [len(mappings), page_size]
    for mapping in mappings:
        numbers += (mapping.start, mapping.end, mapping.offset // page_size)
    layout = struct.Struct(f"<{len(numbers)}{'Q' if word.size == 8 else 'I'}")
    return layout.pack(*numbers) + b"".join(mapping.path + b"\0" for mapping in mappings)


def file_note_bytes(elf: ElfFormat, mappings: Sequence[FileMapping]) -> int:
    """Return the size of file_note's descriptor."""
    return elf.word.size * (2 + 3 * len(mappings)) + sum(len(mapping.path) + 1 for mapping in mappings)


def thread_registers(thread: ThreadState) -> bytes:
    """Return the notes of one thread that follow its NT_PRSTATUS."""
    return b"".join(pack_note(regset.owner, regset.note_type, data) for regset, data in thread.regsets)


def build_notes(
    arch: Arch,
    process: ProcessIdentity,
    threads: Sequence[ThreadState],
    auxv: bytes,
    mappings: Sequence[FileMapping],
    page_size: int,
) -> bytes:
    """Return all notes of the core; threads[0] becomes the reader's current thread. ValueError without a thread."""
    if not threads:
        raise ValueError("a core needs at least one thread")
    first, *others = threads
    notes = [
        pack_note(CORE, NoteType.PRSTATUS, prstatus(arch.elf, process, first)),
        pack_note(CORE, NoteType.PRPSINFO, prpsinfo(arch, process)),
        pack_note(CORE, NoteType.SIGINFO, siginfo()),
        pack_note(CORE, NoteType.AUXV, auxv),
    ]
    if mappings:
        notes.append(pack_note(CORE, NoteType.FILE, file_note(arch.elf, mappings, page_size)))
    notes.append(thread_registers(first))
    for thread in others:
        notes.append(pack_note(CORE, NoteType.PRSTATUS, prstatus(arch.elf, process, thread)))
        notes.append(thread_registers(thread))
    notes += [pack_note(owner, note_type, desc) for owner, note_type, desc in arch.process_notes(first)]
    return b"".join(notes)


def expected_notes_bytes(arch: Arch, threads: int, auxv_bytes: int, mappings: Sequence[FileMapping]) -> int:
    """Return the size that build_notes will give, without having seen a register."""
    elf = arch.elf
    general = ThreadState(0, 0, bytes(arch.general_size))
    identity = ProcessIdentity(0, 0, 0, 0, 0, 0, "S", 0, 0, b"", b"")
    thread_bytes = note_size(CORE, len(prstatus(elf, identity, general)))
    for regset in arch.regsets:
        size = arch.expected_regset_size(regset)
        if size:
            thread_bytes += note_size(regset.owner, size)
    total = threads * thread_bytes
    total += note_size(CORE, arch.prpsinfo.size) + note_size(CORE, SIGINFO_SIZE) + note_size(CORE, auxv_bytes)
    if mappings:
        total += note_size(CORE, file_note_bytes(elf, mappings))
    return total + sum(note_size(owner, size) for owner, _, size in arch.expected_process_notes())
