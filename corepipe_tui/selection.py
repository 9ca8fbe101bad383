"""What goes into the core, as the person switches regions in and out: plain data and arithmetic, no screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from corepipe_engine.inspection import Inspection, inspect_process, lay_out, live_task, open_target
from corepipe_engine.options import DumpOptions
from corepipe_engine.plan import PlannedRegion, core_size
from corepipe_engine.policy import Decision, Extent, Policy, parse_selector
from corepipe_engine.regions import Region, RegionKind

from .sanitize import clean

_FIXED_KINDS = frozenset({RegionKind.DEVICE, RegionKind.VVAR, RegionKind.VSYSCALL})
"""Kinds that cannot be switched: the engine's decision stands."""
_WHOLE = Decision(Extent.ALL, "")
_BY_HAND = ("switched out by hand", "switched in by hand")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a region adds to a core: bytes of the file, program headers, bytes read, bytes left out as never touched."""

    file_bytes: int
    segments: int
    read_bytes: int
    hole_bytes: int


_NOTHING = Cost(0, 1, 0, 0)
"""A region that is left out keeps its program header."""


@dataclass(slots=True)
class RegionRow:
    """One region: what the preset decided, what is chosen now, and what it costs. Sizes in bytes.

    preset_cost and whole_cost: as the preset has it, and whole; cost: as chosen now. fixed: it cannot be switched.
    path is clean; text is what a filter looks at beyond the reason, in lower case.
    """

    index: int
    region: Region
    preset: Decision
    preset_cost: Cost
    whole_cost: Cost
    fixed: bool
    path: str
    text: str
    extent: Extent = Extent.NONE
    cost: Cost = _NOTHING

    @property
    def changed(self) -> bool:
        """True where the person chose otherwise than the preset."""
        return self.extent is not self.preset.extent

    @property
    def file_bytes(self) -> int:
        """What it adds to the core as chosen now."""
        return self.cost.file_bytes

    @property
    def reason(self) -> str:
        """Why it is in or out."""
        if not self.changed:
            return self.preset.reason
        return _BY_HAND[self.extent is not Extent.NONE]

    @property
    def share(self) -> float:
        """How much of it goes in, from 0 to 1."""
        if self.extent is Extent.NONE:
            return 0.0
        return 1.0 if self.extent is Extent.ALL else min(self.cost.file_bytes / self.region.size, 0.5)

    def choose(self, extent: Extent) -> None:
        """Take it so far; the totals are the selection's to keep."""
        self.extent = extent
        if extent is Extent.NONE:
            self.cost = _NOTHING
        else:
            self.cost = self.preset_cost if extent is self.preset.extent else self.whole_cost


