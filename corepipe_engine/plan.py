"""DumpPlan: segments, holes, notes' sizes and the exact byte count of a core. Pure: no I/O.

File layout: ELF header, program headers, notes, padding to a page, a block of zeros where there are holes, segments in
ascending order, and from 65,535 program headers on one section header with their true number (gabi, PN_XNUM). All of it
is known before the first byte.

A hole is never-touched memory. It is not sent, but read as zeros all the same: its program headers all point to the one
block of zeros. A gap of p_filesz < p_memsz would do for gdb alone: lldb, drgn, pystack and jhsdb take that for memory
which is not there, and objects do reach into holes (HotSpot fills the unused rest of a thread's allocation buffer with
one array, of which it writes the header only).
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .elf import (
    NOTE_ALIGN,
    PN_XNUM,
    PT_LOAD,
    PT_NOTE,
    ElfFormat,
    SegmentFlag,
    TagFormat,
    pack_ehdr,
    pack_extended_count,
    pack_phdr,
    round_up,
)
from .errors import DumpFailedError
from .policy import Decision, Extent
from .regions import Region

MIN_HOLE: Final = 1 << 17
"""Never-touched ranges from this size (bytes) on are left out of the file; shorter ones are sent as zeros.

Chosen by measurement: with 1 MiB the zeros are half the core of a small JVM, with 128 KiB some 5 %. It is no smaller
than what is free in a fresh main stack, whose far end a snapshot touches: the size foretold stays the size written.
"""

ZERO_BLOCK: Final = 1 << 18
"""Size of the block of zeros (bytes), which is the most that one program header of a hole can stand for."""

ZERO_REACH: Final = 1 << 28
"""How far into a hole (bytes) it reads as zeros; what lies beyond is p_filesz < p_memsz."""

ZERO_SEGMENTS: Final = 1 << 15
"""Program headers that may be spent on that; where they do not suffice, it reads as zeros less far into the holes."""

_MAX_MIN_HOLE: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class PlannedRegion:
    """A region with its decision and what it costs.

    file_bytes: what it adds to the core (hole_bytes of it are left out, zero_bytes are sent as zeros without being
    read); segments: program headers it takes. tag_bytes and tag_segments come on top of both.
    """

    region: Region
    decision: Decision
    file_bytes: int
    hole_bytes: int
    zero_bytes: int
    segments: int
    tag_bytes: int = 0
    tag_segments: int = 0


@dataclass(frozen=True, slots=True)
class DumpPlan:
    """The layout of one core file.

    Segments are columns of equal length (addresses and bytes). A segment has either file_sizes, bytes of its own in the
    file, or zero_sizes, bytes that it takes from the block of zeros, or neither. reads holds pairs (address, bytes),
    ascending: the ranges to read from the target; what lies inside a segment's own bytes and in no such range is sent
    as zeros. tagged holds pairs (address, bytes), ascending: the memory whose tags are in the core, as tags tells. In
    all, in bytes: hole_bytes, the never-touched memory in included regions that is left out; data_bytes, all segments
    in the file, without the block of zeros; read_bytes, what is to be read from the target.
    """

    elf: ElfFormat
    machine: int
    elf_flags: int
    page_size: int
    notes_bytes: int
    regions: Sequence[PlannedRegion]
    starts: array[int]
    memory_sizes: array[int]
    file_sizes: array[int]
    zero_sizes: array[int]
    flags: array[int]
    reads: array[int]
    min_hole: int
    reach: int
    hole_bytes: int
    data_bytes: int
    read_bytes: int
    tags: TagFormat | None = None
    tagged: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def segments(self) -> int:
        """Number of PT_LOAD headers."""
        return len(self.starts)

    @property
    def tag_bytes(self) -> int:
        """Bytes of memory tags in the file; they follow the segments."""
        return sum(self.tagged[1::2]) // self.tags.memory_per_byte if self.tags is not None else 0

    @property
    def headers(self) -> int:
        """Number of program headers: notes, segments, tags."""
        return 1 + self.segments + len(self.tagged) // 2

    @property
    def total_bytes(self) -> int:
        """Exact size of the core."""
        data_bytes = self.data_bytes + self.tag_bytes
        return core_size(self.elf, self.page_size, self.headers - 1, self.notes_bytes, data_bytes, self.hole_bytes)

    def header(self, notes: bytes) -> bytearray:
        """Return everything before the first segment: ELF header, program headers, notes, padding, zeros.

        notes must have the planned size: ValueError else.
        """
        if len(notes) != self.notes_bytes:
            raise ValueError(f"notes of {len(notes)} bytes where {self.notes_bytes} were planned")
        headers = self.headers
        notes_offset = self.elf.ehdr.size + headers * self.elf.phdr.size
        zeros = round_up(notes_offset + self.notes_bytes, self.page_size)
        offset = zeros + zero_block(self.hole_bytes)
        end = offset + self.data_bytes + self.tag_bytes
        header = bytearray(pack_ehdr(self.elf, self.machine, headers, end, self.elf_flags))
        header += pack_phdr(self.elf, PT_NOTE, 0, notes_offset, 0, self.notes_bytes, 0, NOTE_ALIGN)
        padding = bytes(offset - notes_offset - self.notes_bytes)
        columns = self.starts, self.memory_sizes, self.file_sizes, self.zero_sizes, self.flags
        for start, memory, file, zero, flags in zip(*columns, strict=True):
            place, size = (zeros, zero) if zero else (offset, file)
            header += pack_phdr(self.elf, PT_LOAD, flags, place, start, size, memory, self.page_size)
            offset += file
        if self.tags is not None:
            for start, memory in zip(self.tagged[::2], self.tagged[1::2], strict=True):
                size = memory // self.tags.memory_per_byte
                header += pack_phdr(self.elf, self.tags.segment_type, 0, offset, start, size, memory, 0)
                offset += size
        header += notes
        header += padding
        return header

    def trailer(self) -> bytes:
        """Return what stands at the end: the section header of PN_XNUM, or nothing."""
        return pack_extended_count(self.elf, self.headers) if self.headers >= PN_XNUM else b""


def obstacle(plan: DumpPlan) -> DumpFailedError | None:
    """Return the error for a core that its ELF class cannot express: ELF32 has 32 bits for offsets and addresses."""
    end = plan.elf.max_address + 1
    limit = f"{end >> 30} GiB"
    if plan.starts and plan.starts[-1] + plan.memory_sizes[-1] > end:
        return DumpFailedError(f"the process has memory at {plan.starts[-1]:#x}, and its kind of core ends at {limit}")
    if plan.total_bytes >= end:  # a segment without bytes may stand at the very end
        largest = sorted(plan.regions, key=lambda planned: planned.file_bytes)[-3:]
        ranges = " ".join(f"--exclude {planned.region.start:x}-{planned.region.end:x}" for planned in largest[::-1])
        return DumpFailedError(
            f"the core would have {plan.total_bytes} bytes, and its kind must stay below {limit}",
            f"leave something out: --preset stacks, or the largest regions: {ranges}",
        )
    return None


def check_expressible(plan: DumpPlan) -> None:
    """Raise the obstacle, if there is one. Errors: DumpFailedError."""
    error = obstacle(plan)
    if error is not None:
        raise error


def zero_block(hole_bytes: int) -> int:
    """Return the size of the block of zeros in a core with that many bytes of holes."""
    return ZERO_BLOCK if hole_bytes else 0


def unserved(plan: DumpPlan) -> list[tuple[int, int]]:
    """Return (address, bytes) of what is zeros in the core because only userfaultfd's other end knows what it holds."""
    ranges, reads, index = [], plan.reads, 0
    for planned in plan.regions:
        region = planned.region
        while index < len(reads) and reads[index] < region.start:
            index += 2
        if not region.served or planned.decision.extent is not Extent.ALL:
            continue
        position = region.start
        while index < len(reads) and reads[index] < region.end:
            if reads[index] > position:
                ranges.append((position, reads[index] - position))
            position = reads[index] + reads[index + 1]
            index += 2
        if position < region.end:
            ranges.append((position, region.end - position))
    return ranges


