"""A model of an address space, which the pure tests plan and stream: every page tells its own address."""

from __future__ import annotations

import ctypes
import functools
import struct
from array import array
from collections.abc import Iterable

from corepipe_engine.chunks import Sizes, chunks
from corepipe_engine.elf import ELF64, ElfFormat, Machine
from corepipe_engine.memory import Buffer
from corepipe_engine.plan import DumpPlan, make_plan
from corepipe_engine.policy import Decision, Extent
from corepipe_engine.regions import Region, RegionKind

PAGE = 4096
BASE = 0x7F00_0000_0000
ALL = Decision(Extent.ALL, "all")
FIRST = Decision(Extent.FIRST_PAGE, "first page")
NONE = Decision(Extent.NONE, "none")


def region(start: int, size: int, **fields: object) -> Region:
    """A private anonymous mapping, unless the fields say otherwise."""
    values: dict[str, object] = {
        "perms": "rw-p",
        "offset": 0,
        "dev": "00:00",
        "inode": 0,
        "path": b"",
        "kind": RegionKind.ANON,
    }
    values.update(fields)
    return Region(start, start + size, **values)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1)
def many_regions() -> tuple[Region, ...]:
    """70,000 mappings of a page, a page apart."""
    return tuple(region(BASE + 2 * PAGE * number, PAGE) for number in range(70_000))


def plan_of(
    decided: Iterable[tuple[Region, Decision, bool]],
    runs: Iterable[int] = (),
    notes_bytes: int = 0,
    elf: ElfFormat = ELF64,
    holes_as_zeros: bool = False,
) -> DumpPlan:
    """make_plan with what these tests do not care for."""
    members = list(decided)
    return make_plan(
        [region for region, _, _ in members],
        [decision for _, decision, _ in members],
        [sparse for _, _, sparse in members],
        array("Q", runs),
        notes_bytes,
        elf=elf,
        machine=Machine.X86_64,
        page_size=PAGE,
        holes_as_zeros=holes_as_zeros,
    )


def page_content(address: int) -> bytes:
    """The bytes of the page at that address: no two pages are alike and none is zero."""
    return struct.pack("<Q", address | 1) * (PAGE // 8)


def content(address: int, length: int) -> bytes:
    """The bytes of any range."""
    first = address // PAGE * PAGE
    pages = b"".join(page_content(page) for page in range(first, address + length, PAGE))
    return pages[address - first : address - first + length]


class ModelMemory:
    """A MemoryReader over that address space. It can be made to fail at an address."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.unreadable: list[tuple[int, int]] = []
        self.reads: list[tuple[int, int]] = []
        self._fail_at = fail_at
        self._error = error

    def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
        assert len(ranges) == len(places)
        for index in range(0, len(ranges), 2):
            address, length = ranges[index], ranges[index + 1]
            assert places[index + 1] == length
            if self._error is not None and self._fail_at is not None and address + length > self._fail_at:
                raise self._error
            self.reads.append((address, length))
            ctypes.memmove(buffer.address + places[index], content(address, length), length)

    def close(self) -> None:
        pass


def file_of(plan: DumpPlan, chunk_bytes: int = 1 << 20) -> bytes:
    """The whole core that a plan gives over the model memory; poison shows where nothing was written."""
    memory = ModelMemory()
    buffer = Buffer(chunk_bytes)
    pieces = [plan.header(bytes(plan.notes_bytes))]
    try:
        for chunk in chunks(plan, Sizes(chunk_bytes)):
            assert 0 < chunk.length <= chunk_bytes
            covered = sum(chunk.places[1::2]) + sum(length for _, length in chunk.zeros)
            assert covered == chunk.length
            buffer.view[:] = b"\xaa" * chunk_bytes
            for offset, length in chunk.zeros:
                buffer.zero(offset, length)
            memory.read(chunk.ranges, buffer, chunk.places)
            pieces.append(bytes(buffer.view[: chunk.length]))
    finally:
        buffer.close()
    pieces.append(plan.trailer())
    return b"".join(pieces)


class Unasked:
    """A stopped thread (arch.StoppedTask) that nothing may be asked of."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"asked for {name}")


UNASKED = Unasked()