class Selection:
    """All regions of one process with the choices made for them. Totals are kept, not counted anew."""

    def __init__(self, inspection: Inspection, whole: Sequence[PlannedRegion], options: DumpOptions) -> None:
        self.inspection = inspection
        self.options = options
        self.rows = [_row(index, *pair) for index, pair in enumerate(zip(inspection.plan.regions, whole, strict=True))]
        self.swapped = any(row.region.swap for row in self.rows)
        self._reasons = {row.preset.reason for row in self.rows}.union(_BY_HAND)
        self.data_bytes = sum(row.cost.file_bytes for row in self.rows)
        self.segments = sum(row.cost.segments for row in self.rows)
        self.read_bytes = sum(row.cost.read_bytes for row in self.rows)
        self.hole_bytes = sum(row.cost.hole_bytes for row in self.rows)
        self.included = sum(row.extent is not Extent.NONE for row in self.rows)

    @property
    def core_bytes(self) -> int:
        """Size of the core with these choices if the process stayed as it is."""
        plan = self.inspection.plan
        return core_size(plan.elf, plan.page_size, self.segments, plan.notes_bytes, self.data_bytes, self.hole_bytes)

    @property
    def stop_seconds(self) -> float:
        """Estimated stop with these choices."""
        return self.inspection.stop_for(self.read_bytes)

    def set_extent(self, row: RegionRow, extent: Extent) -> None:
        """Choose how much of a region goes in; regions that cannot be switched stay as they are."""
        if row.fixed or row.extent is extent:
            return
        before = row.cost
        self.included += (extent is not Extent.NONE) - (row.extent is not Extent.NONE)
        row.choose(extent)
        self.data_bytes += row.cost.file_bytes - before.file_bytes
        self.segments += row.cost.segments - before.segments
        self.read_bytes += row.cost.read_bytes - before.read_bytes
        self.hole_bytes += row.cost.hole_bytes - before.hole_bytes

    def toggle(self, row: RegionRow) -> None:
        """Out, or in: as far as the preset would take it, else whole."""
        if row.extent is not Extent.NONE:
            self.set_extent(row, Extent.NONE)
        else:
            self.set_extent(row, row.preset.extent if row.preset.included else Extent.ALL)

    def set_all(self, rows: Iterable[RegionRow], included: bool) -> None:
        """Switch regions in (whole) or out."""
        for row in rows:
            self.set_extent(row, Extent.ALL if included else Extent.NONE)

    def invert(self, rows: Iterable[RegionRow]) -> None:
        """Toggle every region."""
        for row in rows:
            self.toggle(row)

    def toggle_kind(self, kind: RegionKind) -> None:
        """Switch all regions of a kind out if any is in, else in."""
        rows = [row for row in self.rows if row.region.kind is kind]
        self.set_all(rows, included=not any(row.extent is not Extent.NONE for row in rows))

    def adopt(self, other: Selection) -> None:
        """Choose what was chosen by hand in an earlier reading of the process, where the mapping is still the same."""
        chosen = {(row.region.start, row.region.end, row.region.kind): row.extent for row in other.rows if row.changed}
        for row in self.rows if chosen else ():
            extent = chosen.get((row.region.start, row.region.end, row.region.kind))
            if extent is not None:
                self.set_extent(row, extent)

    def runs_of(self, kind: RegionKind) -> list[range]:
        """Return the runs of neighbours of a kind, as ranges of row numbers."""
        runs: list[range] = []
        for row in self.rows:
            if row.region.kind is kind:
                index = row.index
                if runs and runs[-1].stop == index:
                    runs[-1] = range(runs[-1].start, index + 1)
                else:
                    runs.append(range(index, index + 1))
        return runs

    def matching(self, words: Sequence[tuple[bool, str]]) -> list[RegionRow]:
        """Return the rows that hold every word, and none of the inverted ones (True, word); words are in lower case."""
        rows = self.rows
        for inverted, word in words:
            reasons = {reason for reason in self._reasons if word in reason.lower()}
            if reasons:
                rows = [row for row in rows if (word in row.text or row.reason in reasons) is not inverted]
            else:
                rows = [row for row in rows if (word in row.text) is not inverted]
        return rows

    def dump_options(self) -> DumpOptions:
        """Return the options that make the engine choose the same: one rule for each run of changed neighbours."""
        rules = list(self.options.policy.rules)
        for (extent, changed), run in groupby(self.rows, key=lambda row: (row.extent, row.changed)):
            if changed:
                neighbours = [row.region for row in run]
                span = f"{neighbours[0].start:x}-{neighbours[-1].end:x}"
                rules.append((extent is Extent.ALL, parse_selector(span)))
        policy = self.options.policy
        return replace(self.options, policy=Policy(policy.preset, policy.filter_bits, tuple(rules)))


def _row(index: int, planned: PlannedRegion, whole: PlannedRegion) -> RegionRow:
    region, path = planned.region, clean(planned.region.path)
    row = RegionRow(
        index=index,
        region=region,
        preset=planned.decision,
        preset_cost=_cost(planned),
        whole_cost=_cost(whole),
        fixed=region.kind in _FIXED_KINDS,
        path=path,
        text=f"{region.start:x}-{region.end:x} {region.perms} {region.kind.value} {path}".lower(),
    )
    row.choose(planned.decision.extent)
    return row


def _cost(planned: PlannedRegion) -> Cost:
    bytes_in_file, segments = planned.file_bytes + planned.tag_bytes, planned.segments + planned.tag_segments
    return Cost(bytes_in_file, segments, planned.file_bytes - planned.zero_bytes, planned.hole_bytes)


def load_selection(pid: int, options: DumpOptions) -> Selection:
    """Return the regions of a process as these options decide them. Reads smaps: belongs into a worker thread.

    Errors: CorepipeError.
    """
    with contextlib.closing(open_target(pid)) as process:
        inspection = inspect_process(process, options)
        plan = inspection.plan
        regions = [planned.region for planned in plan.regions]
        with live_task(process) as task:
            whole = lay_out(task, regions, [_WHOLE] * len(regions), options.holes, plan.notes_bytes, inspection.arch)
    return Selection(inspection, whole.regions, options)


@dataclass(frozen=True, slots=True)
class KindTotal:
    """All regions of one kind together; sizes in bytes. share: how much of the chosen memory is theirs, 0 to 1."""

    kind: RegionKind
    regions: int
    included: int
    size: int
    touched: int
    swap: int
    file_bytes: int
    share: float


def totals_by_kind(rows: Iterable[RegionRow]) -> list[KindTotal]:
    """Return a line for each kind, the largest part of the core first."""
    sums: dict[RegionKind, list[int]] = {}
    for row in rows:
        region = row.region
        total = sums.get(region.kind)
        if total is None:
            total = sums[region.kind] = [0, 0, 0, 0, 0, 0]
        total[0] += 1
        total[1] += row.extent is not Extent.NONE
        total[2] += region.end - region.start
        total[3] += region.rss
        total[4] += region.swap
        total[5] += row.cost.file_bytes
    whole = sum(total[5] for total in sums.values()) or 1
    totals = [
        KindTotal(kind, regions, included, size, touched, swap, file_bytes, file_bytes / whole)
        for kind, (regions, included, size, touched, swap, file_bytes) in sums.items()
    ]
    return sorted(totals, key=lambda total: (-total.file_bytes, -total.size))