def core_size(
    elf: ElfFormat, page_size: int, segments: int, notes_bytes: int, data_bytes: int, hole_bytes: int = 0
) -> int:
    """Return the size in bytes of a core with that many segments, and bytes of notes, segment data and holes."""
    headers = segments + 1
    before = round_up(elf.ehdr.size + headers * elf.phdr.size + notes_bytes, page_size) + zero_block(hole_bytes)
    return before + data_bytes + (elf.shdr.size if headers >= PN_XNUM else 0)


@functools.cache
def segment_flags(perms: str) -> int:
    """Return p_flags for the permissions of a mapping."""
    flags = 0
    for letter, flag in zip(perms, (SegmentFlag.R, SegmentFlag.W, SegmentFlag.X), strict=False):
        if letter != "-":
            flags |= flag
    return flags


class _Layout:
    """Collects segments and reads, region by region."""

    def __init__(self, page_size: int, min_hole: int, reach: int, runs: Sequence[int], tags: TagFormat | None) -> None:
        self.page_size = page_size
        self.tags = tags
        self.tagged = array("Q")
        self.min_hole = min_hole
        self.reach = reach
        self.runs = runs
        self.position = 0
        self.sizes: dict[int, int] = {}
        self.regions: list[PlannedRegion] = []
        self.starts = array("Q")
        self.memory_sizes = array("Q")
        self.file_sizes = array("Q")
        self.zero_sizes = array("Q")
        self.flags = array("B")
        self.reads = array("Q")
        self.holes = array("Q")

    def add(self, region: Region, decision: Decision, has_holes: bool) -> None:
        """Lay out one region."""
        flags = segment_flags(region.perms)
        first_segment = len(self.starts)
        hole_bytes = zero_bytes = 0
        if decision.extent is Extent.NONE:
            self._segment(region.start, region.size, 0, flags)
        elif decision.extent is Extent.FIRST_PAGE:
            size = min(self.page_size, region.size)
            self._segment(region.start, region.size, size, flags)
            self.reads.extend((region.start, size))
        elif not has_holes:
            self._segment(region.start, region.size, region.size, flags)
            self.reads.extend((region.start, region.size))
        else:
            hole_bytes, zero_bytes = self._sparse(region, flags)
        segments = len(self.starts) - first_segment
        file_bytes = self.file_sizes[-1] if segments == 1 else sum(self.file_sizes[first_segment:])
        file_bytes = self.sizes.setdefault(file_bytes, file_bytes)  # equal numbers are one object
        planned = PlannedRegion(region, decision, file_bytes, hole_bytes, zero_bytes, segments)
        if self.tags is not None and file_bytes and self.tags.vm_flag in region.flags:
            planned = self._with_tags(planned, self.tags, first_segment)
        self.regions.append(planned)

    def _with_tags(self, planned: PlannedRegion, tags: TagFormat, first_segment: int) -> PlannedRegion:
        """Note the tags of the segments from the first-th on."""
        before = len(self.tagged)
        for start, size in zip(self.starts[first_segment:], self.file_sizes[first_segment:], strict=True):
            if size:
                self.tagged.extend((start, size))
        count = (len(self.tagged) - before) // 2
        return replace(planned, tag_bytes=planned.file_bytes // tags.memory_per_byte, tag_segments=count)

    def _segment(self, start: int, memory: int, file: int, flags: int, zeros: int = 0) -> None:
        self.starts.append(start)
        self.memory_sizes.append(memory)
        self.file_sizes.append(file)
        self.zero_sizes.append(zeros)
        self.flags.append(flags)

    def _sparse(self, region: Region, flags: int) -> tuple[int, int]:
        """Lay out a region of which only the touched runs are read; return (bytes left out, bytes sent as zeros)."""
        runs, index = self.runs, self.position
        while index + 1 < len(runs) and runs[index + 1] <= region.start:
            index += 2
        segment = end = region.start  # the open segment, and how far the touched memory in it reaches
        hole_bytes = zero_bytes = 0
        while index + 1 < len(runs) and runs[index] < region.end:
            start, stop = max(runs[index], region.start), min(runs[index + 1], region.end)
            gap = start - end
            if gap >= self.min_hole:
                self._with_hole(segment, end, start, flags)
                hole_bytes += gap
                segment = start
            else:
                zero_bytes += gap
            self.reads.extend((start, stop - start))
            end = stop
            if runs[index + 1] > region.end:
                break
            index += 2
        self.position = index
        gap = region.end - end
        if gap >= self.min_hole:
            self._with_hole(segment, end, region.end, flags)
            return hole_bytes + gap, zero_bytes
        self._segment(segment, region.end - segment, region.end - segment, flags)
        return hole_bytes, zero_bytes + gap

    def _with_hole(self, start: int, hole: int, end: int, flags: int) -> None:
        """Lay out touched memory, which may be none, and the hole behind it."""
        self.holes.append(end - hole)
        zeros_end = min(hole + self.reach, end)
        if zeros_end == hole:
            self._segment(start, end - start, hole - start, flags)
            return
        if hole > start:
            self._segment(start, hole - start, hole - start, flags)
        for address in range(hole, zeros_end, ZERO_BLOCK):
            size = min(ZERO_BLOCK, zeros_end - address)
            self._segment(address, end - address if address + size == zeros_end else size, 0, flags, size)


def _fitting_reach(holes: Sequence[int], room: int) -> int:
    """Return how far into holes of these sizes the zeros may reach if that many program headers are left for them."""
    reach = ZERO_REACH
    while reach >= ZERO_BLOCK:
        if sum(-(-min(hole, reach) // ZERO_BLOCK) for hole in holes) <= room:
            return reach
        reach //= 2
    return 0


def make_plan(
    regions: Sequence[Region],
    decisions: Sequence[Decision],
    sparse: Sequence[bool],
    touched_runs: Sequence[int],
    notes_bytes: int,
    *,
    elf: ElfFormat,
    machine: int,
    page_size: int,
    elf_flags: int = 0,
    holes_as_zeros: bool = False,
    tags: TagFormat | None = None,
) -> DumpPlan:
    """Return the plan for regions (ascending) with their decisions. tags: of a machine that has them.

    sparse tells of each whether its pages which are in no touched run are zeros. touched_runs is a flat sequence start,
    end, start, end, ... (addresses, ascending). Where holes would push the number of program
    headers to PN_XNUM, which jhsdb cannot read, neighbours are joined over ever larger holes. The headers that are left
    make holes read as zeros; with tens of thousands of holes they do not suffice, and all stay p_filesz < p_memsz.
    """
    min_hole = _MAX_MIN_HOLE if holes_as_zeros else MIN_HOLE

    def laid_out(reach: int) -> _Layout:
        layout = _Layout(page_size, min_hole, reach, touched_runs, tags)
        for region, decision, has_holes in zip(regions, decisions, sparse, strict=True):
            layout.add(region, decision, has_holes)
        return layout

    while True:
        layout = laid_out(0)
        headers = 1 + len(layout.starts) + len(layout.tagged) // 2
        splits = len(layout.starts) - len(regions)
        if headers < PN_XNUM or not splits or len(regions) + 1 >= PN_XNUM or min_hole >= _MAX_MIN_HOLE:
            break
        del layout  # there may be many regions: one layout at a time
        min_hole *= 2
    reach = _fitting_reach(layout.holes, min(ZERO_SEGMENTS, PN_XNUM - 1 - headers))
    if layout.holes and reach:
        del layout
        layout = laid_out(reach)
    return DumpPlan(
        elf=elf,
        machine=machine,
        elf_flags=elf_flags,
        page_size=page_size,
        notes_bytes=notes_bytes,
        regions=layout.regions,
        starts=layout.starts,
        memory_sizes=layout.memory_sizes,
        file_sizes=layout.file_sizes,
        zero_sizes=layout.zero_sizes,
        flags=layout.flags,
        reads=layout.reads,
        min_hole=min_hole,
        reach=reach,
        hole_bytes=sum(layout.holes),
        data_bytes=sum(layout.file_sizes),
        read_bytes=sum(layout.reads[1::2]),
        tags=tags,
        tagged=layout.tagged,
    )
