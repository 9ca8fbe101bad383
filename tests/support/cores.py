"""Cores as pyelftools reads them: an independent look at what was written."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from . import proc
from .machines import LAYOUTS, NT_386_TLS, NT_ARM_TLS, Layout

NT_PRSTATUS, NT_FPREGSET, NT_PRPSINFO, NT_AUXV = 1, 2, 3, 6
NT_SIGINFO, NT_FILE = 0x53494749, 0x46494C45
NT_X86_XSTATE, NT_X86_XSAVE_LAYOUT = 0x202, 0x205
NT_PRXFPREG = 0x46E62B7F
PT_AARCH64_MEMTAG_MTE = 0x70000002
_NUMBERS = {
    "NT_PRSTATUS": NT_PRSTATUS,
    "NT_FPREGSET": NT_FPREGSET,
    "NT_PRPSINFO": NT_PRPSINFO,
    "NT_AUXV": NT_AUXV,
    "NT_SIGINFO": NT_SIGINFO,
    "NT_FILE": NT_FILE,
    "NT_X86_XSTATE": NT_X86_XSTATE,
}
RSEQ_BYTES = 32
PAGE = 4096
PATTERN_STEP, PATTERN_START = 0x9E3779B97F4A7C15, 0x1234567


@dataclass(frozen=True)
class Segment:
    """One PT_LOAD. hole: its bytes are those of the block of zeros, which all holes share."""

    address: int
    memory_bytes: int
    file_bytes: int
    offset: int
    flags: int
    align: int
    hole: bool = False


@dataclass(frozen=True)
class Note:
    """owner, type and raw descriptor; parsed is what pyelftools made of it."""

    owner: str
    type: int
    data: bytes
    parsed: Any

    @property
    def kind(self) -> tuple[str, int, int]:
        return self.owner, self.type, len(self.data)


class Core:
    """A core file, read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        with path.open("rb") as file:
            elf = ELFFile(file)
            self.type = elf["e_type"]
            self.machine = elf["e_machine"]
            self.wide = elf.elfclass == 64
            self.header_bytes = elf["e_ehsize"] + elf.num_segments() * elf["e_phentsize"]
            self.segments: list[Segment] = []
            self.tags: list[Segment] = []
            self.notes: list[Note] = []
            for segment in elf.iter_segments():
                header = segment.header
                if header.p_type in ("PT_LOAD", PT_AARCH64_MEMTAG_MTE):
                    (self.segments if header.p_type == "PT_LOAD" else self.tags).append(
                        Segment(
                            header.p_vaddr,
                            header.p_memsz,
                            header.p_filesz,
                            header.p_offset,
                            header.p_flags,
                            header.p_align,
                        )
                    )
                elif header.p_type == "PT_NOTE":
                    self.notes_offset, self.notes_bytes = header.p_offset, header.p_filesz
                    for note in segment.iter_notes():
                        kind = note.n_type
                        number = kind if isinstance(kind, int) else _NUMBERS[kind]
                        self.notes.append(Note(note.n_name, number, bytes(note.n_descdata), note.n_desc))
        self._find_holes()

    def _find_holes(self) -> None:
        """Mark the segments that share the bytes right behind the notes, if that is what is there."""
        begin = (self.notes_offset + self.notes_bytes + PAGE - 1) // PAGE * PAGE
        self.zero_bytes = 0
        behind = any(segment.offset < self.notes_offset for segment in self.segments if segment.file_bytes)
        if behind or self.size == begin + self.tag_bytes + sum(segment.file_bytes for segment in self.segments):
            return  # gcore writes the notes last
        self.segments = [
            replace(segment, hole=segment.offset == begin and segment.file_bytes > 0) for segment in self.segments
        ]
        self.zero_bytes = self.size - begin - self.data_bytes - self.tag_bytes

    def notes_of(self, kind: int) -> list[Note]:
        return [note for note in self.notes if note.type == kind]

    def note(self, kind: int) -> Note:
        (note,) = self.notes_of(kind)
        return note

    @property
    def thread_ids(self) -> list[int]:
        """pr_pid of every NT_PRSTATUS, in order."""
        return [struct.unpack_from("<i", note.data, self.layout.tid)[0] for note in self.notes_of(NT_PRSTATUS)]

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.machine]

    def register(self, name: str) -> list[int]:
        """A general register of every thread, in order."""
        return [self.layout.register(note.data, name) for note in self.notes_of(NT_PRSTATUS)]

    @property
    def thread_pointers(self) -> list[int]:
        """Where thread-local storage is, by thread: fs_base, the segment that gs selects on i386, TPIDR_EL0 on Arm."""
        if "fs_base" in self.layout.registers:
            return self.register("fs_base")
        if self.notes_of(NT_ARM_TLS):
            return [struct.unpack_from("<Q", note.data)[0] for note in self.notes_of(NT_ARM_TLS)]
        pointers = []
        for selector, note in zip(self.register("gs"), self.notes_of(NT_386_TLS), strict=True):
            bases = {number: base for number, base, _, _ in struct.iter_unpack("<4I", note.data)}
            pointers.append(bases[selector >> 3])
        return pointers

    @property
    def registers(self) -> list[bytes]:
        """pr_reg of every NT_PRSTATUS, in order."""
        start = self.registers_offset
        return [note.data[start : start + self.layout.registers_bytes] for note in self.notes_of(NT_PRSTATUS)]

    @property
    def registers_offset(self) -> int:
        """Where pr_reg begins in NT_PRSTATUS."""
        return self.layout.registers_offset

    @property
    def stack_pointers(self) -> list[int]:
        """Stack pointer of every NT_PRSTATUS, in order."""
        return self.register(self.layout.stack_pointer)

    @property
    def tag_bytes(self) -> int:
        """Bytes of memory tags in the file, behind all segments."""
        return sum(segment.file_bytes for segment in self.tags)

    def memory_tags(self, address: int, granules: int) -> bytes:
        """Tags of memory from an address on, a byte for each 16 bytes of it; in the file there are two to a byte."""
        for segment in self.tags:
            if segment.address <= address < segment.address + segment.memory_bytes:
                with self.path.open("rb") as file:
                    file.seek(segment.offset)
                    packed = file.read(segment.file_bytes)
                tags = bytes(tag for byte in packed for tag in (byte & 15, byte >> 4))
                first = (address - segment.address) // 16
                return tags[first : first + granules]
        raise LookupError(f"no tags of {address:#x}")

    @property
    def data_bytes(self) -> int:
        """Bytes of the segments in the file, holes left out."""
        return sum(segment.file_bytes for segment in self.segments if not segment.hole)

    def segment_at(self, address: int) -> Segment:
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.memory_bytes:
                return segment
        raise LookupError(f"no segment holds {address:#x}")

    def holds(self, address: int) -> bool:
        """Whether the byte is in the file, and not only as a part of a hole."""
        try:
            segment = self.segment_at(address)
        except LookupError:
            return False
        return not segment.hole and address < segment.address + segment.file_bytes

    def read(self, address: int, length: int) -> bytes:
        """Bytes at an address, from as many segments as it takes; LookupError where they are not in the file."""
        pieces = []
        with self.path.open("rb") as file:
            while length:
                segment = self.segment_at(address)
                inside = address - segment.address
                step = min(length, segment.file_bytes - inside)
                if step <= 0:
                    raise LookupError(f"{address:#x} is not in the file")
                file.seek(segment.offset + inside)
                piece = file.read(step)
                assert len(piece) == step, "the core is cut short"
                pieces.append(piece)
                address += step
                length -= step
        return b"".join(pieces)

    def pieces(self, size: int = 1 << 22) -> Iterator[tuple[int, bytes]]:
        """Yield (address, bytes) for everything in the file, holes left out."""
        with self.path.open("rb") as file:
            for segment in self.segments:
                if segment.hole:
                    continue
                file.seek(segment.offset)
                done = 0
                while done < segment.file_bytes:
                    piece = file.read(min(size, segment.file_bytes - done))
                    assert piece, "the core is cut short"
                    yield segment.address + done, piece
                    done += len(piece)


