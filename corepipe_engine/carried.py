"""What a fork does not carry: it is copied to RAM inside the stop, or, if shared and large, read live."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from .capture import Context
from .inspection import HeaderProbe, coredump_filter, touched
from .memory import Buffer, CopiedMemory, ProcessMemory
from .options import Holes, Shared
from .plan import DumpPlan, make_plan
from .policy import Decision
from .preconditions import SHARED_BUDGET, may_be_live
from .procfs import PAGE_SIZE, ProcDir
from .regions import Region, copied_on_write, split_at


@dataclass(slots=True)
class CopiedSet:
    """What a fork does not carry: pieces of regions with their decisions and touched runs, as found in the stop.

    live: starts of the pieces that are read from the running target instead.
    """

    pieces: list[Region] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    sparse: list[bool] = field(default_factory=list)
    runs: array[int] = field(default_factory=lambda: array("Q"))
    live: frozenset[int] = frozenset()
    reads: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def forked(self) -> array[int]:
        """Start, end, ... of the pieces that have private pages in common with the snapshot, or with anybody."""
        return copied_on_write(
            piece if piece.shared or piece.flags & {"dc", "wf"} else replace(piece, mapped_elsewhere=piece.size)
            for piece in self.pieces
        )


def select_copied(
    context: Context,
    task: ProcDir,
    regions: Sequence[Region],
    stack_pointers: Sequence[int],
    hotspot: bool,
    known_live: frozenset[int] = frozenset(),
) -> CopiedSet:
    """Return what of these regions (those a fork does not carry) must be copied, and what is left to be read live.

    hotspot: see Policy.decide. known_live: starts of pieces that were found too large to be copied before the stop.
    What is to be read live is not looked into here: it may take long.
    """
    options = context.options
    chosen = CopiedSet([_as_touched(region) for region in split_at(regions, options.policy.boundaries())])
    if not chosen.pieces:
        return chosen
    target_filter = coredump_filter(task)
    pointers = sorted(stack_pointers)
    with contextlib.closing(HeaderProbe(task)) as probe:  # a memory file counts as executable
        chosen.decisions = [
            options.policy.decide(piece, target_filter, probe, pointers, hotspot) for piece in chosen.pieces
        ]
    shared = frozenset(
        piece.start
        for piece, decision in zip(chosen.pieces, chosen.decisions, strict=True)
        if decision.included and may_be_live(piece)
    )
    chosen.live = shared if options.shared is Shared.LIVE else shared & known_live
    wanted = [
        decision.included and piece.start not in chosen.live
        for piece, decision in zip(chosen.pieces, chosen.decisions, strict=True)
    ]
    chosen.runs, chosen.sparse = touched(task, chosen.pieces, wanted)
    everything = _plan_pieces(context, chosen)
    shared_bytes = sum(planned.file_bytes for planned in everything.regions if planned.region.start in shared)
    if options.shared is Shared.AUTO and shared_bytes > SHARED_BUDGET:
        chosen.live = shared
    for planned_start, reads in _reads_by_piece(everything, chosen.pieces):
        if planned_start not in chosen.live:
            chosen.reads.extend(reads)
    return chosen


def _as_touched(region: Region) -> Region:
    """A private piece whose pages are looked up when it is copied: smaps of before may not count them all."""
    return region if region.shared or region.file_backed else replace(region, anonymous=region.size)


def _plan_pieces(context: Context, chosen: CopiedSet) -> DumpPlan:
    return make_plan(
        chosen.pieces,
        chosen.decisions,
        chosen.sparse,
        chosen.runs,
        0,
        elf=context.arch.elf,
        machine=context.arch.machine,
        page_size=PAGE_SIZE,
        holes_as_zeros=context.options.holes is Holes.ZERO,
    )


def _reads_by_piece(plan: DumpPlan, pieces: Sequence[Region]) -> Iterator[tuple[int, array[int]]]:
    """Yield (start of the piece, reads inside it)."""
    reads, index = plan.reads, 0
    for piece in pieces:
        first = index
        while index < len(reads) and reads[index] < piece.end:
            index += 2
        yield piece.start, reads[first:index]


class SnapshotMemory:
    """Reads the snapshot, the copies made inside the stop, and what is read live; all as one address space."""

    def __init__(
        self,
        snapshot: ProcessMemory,
        copied: CopiedMemory,
        live: ProcessMemory | None,
        chosen: CopiedSet,
        patches: tuple[tuple[int, bytes], ...],
    ) -> None:
        self._snapshot = snapshot
        self._copied = copied
        self._live = live
        self._patches = patches
        self._kinds = {piece.start: piece for piece in chosen.pieces}
        self._starts = array("Q", sorted(self._kinds))
        self._live_starts = chosen.live

    @property
    def unreadable(self) -> list[tuple[int, int]]:
        """Ranges (address, bytes) that are zeros in the core because they could not be read."""
        live = self._live.unreadable if self._live is not None else []
        return sorted([*self._snapshot.unreadable, *self._copied.unreadable, *live])

    def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
        """See MemoryReader.read."""
        parts: dict[int, tuple[array[int], array[int]]] = {}
        for index in range(0, len(ranges), 2):
            source = self._source_of(ranges[index])
            reads, spots = parts.setdefault(source, (array("Q"), array("Q")))
            reads.extend(ranges[index : index + 2])
            spots.extend(places[index : index + 2])
        for source, (reads, spots) in parts.items():
            self._readers()[source].read(reads, buffer, spots)
        for address, original in self._patches:
            _restore(address, original, ranges, buffer, places)

    def _readers(self) -> tuple[ProcessMemory | CopiedMemory, ...]:
        return self._snapshot, self._copied, self._live or self._snapshot

    def _source_of(self, address: int) -> int:
        """0: the snapshot, 1: the copies, 2: live."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._kinds[self._starts[at]].end:
            return 0
        return 2 if self._starts[at] in self._live_starts else 1

    def close(self) -> None:
        """Give back all three."""
        for reader in (self._snapshot, self._copied, self._live):
            if reader is not None:
                reader.close()
        self._live = None


def runs_inside(runs: array[int], piece: Region) -> array[int]:
    """Return the parts of runs (start, end, ...) that lie in the piece."""
    inside: array[int] = array("Q")
    for index in range(0, len(runs), 2):
        start, end = max(runs[index], piece.start), min(runs[index + 1], piece.end)
        if start < end:
            inside.extend((start, end))
    return inside


def _restore(address: int, original: bytes, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
    """Put bytes back over what lay there when the snapshot was made, where they fall into what was read."""
    for index in range(0, len(ranges), 2):
        start, end = ranges[index], ranges[index] + ranges[index + 1]
        low, high = max(start, address), min(end, address + len(original))
        if low < high:
            place = places[index] + low - start
            buffer.view[place : place + high - low] = original[low - address : high - address]
