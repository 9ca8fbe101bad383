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


@dataclass(slots=True)
class RegionRow:
    """One region: what the preset decided, what is chosen now, and what it would cost whole. Sizes in bytes."""

    index: int
    region: Region
    preset: Decision
    preset_bytes: int
    preset_segments: int
    preset_read_bytes: int
    preset_hole_bytes: int
    whole_bytes: int
    whole_segments: int
    whole_read_bytes: int
    whole_hole_bytes: int
    extent: Extent
    path: str

    @property
    def fixed(self) -> bool:
        """True where the region cannot be switched."""
        return self.region.kind in _FIXED_KINDS

    @property
    def changed(self) -> bool:
        """True where the person chose otherwise than the preset."""
        return self.extent is not self.preset.extent

    @property
    def file_bytes(self) -> int:
        """What it adds to the core as chosen now."""
        if self.extent is Extent.NONE:
            return 0
        return self.preset_bytes if not self.changed else self.whole_bytes

    @property
    def segments(self) -> int:
        """Program headers it takes as chosen now."""
        if self.extent is Extent.NONE:
            return 1
        return self.preset_segments if not self.changed else self.whole_segments

    @property
    def read_bytes(self) -> int:
        """What is read of it as chosen now."""
        if self.extent is Extent.NONE:
            return 0
        return self.preset_read_bytes if not self.changed else self.whole_read_bytes

    @property
    def hole_bytes(self) -> int:
        """What is left out of it as never touched, as chosen now."""
        if self.extent is Extent.NONE:
            return 0
        return self.preset_hole_bytes if not self.changed else self.whole_hole_bytes

    @property
    def reason(self) -> str:
        """Why it is in or out."""
        if not self.changed:
            return self.preset.reason
        return "switched out by hand" if self.extent is Extent.NONE else "switched in by hand"


class Selection:
    """All regions of one process with the choices made for them. Totals are kept, not counted anew."""

    def __init__(self, inspection: Inspection, whole: Sequence[PlannedRegion], options: DumpOptions) -> None:
        self.inspection = inspection
        self.options = options
        self.rows = [_row(index, *pair) for index, pair in enumerate(zip(inspection.plan.regions, whole, strict=True))]
        self.data_bytes = sum(row.file_bytes for row in self.rows)
        self.segments = sum(row.segments for row in self.rows)
        self.read_bytes = sum(row.read_bytes for row in self.rows)
        self.hole_bytes = sum(row.hole_bytes for row in self.rows)
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
        self.data_bytes -= row.file_bytes
        self.segments -= row.segments
        self.read_bytes -= row.read_bytes
        self.hole_bytes -= row.hole_bytes
        self.included -= row.extent is not Extent.NONE
        row.extent = extent
        self.data_bytes += row.file_bytes
        self.segments += row.segments
        self.read_bytes += row.read_bytes
        self.hole_bytes += row.hole_bytes
        self.included += row.extent is not Extent.NONE

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
    return RegionRow(
        index=index,
        region=planned.region,
        preset=planned.decision,
        preset_bytes=planned.file_bytes,
        preset_segments=planned.segments,
        preset_read_bytes=planned.file_bytes - planned.zero_bytes,
        preset_hole_bytes=planned.hole_bytes,
        whole_bytes=whole.file_bytes,
        whole_segments=whole.segments,
        whole_read_bytes=whole.file_bytes - whole.zero_bytes,
        whole_hole_bytes=whole.hole_bytes,
        extent=planned.decision.extent,
        path=clean(planned.region.path),
    )


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
    """All regions of one kind together; sizes in bytes."""

    kind: RegionKind
    regions: int
    included: int
    size: int
    touched: int
    swap: int
    file_bytes: int


def totals_by_kind(rows: Iterable[RegionRow]) -> list[KindTotal]:
    """Return a line for each kind, the largest part of the core first."""
    collected: dict[RegionKind, list[RegionRow]] = {}
    for row in rows:
        collected.setdefault(row.region.kind, []).append(row)
    totals = [
        KindTotal(
            kind=kind,
            regions=len(members),
            included=sum(row.extent is not Extent.NONE for row in members),
            size=sum(row.region.size for row in members),
            touched=sum(row.region.rss for row in members),
            swap=sum(row.region.swap for row in members),
            file_bytes=sum(row.file_bytes for row in members),
        )
        for kind, members in collected.items()
    ]
    return sorted(totals, key=lambda total: (-total.file_bytes, -total.size))
