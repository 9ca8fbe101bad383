"""The address space as one strip, drawn to scale: what is mapped, what goes into the core, where the cursor is."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from .kinds import KIND_COLORS
from .listing import DARKEN

_WHOLE, _PART, _OUT = "█", "▓", "░"
_CURSOR = "▲"
_SAMPLES = 32
"""As many of the regions that share one terminal cell are asked how much of them goes in."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One terminal cell: the kind that fills most of it, and its regions (index, bytes in the cell)."""

    kind: str
    covered: int
    regions: tuple[tuple[int, int], ...]


class AddressStrip(Widget):
    """Two lines: the mappings side by side, each as wide as it is large; below them the names of their kinds and a mark
    at the cursor's ones.

    Full blocks go into the core, shaded ones in part, dotted ones stay out; the colour tells the kind as well.
    """

    DEFAULT_CSS = """
    AddressStrip { height: 2; width: 1fr; color: $foreground; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._ends: list[int] = []
        self._kinds: Sequence[str] = ()
        self._share: Callable[[int], float] = lambda index: 0.0
        self._marked: Sequence[range] = ()
        self._cells: list[_Cell] = []
        self._blocks: list[Segment] = []

    def show(self, sizes: Sequence[int], kinds: Sequence[str], share: Callable[[int], float]) -> None:
        """Show regions: their sizes in bytes, their kinds, and a function that tells of the index-th how much of it (0
        to 1) goes in. Call changed() when it would tell something else.
        """
        self._ends, self._kinds, self._share = list(accumulate(sizes)), kinds, share
        self._cells, self._blocks = [], []
        self.refresh()

    def changed(self) -> None:
        """What goes in has changed."""
        self._blocks = []
        self.refresh(Region(0, 0, self.size.width, 1))

    def mark(self, *marked: range) -> None:
        """Mark these runs of regions."""
        if marked != self._marked:
            self._marked = marked
            self.refresh(Region(0, 1, self.size.width, 1))

    def on_resize(self) -> None:
        """The scale has changed."""
        self._cells, self._blocks = [], []

    def notify_style_update(self) -> None:
        """The colours have changed."""
        self._blocks = []
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """See Widget."""
        width = self.size.width
        if not self._ends or not width:
            return Strip.blank(width, self.rich_style)
        if len(self._cells) != width:
            self._cells, self._blocks = [self._cell(cell, width) for cell in range(width)], []
        if y == 1:
            return self._legend(width)
        if not self._blocks:
            styles = {kind: self._style(kind) for kind in {cell.kind for cell in self._cells}}
            self._blocks = [Segment(self._block(cell), styles[cell.kind]) for cell in self._cells]
        return Strip(self._blocks, width)

    def _cell(self, cell: int, width: int) -> _Cell:
        total = self._ends[-1]
        low = total * cell // width
        high = max(total * (cell + 1) // width, low + 1)
        first = bisect.bisect_right(self._ends, low)
        last = min(bisect.bisect_left(self._ends, high), len(self._ends) - 1)
        weights: dict[str, int] = {}
        regions = []
        for index in range(first, last + 1, max((last + 1 - first) // _SAMPLES, 1)):
            begin = self._ends[index - 1] if index else 0
            length = min(self._ends[index], high) - max(begin, low)
            weights[self._kinds[index]] = weights.get(self._kinds[index], 0) + length
            regions.append((index, length))
        kind = max(weights, key=lambda name: weights[name]) if weights else ""
        return _Cell(kind, sum(weights.values()), tuple(regions))

    def _style(self, kind: str) -> Style:
        color = Color.parse(KIND_COLORS.get(kind, "#6B6B6B"))
        return self.rich_style + Style(
            color=(color if self.app.current_theme.dark else color.darken(DARKEN)).rich_color
        )

    def _block(self, cell: _Cell) -> str:
        inside = 0.0
        for index, length in cell.regions:
            inside += self._share(index) * length
        share = inside / (cell.covered or 1)
        return _WHOLE if share > 0.95 else _OUT if share < 0.02 else _PART

    def _legend(self, width: int) -> Strip:
        """The marks, and the name of every kind that has room below its cells, beside the marks."""
        base = self.rich_style
        marked = self._marked_cells(width)
        letters = [(_CURSOR, base + Style(bold=True)) if cell else (" ", base) for cell in marked]
        begin = 0
        while begin < width:
            kind, end = self._cells[begin].kind, begin + 1
            while end < width and self._cells[end].kind == kind:
                end += 1
            for place in range(begin, end - len(kind)):
                if not any(marked[max(place - 1, 0) : place + len(kind) + 1]):
                    style = self._style(kind)
                    letters[place : place + len(kind)] = [(letter, style) for letter in kind]
                    break
            begin = end
        return Strip([Segment(letter, style) for letter, style in letters], width)

    def _marked_cells(self, width: int) -> list[bool]:
        total, cells = self._ends[-1], [False] * width
        for run in self._marked:
            if run and run[-1] < len(self._ends):
                first = (self._ends[run[0] - 1] if run[0] else 0) * width // total
                last = max((self._ends[run[-1]] * width + total - 1) // total, first + 1)
                cells[first:last] = [True] * len(cells[first:last])
        return cells
