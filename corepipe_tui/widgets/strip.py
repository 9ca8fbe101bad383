"""The address space as one strip, drawn to scale: what is mapped, what goes into the core, where the cursor is."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from .kinds import KIND_COLORS

_WHOLE, _PART, _OUT = "█", "▓", "░"
_CURSOR = "▲"


@dataclass(frozen=True, slots=True)
class StripPiece:
    """One region on the strip: its size in bytes, its kind, and the share of it (0 to 1) that goes in."""

    size: int
    kind: str
    share: float


class AddressStrip(Widget):
    """Two lines: the mappings side by side, each as wide as it is large, and a mark below the cursor's one.

    Full blocks go into the core, shaded ones in part, dotted ones stay out; the colour tells the kind.
    """

    DEFAULT_CSS = """
    AddressStrip { height: 2; width: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._pieces: Sequence[StripPiece] = ()
        self._ends: list[int] = []
        self._marked: tuple[int, int] = (0, 0)

    def show(self, pieces: Sequence[StripPiece]) -> None:
        """Show these regions."""
        self._pieces = pieces
        self._ends = list(accumulate(piece.size for piece in pieces))
        self.refresh()

    def mark(self, first: int, last: int) -> None:
        """Mark the regions from the first-th to the last-th."""
        if (first, last) != self._marked:
            self._marked = (first, last)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """See Widget."""
        width = self.size.width
        if not self._ends or not width:
            return Strip.blank(width, self.rich_style)
        if y == 1:
            return self._marks(width)
        return Strip(self._cells(width))

    def _cells(self, width: int) -> list[Segment]:
        total = self._ends[-1]
        background = self.rich_style
        segments = []
        for cell in range(width):
            low, high = total * cell // width, max(total * (cell + 1) // width, total * cell // width + 1)
            first = bisect.bisect_right(self._ends, low)
            last = min(bisect.bisect_left(self._ends, high), len(self._ends) - 1)
            weights: dict[str, int] = {}
            inside = 0.0
            for index in (
                range(first, last + 1) if last - first < 256 else range(first, last + 1, (last - first) // 128)
            ):
                piece = self._pieces[index]
                begin = self._ends[index] - piece.size
                length = min(self._ends[index], high) - max(begin, low)
                weights[piece.kind] = weights.get(piece.kind, 0) + length
                inside += length * piece.share
            covered = sum(weights.values()) or 1
            kind = max(weights, key=lambda name: weights[name]) if weights else ""
            share = inside / covered
            glyph = _WHOLE if share > 0.95 else _OUT if share < 0.02 else _PART
            style = background + Style(color=KIND_COLORS.get(kind, "#6B6B6B"))
            segments.append(Segment(glyph, style))
        return segments

    def _marks(self, width: int) -> Strip:
        first, last = self._marked
        if last >= len(self._ends):
            return Strip.blank(width, self.rich_style)
        total = self._ends[-1]
        begin = (self._ends[first] - self._pieces[first].size) * width // total
        end = max((self._ends[last] * width + total - 1) // total, begin + 1)
        text = " " * begin + _CURSOR * max(end - begin, 1)
        return Strip([Segment(text[:width], self.rich_style + Style(bold=True))]).adjust_cell_length(
            width, self.rich_style
        )
