"""A plan's segment data, cut into what goes through one buffer, or through one pipe that the snapshot fills. Pure."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .plan import DumpPlan

NOTHING: Final[array[int]] = array("Q")
_MIN_DIRECT: Final = 128 << 10
"""Bytes in one piece from which on it pays to let the snapshot send its pages itself."""
_MAX_GAP: Final = 1 << 20
"""Bytes of zeros that such a piece may have inside: the kernel makes page tables for them in the snapshot."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How the stream is cut. The defaults were found by measurement: tests/bench/run --only sizes.

    chunk: bytes in one buffer; buffers: how many; ranges: how many at the most are read with one call.
    """

    chunk: int = 1 << 20
    buffers: int = 4
    ranges: int = 1024


SIZES: Final = Sizes()


@dataclass(slots=True)
class Chunk:
    """What goes into one buffer: length bytes, of which ranges (address, length) go to places (offset, length).

    direct: it may go by way of a pipe that the snapshot fills; its ranges then hold the gaps between reads as well.
    """

    length: int = 0
    ranges: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    zeros: list[tuple[int, int]] = field(default_factory=list)
    direct: bool = False

    def add(self, address: int, length: int, zeros: bool) -> None:
        """Append bytes to be read, or zeros."""
        if zeros:
            self.zeros.append((self.length, length))
        else:
            self.ranges.extend((address, length))
            self.places.extend((self.length, length))
        self.length += length


class _Piece(NamedTuple):
    """Bytes of one segment: to be read, or zeros; direct: of memory that the snapshot can send."""

    address: int
    length: int
    zeros: bool = False
    direct: bool = False


def chunks(plan: DumpPlan, sizes: Sizes = SIZES, direct: array[int] = NOTHING, pipe_size: int = 0) -> Iterator[Chunk]:
    """Yield the segment data of a plan, cut into chunks.

    direct: ranges (start, end, ...), ascending, that the snapshot can send itself, pipe_size bytes at once.
    """
    return _cut_pieces(_long_pieces(plan, direct) if direct else _pieces(plan), sizes, pipe_size)


def rest_of(plan: DumpPlan, chunk: Chunk, sent: int, sizes: Sizes = SIZES) -> Iterator[Chunk]:
    """Yield what is left of a direct chunk behind its first bytes, to be read; gaps between the reads are zeros."""
    return _cut_pieces(_to_be_read(plan, chunk, sent), sizes, 0)


def _cut_pieces(pieces: Iterable[_Piece], sizes: Sizes, pipe_size: int) -> Iterator[Chunk]:
    chunk = Chunk()
    for piece in pieces:
        if piece.direct is not chunk.direct and chunk.length:
            yield chunk
            chunk = Chunk()
        chunk.direct, limit = piece.direct, pipe_size if piece.direct else sizes.chunk
        done = 0
        while done < piece.length:
            if chunk.length == limit or len(chunk.ranges) >= 2 * sizes.ranges:
                yield chunk
                chunk = Chunk(direct=piece.direct)
            step = min(piece.length - done, limit - chunk.length)
            chunk.add(piece.address + done, step, piece.zeros)
            done += step
    if chunk.length:
        yield chunk


class _Reads:
    """The reads of a plan, taken segment by segment in the order of the file."""

    def __init__(self, plan: DumpPlan) -> None:
        self._reads = plan.reads
        self._index = 0

    def pieces(self, position: int, end: int) -> Iterator[_Piece]:
        """Yield what of a segment is to be read and the zeros in between."""
        reads = self._reads
        while self._index < len(reads) and reads[self._index] < end:
            address, length = reads[self._index], reads[self._index + 1]
            if address > position:
                yield _Piece(position, address - position, zeros=True)
            yield _Piece(address, length)
            position = address + length
            self._index += 2
        if position < end:
            yield _Piece(position, end - position, zeros=True)

    def skip(self, end: int) -> None:
        """Pass over a segment."""
        self._index = 2 * bisect.bisect_left(range(0, len(self._reads), 2), end, key=self._reads.__getitem__)


def _pieces(plan: DumpPlan) -> Iterator[_Piece]:
    reads = _Reads(plan)
    for start, file_size in zip(plan.starts, plan.file_sizes, strict=True):
        yield from reads.pieces(start, start + file_size)


def _long_pieces(plan: DumpPlan, direct: array[int]) -> Iterator[_Piece]:
    """As _pieces; neighbours inside direct ranges become one direct piece where they are long enough together."""
    held: list[_Piece] = []
    held_bytes = 0
    for piece, inside in _cut(plan, direct):
        if piece.zeros and piece.length > _MAX_GAP:
            inside = False
        if held and not (inside and held[-1].address + held[-1].length == piece.address):
            yield from held
            held, held_bytes = [], 0
        if not inside:
            yield piece
            continue
        held_bytes += piece.length
        if held_bytes < _MIN_DIRECT:
            held.append(piece)
        else:
            first = held[0] if held else piece
            held = [_Piece(first.address, held_bytes, direct=True)]
    yield from held


def _cut(plan: DumpPlan, ranges: array[int]) -> Iterator[tuple[_Piece, bool]]:
    """Yield the pieces, cut where ranges (start, end, ...) begin and end, and whether they lie inside one.

    A long segment inside of one is a piece as it is, where no gap in it can be a large one: it may have many runs.
    """
    reads = _Reads(plan)
    for start, file_size in zip(plan.starts, plan.file_sizes, strict=True):
        segment_end = start + file_size
        index = bisect.bisect_right(ranges, start)
        if file_size >= _MIN_DIRECT and index % 2 and segment_end <= ranges[index] and plan.min_hole <= _MAX_GAP:
            yield _Piece(start, file_size), True
            reads.skip(segment_end)
            continue
        for piece in reads.pieces(start, segment_end):
            address, end = piece.address, piece.address + piece.length
            index = bisect.bisect_right(ranges, address)
            while address < end:
                border = min(ranges[index], end) if index < len(ranges) else end
                yield _Piece(address, border - address, piece.zeros), bool(index % 2)
                address, index = border, index + 1


def _to_be_read(plan: DumpPlan, chunk: Chunk, sent: int) -> Iterator[_Piece]:
    reads = plan.reads
    for index in range(0, len(chunk.ranges), 2):
        begin, end = chunk.ranges[index], chunk.ranges[index] + chunk.ranges[index + 1]
        skipped = min(sent, end - begin)
        sent -= skipped
        begin += skipped
        at = bisect.bisect_right(range(0, len(reads), 2), begin, key=reads.__getitem__) - 1
        at = 2 * max(at, 0)
        while begin < end:
            while at < len(reads) and reads[at] + reads[at + 1] <= begin:
                at += 2
            start, stop = (reads[at], reads[at] + reads[at + 1]) if at < len(reads) else (end, end)
            border = min(start if begin < start else stop, end)
            yield _Piece(begin, border - begin, zeros=begin < start)
            begin = border