def assert_well_formed(core: Core) -> None:
    """What every reader takes for granted, and that the file ends where the last segment ends."""
    assert core.type == "ET_CORE"
    addresses = [segment.address for segment in core.segments]
    assert addresses == sorted(addresses)
    assert core.notes_offset == core.header_bytes
    zeros = (core.notes_offset + core.notes_bytes + PAGE - 1) // PAGE * PAGE
    offset = zeros + core.zero_bytes
    with core.path.open("rb") as file:
        file.seek(zeros)
        assert not any(file.read(core.zero_bytes)), "the block of zeros is zeros"
    end_of_last = 0
    for segment in core.segments:
        assert segment.offset == (zeros if segment.hole else offset)
        assert segment.offset % PAGE == 0
        assert segment.file_bytes <= segment.memory_bytes
        assert not segment.hole or segment.file_bytes <= core.zero_bytes
        assert segment.address >= end_of_last
        offset += 0 if segment.hole else segment.file_bytes
        end_of_last = segment.address + segment.memory_bytes
    for segment in core.tags:
        assert segment.offset == offset
        assert segment.file_bytes * 32 == segment.memory_bytes
        offset += segment.file_bytes
    assert core.size == offset
    threads = core.notes_of(NT_PRSTATUS)
    assert len(threads) == len(core.notes_of(NT_FPREGSET))
    assert len(set(core.thread_ids)) == len(threads) > 0


def without_rseq(data: bytes, address: int, areas: Iterable[int]) -> bytes:
    """Return bytes from an address on with every struct rseq in it (at the addresses of areas) blanked out.

    The kernel writes the processor's number there whenever a thread runs, if only for a moment.
    """
    for at in (area - address for area in areas):
        if 0 <= at < len(data):
            data = data[:at] + bytes(min(RSEQ_BYTES, len(data) - at)) + data[at + RSEQ_BYTES :]
    return data


def assert_same_as_memory(core: Core, pid: int, rseq_offset: int | None = None) -> int:
    """Compare every byte in the file with /proc/PID/mem; return how many bytes were compared.

    rseq_offset: of struct rseq from the thread pointer, to be left out.
    """
    areas = [base + rseq_offset for base in core.thread_pointers] if rseq_offset is not None else []
    compared = 0
    for address, piece in core.pieces():
        memory = proc.read_memory(pid, address, len(piece))
        memory, piece = without_rseq(memory, address, areas), without_rseq(piece, address, areas)
        if piece != memory:
            first = next(index for index in range(len(piece)) if piece[index] != memory[index])
            raise AssertionError(f"the core differs from the process at {address + first:#x}")
        compared += len(piece)
    assert compared == core.data_bytes
    return compared


@functools.lru_cache(maxsize=32)
def pattern(length: int, first_word: int = 0) -> bytes:
    """What targets/target.h fills its areas with, made anew from the formula."""
    words = range(first_word, first_word + length // 8)
    mask = (1 << 64) - 1
    return struct.pack(f"<{len(words)}Q", *((index * PATTERN_STEP + PATTERN_START) & mask for index in words))
