"""pagemap.py: touched pages are found, by PAGEMAP_SCAN and by reading pagemap alike."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine import pagemap as pagemap_module
from corepipe_engine.errors import DumpFailedError, NoSuchProcessError
from corepipe_engine.pagemap import SMALL, Pagemap, open_pagemap, scan_spans
from corepipe_engine.procfs import PAGE_SIZE, ProcDir

from .model import region

PRESENT, SWAPPED, GUARD, FILE_PAGE = 1 << 63, 1 << 62, 1 << 58, 1 << 61


class FakeProcess:
    """Stands in for a ProcDir: its pagemap is a file of ours."""

    pid = 77

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        assert name == "pagemap"
        return os.open(self._path, flags)


@pytest.fixture
def ours() -> Iterator[ProcDir]:
    process = ProcDir(os.getpid())
    yield process
    process.close()


def small_pages(memory: mmap.mmap) -> None:
    """No huge page may make neighbours present; EINVAL where the kernel has none."""
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)


def edges(pages: Iterable[int], start: int) -> list[int]:
    return [edge for page in pages for edge in (start + page * PAGE_SIZE, start + (page + 1) * PAGE_SIZE)]


def runs_from_entries(folder: Path, entries: list[int], start: int = 0) -> list[int]:
    file = folder / "pagemap"
    file.write_bytes(bytes(8 * start) + struct.pack(f"<{len(entries)}Q", *entries))
    with open_pagemap(FakeProcess(file), use_scan=False) as pagemap:  # type: ignore[arg-type]
        return list(pagemap.touched_runs([(start * PAGE_SIZE, (start + len(entries)) * PAGE_SIZE)]))


@pytest.mark.parametrize(
    ("entry", "touched"),
    [
        (0, False),
        (PRESENT, True),
        (PRESENT | 0x1234, True),
        (SWAPPED | 77, True),
        (PRESENT | FILE_PAGE, True),
        (SWAPPED | GUARD, False),  # a guard page shows as swapped and cannot be read
        ((1 << 55) | (1 << 57), False),
        (FILE_PAGE, False),
    ],
)
def test_an_entry_of_pagemap_tells_whether_its_page_was_touched(tmp_path: Path, entry: int, touched: bool) -> None:
    assert runs_from_entries(tmp_path, [0, entry, 0], start=5) == ([6 * PAGE_SIZE, 7 * PAGE_SIZE] if touched else [])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400)), max_size=12), st.integers(1, 50))
def test_runs_are_what_the_entries_say_in_slices_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[bool, int]], slice_pages: int
) -> None:
    entries = [PRESENT if touched else 0 for touched, length in runs for _ in range(length)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pagemap_module, "_SLICE_BYTES", 8 * slice_pages)
        found = runs_from_entries(tmp_path_factory.getbasetemp(), entries)
    pages = [number for number, entry in enumerate(entries) if entry]
    assert [page for a, b in zip(found[::2], found[1::2], strict=True) for page in range(a, b, PAGE_SIZE)] == [
        number * PAGE_SIZE for number in pages
    ]
    assert all(a < b for a, b in zip(found[::2], found[1::2], strict=True))
    assert all(end < start for end, start in zip(found[1::2], found[2::2], strict=False))


def test_neighbouring_spans_join_their_runs(tmp_path: Path) -> None:
    file = tmp_path / "pagemap"
    file.write_bytes(struct.pack("<4Q", *[PRESENT] * 4))
    with open_pagemap(FakeProcess(file), use_scan=False) as pagemap:  # type: ignore[arg-type]
        spans = [(0, 2 * PAGE_SIZE), (2 * PAGE_SIZE, 3 * PAGE_SIZE)]
        assert list(pagemap.touched_runs(spans)) == [0, 3 * PAGE_SIZE]


@pytest.mark.parametrize("use_scan", [True, False])
def test_pages_of_our_own_that_we_touched_are_found(ours: ProcDir, use_scan: bool) -> None:
    pages = 3000
    memory = mmap.mmap(-1, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    small_pages(memory)
    touched = [0, 1, 2, 77, 78, 512, 1024, 2047, 2048, 2999]
    for page in touched:
        memory[page * PAGE_SIZE] = 1
    anchor = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(anchor)
    with open_pagemap(ours, use_scan) as pagemap:
        runs = pagemap.touched_runs([(start, start + pages * PAGE_SIZE)])
    found = [page for a, b in zip(runs[::2], runs[1::2], strict=True) for page in range(a, b, PAGE_SIZE)]
    assert found == [start + page * PAGE_SIZE for page in touched]
    del anchor
    memory.close()


@pytest.mark.parametrize(("pages", "vector_length"), [(200, 3), (2000, 1), (2 * 9000, 4096)])
def test_more_runs_than_one_scan_gives_are_all_found(
    ours: ProcDir, monkeypatch: pytest.MonkeyPatch, pages: int, vector_length: int
) -> None:
    monkeypatch.setattr(pagemap_module, "_VECTOR_LENGTH", vector_length)
    memory = mmap.mmap(-1, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    small_pages(memory)
    for page in range(0, pages, 2):
        memory[page * PAGE_SIZE] = 1
    anchor = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(anchor)
    with open_pagemap(ours) as pagemap:
        runs = pagemap.touched_runs([(start, start + pages * PAGE_SIZE)])
    expected = [
        edge for page in range(0, pages, 2) for edge in (start + page * PAGE_SIZE, start + (page + 1) * PAGE_SIZE)
    ]
    assert list(runs) == expected
    del anchor
    memory.close()


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_a_kernel_without_the_scan_is_read_the_other_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    calls: list[int] = []

    def ioctl(*arguments: object) -> int:
        calls.append(1)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    file = tmp_path / "pagemap"
    file.write_bytes(struct.pack("<3Q", 0, PRESENT, 0))
    with open_pagemap(FakeProcess(file)) as pagemap:  # type: ignore[arg-type]
        for _ in range(3):
            assert list(pagemap.touched_runs([(0, 3 * PAGE_SIZE)])) == [PAGE_SIZE, 2 * PAGE_SIZE]
    assert len(calls) <= 2  # it is not asked again and again


def test_a_process_that_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*arguments: object) -> int:
        raise OSError(errno.ESRCH, "No such process")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    file = tmp_path / "pagemap"
    file.write_bytes(b"")
    with open_pagemap(FakeProcess(file)) as pagemap, pytest.raises(NoSuchProcessError):  # type: ignore[arg-type]
        pagemap.touched_runs([(0, PAGE_SIZE)])


def test_a_pagemap_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoSuchProcessError):
        Pagemap(FakeProcess(tmp_path / "gone"))  # type: ignore[arg-type]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(DumpFailedError):
        Pagemap(FakeProcess(loop))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30))
def test_spans_hold_every_wanted_region_and_of_the_others_only_small_ones_without_pages(
    members: list[tuple[bool, int]],
) -> None:
    wanted = [want for want, _ in members]
    pages = {1: {"rss": PAGE_SIZE}, 2: {"swap": PAGE_SIZE}, 3: {"hugetlb": PAGE_SIZE}}
    step = 3 * SMALL
    regions = [region(at * step, 2 * PAGE_SIZE, **pages.get(kind, {})) for at, (_, kind) in enumerate(members)]
    spans = list(scan_spans(regions, wanted))
    for mapped, want, (_, kind) in zip(regions, wanted, members, strict=True):
        inside = [span for span in spans if span[0] <= mapped.start and mapped.end <= span[1]]
        outside = all(span[1] <= mapped.start or mapped.end <= span[0] for span in spans)
        assert len(inside) == 1 if want else outside or not kind
    assert array("Q", [edge for span in spans for edge in span]) == array("Q", sorted({e for s in spans for e in s}))


@pytest.mark.parametrize(("size", "spans"), [(SMALL, 1), (SMALL + PAGE_SIZE, 2)])
def test_guard_pages_cost_no_call_of_their_own_and_reservations_are_not_walked(size: int, spans: int) -> None:
    regions = [region(0, PAGE_SIZE), region(PAGE_SIZE, size), region(PAGE_SIZE + size, PAGE_SIZE)]
    assert len(list(scan_spans(regions, [True, False, True]))) == spans


def test_no_span_reaches_over_a_gap_of_terabytes() -> None:
    """Read entry by entry, the unmapped memory between a heap and a stack would take minutes, inside the stop."""
    heap, near, far = 0x555555554000, 0x555555600000, 0x7FFF00000000
    regions = [region(start, 2 * PAGE_SIZE) for start in (heap, near, far)]
    spans = list(scan_spans(regions, [True] * 3))
    assert spans == [(heap, near + 2 * PAGE_SIZE), (far, far + 2 * PAGE_SIZE)]


def test_without_the_scan_no_more_is_read_than_is_mapped(ours: ProcDir, monkeypatch: pytest.MonkeyPatch) -> None:
    regions = ours.regions()
    spans = list(scan_spans(regions, [True] * len(regions)))
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(pagemap_module.os, "pread", lambda fd, size, at: asked.append(size) or pread(fd, size, at))
    with open_pagemap(ours, use_scan=False) as pagemap:
        assert pagemap.touched_runs(spans)
    mapped = sum(mapping.size for mapping in regions)
    assert sum(asked) <= (mapped + len(regions) * (16 << 20)) // PAGE_SIZE * 8
