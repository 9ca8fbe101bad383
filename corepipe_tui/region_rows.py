"""The list of regions: its columns, what it is sorted by, its lines grouped by kind. No screen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from corepipe_engine.policy import Extent
from corepipe_engine.regions import RegionKind

from . import format as fmt
from .selection import KindTotal, RegionRow, totals_by_kind
from .widgets.kinds import KIND_COLORS
from .widgets.listing import Cell, Column

Row = RegionRow | KindTotal
_FOLDED, _UNFOLDED = "▸", "▾"
_BAR = 10
"""Cells of the bar that shows all of the core; with its per cent it has room in 80 columns."""
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_MARKS = {Extent.NONE: "○", Extent.FIRST_PAGE: "◐", Extent.ALL: "●"}


def row_key(row: Row) -> tuple[str, object]:
    """Return what a line is known by."""
    return ("kind", row.kind.value) if isinstance(row, KindTotal) else ("region", row.region.start)


def kind_of(row: Row) -> RegionKind:
    """Return the kind of a line."""
    return row.kind if isinstance(row, KindTotal) else row.region.kind


def is_out(row: Row) -> bool:
    """Return whether nothing of it goes into the core."""
    return not row.included if isinstance(row, KindTotal) else row.extent is Extent.NONE


def folded(rows: Sequence[RegionRow], expanded: Collection[RegionKind]) -> list[Row]:
    """Return a line for each kind, followed by its regions where the kind is expanded."""
    lines: list[Row] = []
    for total in totals_by_kind(rows):
        lines.append(total)
        if total.kind in expanded:
            lines += [row for row in rows if row.region.kind is total.kind]
    return lines


def _mark(row: Row) -> Cell:
    if isinstance(row, KindTotal):
        extent = Extent.ALL if row.included == row.regions else Extent.FIRST_PAGE if row.included else Extent.NONE
        return f" {_MARKS[extent]}", "good" if row.included else "dim"
    if row.fixed and row.extent is Extent.NONE:
        return " -", "dim"
    mark = f" {_MARKS[row.extent]}" + ("*" if row.changed else "")
    return mark, "good" if row.extent is not Extent.NONE else "dim"


def _range(row: Row, expanded: Collection[RegionKind]) -> Cell:
    if isinstance(row, KindTotal):
        sign = _UNFOLDED if row.kind in expanded else _FOLDED
        return f"{sign} {fmt.count(row.included)} of {fmt.regions(row.regions)}", "strong"
    return f"{row.region.start:x}-{row.region.end:x}"


def _mapping(row: Row) -> Cell:
    if isinstance(row, KindTotal):
        return _bar(row.share), "accent"
    return row.path or "-"


def _bar(share: float) -> str:
    """Return a bar as long as that share, and the share in words; nothing for nothing."""
    if not share:
        return ""
    eighths = max(round(share * _BAR * 8), 1)
    return f"{'█' * (eighths // 8)}{_EIGHTHS[eighths % 8]} {share:.0%}" if share >= 0.005 else f"{_EIGHTHS[1]} <1%"


def _kind(row: Row) -> Cell:
    kind = kind_of(row).value
    return kind, KIND_COLORS[kind]


def _number(
    of_kind: Callable[[KindTotal], int], of_region: Callable[[RegionRow], int], style: str = ""
) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        return fmt.short_size(of_kind(row) if isinstance(row, KindTotal) else of_region(row)), style

    return cell


_size = _number(lambda total: total.size, lambda row: row.region.size)
_touched = _number(lambda total: total.touched, lambda row: row.region.rss)
_swap = _number(lambda total: total.swap, lambda row: row.region.swap)
_core = _number(lambda total: total.file_bytes, lambda row: row.file_bytes, "accent")


def columns(expanded: Collection[RegionKind]) -> list[Column[Row]]:
    """Return the columns of the list; expanded holds the kinds that are unfolded, now and later."""
    return [
        Column("mark", " IN", 3, _mark),
        Column("range", "ADDRESS RANGE", 26, lambda row: _range(row, expanded)),
        Column("size", "SIZE", 7, _size, right=True),
        Column("touched", "TOUCHED", 8, _touched, right=True, drop=3),
        Column("swap", "SWAP", 6, _swap, right=True, drop=4),
        Column("core", "CORE", 7, _core, right=True),
        Column("perms", "PERM", 4, lambda row: "" if isinstance(row, KindTotal) else row.region.perms[:4], drop=2),
        Column("kind", "KIND", 11, _kind),
        Column("mapping", "MAPPING", 0, _mapping),
        Column("reason", "REASON", 44, lambda row: "" if isinstance(row, KindTotal) else (row.reason, "dim"), drop=5),
    ]


SORT_KEYS: dict[str, tuple[Callable[[RegionRow], object], bool]] = {
    "range": (lambda row: row.index, False),
    "size": (lambda row: row.region.size, True),
    "touched": (lambda row: row.region.rss, True),
    "swap": (lambda row: row.region.swap, True),
    "core": (lambda row: row.file_bytes, True),
    "kind": (lambda row: row.region.kind.value, False),
    "mapping": (lambda row: row.path, False),
    "mark": (lambda row: row.extent, True),
    "perms": (lambda row: row.region.perms, False),
    "reason": (lambda row: row.reason, False),
}
"""Column -> (what it sorts by, descending at first)."""
