"""plan.py: the layout is exact before the first byte, and holes are only what was never touched."""

from __future__ import annotations

import io
import itertools
from array import array

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from corepipe_engine.chunks import Sizes, chunks
from corepipe_engine.elf import ELF32, ELF64, PN_XNUM, ElfFormat
from corepipe_engine.plan import MIN_HOLE, ZERO_BLOCK, ZERO_REACH, ZERO_SEGMENTS, core_size, segment_flags, unserved
from corepipe_engine.policy import Decision, Extent
from corepipe_engine.regions import Region

from .model import ALL, BASE, FIRST, NONE, PAGE, file_of, many_regions, page_content, plan_of, region

Decided = tuple[Region, Decision, bool]
MIB = 1 << 20


def touched_pages(runs: list[int]) -> set[int]:
    return {page for start, end in zip(runs[::2], runs[1::2], strict=True) for page in range(start, end, PAGE)}


# --- sizes and headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elf", [ELF64, ELF32])
def test_an_independent_reader_finds_every_segment_where_the_plan_has_it(elf: ElfFormat) -> None:
    base = 0x1000_0000
    decided = [
        (region(base, 3 * PAGE, perms="r-xp"), ALL, False),
        (region(base + 3 * PAGE, 2 * PAGE, perms="r--p"), FIRST, False),
        (region(base + 9 * PAGE, PAGE, perms="---p"), NONE, False),
    ]
    plan = plan_of(decided, notes_bytes=100, elf=elf)
    data = file_of(plan)
    assert len(data) == plan.total_bytes == PAGE + 4 * PAGE
    file = ELFFile(io.BytesIO(data))
    note, *loads = file.iter_segments()
    assert (note["p_type"], note["p_filesz"], note["p_align"]) == ("PT_NOTE", 100, 4)
    assert note["p_offset"] == elf.ehdr.size + 4 * elf.phdr.size
    assert [load["p_type"] for load in loads] == ["PT_LOAD"] * 3
    assert [load["p_vaddr"] for load in loads] == [base, base + 3 * PAGE, base + 9 * PAGE]
    assert [load["p_filesz"] for load in loads] == [3 * PAGE, PAGE, 0]
    assert [load["p_memsz"] for load in loads] == [3 * PAGE, 2 * PAGE, PAGE]
    assert [load["p_flags"] for load in loads] == [5, 4, 0]
    assert [load["p_offset"] for load in loads] == [PAGE, 4 * PAGE, 5 * PAGE]
    assert {load["p_align"] for load in loads} == {PAGE}
    assert loads[1].data() == page_content(base + 3 * PAGE)


@pytest.mark.parametrize(
    ("perms", "flags"), [("rwxp", 7), ("r--p", 4), ("-w-p", 2), ("--xp", 1), ("---s", 0), ("r-xs", 5), ("rw-p", 6)]
)
def test_permissions_become_p_flags(perms: str, flags: int) -> None:
    assert segment_flags(perms) == flags


@pytest.mark.parametrize("headers", [PN_XNUM - 1, PN_XNUM, PN_XNUM + 1, 70_000])
def test_any_number_of_mappings_reads_back(headers: int) -> None:
    """65,535 program headers and more need the extended count, which stands behind all data."""
    segments = headers - 1
    mappings = many_regions()[:segments]
    decided = [(mapped, ALL if i in (0, segments - 1) else NONE, False) for i, mapped in enumerate(mappings)]
    plan = plan_of(decided, notes_bytes=20)
    data = file_of(plan)
    assert len(data) == plan.total_bytes
    assert plan.total_bytes == core_size(ELF64, PAGE, segments, 20, 2 * PAGE)
    file = ELFFile(io.BytesIO(data))
    assert file.num_segments() == headers
    assert file["e_phnum"] == min(headers, PN_XNUM)
    assert len(plan.trailer()) == (ELF64.shdr.size if headers >= PN_XNUM else 0)
    last = file.get_segment(headers - 1)
    assert last["p_vaddr"] == BASE + 2 * PAGE * (segments - 1)
    assert last.data() == page_content(last["p_vaddr"])


def test_a_plan_without_any_mapping_is_a_header_and_notes() -> None:
    plan = plan_of([], notes_bytes=8)
    assert len(file_of(plan)) == plan.total_bytes == PAGE


def test_notes_of_another_size_than_planned_are_refused() -> None:
    plan = plan_of([(region(BASE, PAGE), ALL, False)], notes_bytes=8)
    with pytest.raises(ValueError, match="9 bytes where 8 were planned"):
        plan.header(bytes(9))


# --- holes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "left_out"), [(MIN_HOLE - PAGE, 0), (MIN_HOLE, MIN_HOLE), (MIN_HOLE + PAGE, MIN_HOLE + PAGE)]
)
@pytest.mark.parametrize("place", ["front", "middle", "back"])
def test_holes_are_left_out_from_a_certain_size_on(gap: int, left_out: int, place: str) -> None:
    first, last = [BASE, BASE + PAGE], [BASE + PAGE + gap, BASE + 2 * PAGE + gap]
    runs = {"front": last, "middle": first + last, "back": first}[place]
    begin = BASE + PAGE if place == "front" else BASE
    end = BASE + PAGE + gap if place == "back" else BASE + 2 * PAGE + gap
    plan = plan_of([(region(begin, end - begin), ALL, True)], runs)
    touched = len(runs) // 2 * PAGE
    assert plan.hole_bytes == left_out
    assert plan.data_bytes == touched + gap - left_out
    assert plan.read_bytes == touched
    assert plan.regions[0].zero_bytes == gap - left_out
    assert sum(plan.memory_sizes) == end - begin


@pytest.mark.parametrize("size", [PAGE, MIN_HOLE - PAGE, MIN_HOLE, 1 << 40])
def test_a_mapping_that_nobody_touched_is_never_read(size: int) -> None:
    plan = plan_of([(region(BASE, size), ALL, True)])
    assert plan.read_bytes == 0
    assert plan.data_bytes == (size if size < MIN_HOLE else 0)
    assert plan.segments == (1 if size < MIN_HOLE else -(-min(size, ZERO_REACH) // ZERO_BLOCK))


def test_holes_zero_sends_every_byte_and_still_reads_only_what_was_touched() -> None:
    runs = [BASE + 2 * MIB, BASE + 2 * MIB + PAGE]
    plan = plan_of([(region(BASE, 8 * MIB), ALL, True)], runs, holes_as_zeros=True)
    assert (plan.data_bytes, plan.hole_bytes, plan.read_bytes, plan.segments) == (8 * MIB, 0, PAGE, 1)


def test_a_mapping_that_may_have_no_holes_is_read_whole() -> None:
    plan = plan_of([(region(BASE, 8 * MIB, inode=1), ALL, False)], [])
    assert (plan.read_bytes, plan.data_bytes, plan.hole_bytes) == (8 * MIB, 8 * MIB, 0)


def test_a_run_over_two_mappings_is_read_from_both() -> None:
    decided = [(region(BASE, 4 * PAGE), ALL, True), (region(BASE + 4 * PAGE, 4 * PAGE, perms="r--p"), ALL, True)]
    plan = plan_of(decided, [BASE + PAGE, BASE + 6 * PAGE])
    assert list(plan.reads) == [BASE + PAGE, 3 * PAGE, BASE + 4 * PAGE, 2 * PAGE]


def test_holes_never_push_a_core_to_65535_headers() -> None:
    """jhsdb cannot read such a core: neighbours are joined over the smallest holes instead."""
    runs: list[int] = []
    address = BASE
    for number in range(70_000):
        runs += [address, address + PAGE]
        address += PAGE + MIN_HOLE * (1 if number % 5 else 3)
    plan = plan_of([(region(BASE, address - BASE), ALL, True)], runs)
    assert plan.segments + 1 < PN_XNUM
    assert plan.min_hole > MIN_HOLE
    assert plan.read_bytes == 70_000 * PAGE
    assert plan.data_bytes + plan.hole_bytes == address - BASE
    assert plan.trailer() == b""


def test_joining_stops_at_the_first_hole_size_that_fits() -> None:
    runs: list[int] = []
    address = BASE
    for number in range(66_000):
        runs += [address, address + PAGE]
        address += PAGE + (2 * MIN_HOLE if number % 2 else MIN_HOLE)
    plan = plan_of([(region(BASE, address - BASE), ALL, True)], runs)
    assert plan.min_hole == 2 * MIN_HOLE
    assert plan.segments == 33_000


def test_more_mappings_than_that_keep_their_holes() -> None:
    """Nothing is gained by joining when the mappings alone are too many."""
    decided = [(mapped, NONE, False) for mapped in many_regions()[:PN_XNUM]]
    big = BASE + (1 << 40)
    decided.append((region(big, 4 * MIB), ALL, True))
    plan = plan_of(decided, [big, big + PAGE, big + 2 * MIB, big + 2 * MIB + PAGE])
    assert plan.min_hole == MIN_HOLE
    assert plan.regions[-1].segments == 2


# --- what readers find in a hole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIN_HOLE, ZERO_BLOCK, ZERO_BLOCK + PAGE, 9 * MIB, ZERO_REACH, ZERO_REACH + 5 * PAGE])
@pytest.mark.parametrize("elf", [ELF64, ELF32])
def test_an_independent_reader_finds_zeros_in_a_hole_which_costs_one_block_of_them(size: int, elf: ElfFormat) -> None:
    base = 0x1000_0000
    runs = [base, base + PAGE, base + PAGE + size, base + 2 * PAGE + size]
    plan = plan_of([(region(base, size + 2 * PAGE), ALL, True)], runs, elf=elf)
    data = file_of(plan)
    assert len(data) == plan.total_bytes == core_size(elf, PAGE, plan.segments, 0, 2 * PAGE, size)
    assert len(data) < 2 * PAGE + ZERO_BLOCK + PAGE + 1024 * elf.phdr.size + PAGE
    loads = [segment for segment in ELFFile(io.BytesIO(data)).iter_segments() if segment["p_type"] == "PT_LOAD"]
    assert loads[0].data() == page_content(base)
    assert loads[-1].data() == page_content(base + PAGE + size)
    address = base + PAGE
    for load in loads[1:-1]:
        assert load["p_vaddr"] == address
        assert load.data() == bytes(load["p_filesz"])
        assert load["p_offset"] % PAGE == 0
        address += load["p_filesz"]
    assert address == base + PAGE + min(size, ZERO_REACH), "zeros from the beginning of the hole on"
    assert sum(load["p_memsz"] for load in loads) == size + 2 * PAGE


def test_zeros_reach_less_far_into_many_holes_but_into_each() -> None:
    count, hole = 100, ZERO_REACH
    runs = [edge for i in range(count) for edge in (BASE + i * (hole + PAGE), BASE + i * (hole + PAGE) + PAGE)]
    plan = plan_of([(region(BASE, count * (hole + PAGE)), ALL, True)], runs)
    assert ZERO_BLOCK < plan.reach < ZERO_REACH
    assert ZERO_SEGMENTS // 2 < plan.segments - count <= ZERO_SEGMENTS
    zeros = [(start, size) for start, size in zip(plan.starts, plan.zero_sizes, strict=True) if size]
    assert [sum(size for start, size in zeros if BASE + i * (hole + PAGE) <= start < BASE + (i + 1) * (hole + PAGE))
            for i in range(count)] == [plan.reach] * count  # fmt: skip


def test_a_core_without_holes_has_no_block_of_zeros() -> None:
    plan = plan_of([(region(BASE, 8 * MIB), ALL, True)], [BASE, BASE + 8 * MIB - MIN_HOLE + PAGE])
    assert (plan.hole_bytes, plan.total_bytes) == (0, PAGE + 8 * MIB)


# --- any address space ---------------------------------------------------------------------------------------------

_sizes = st.sampled_from([1, 1, 2, 3, 7, 255, 256, 257, 300, 511, 512, 513, 600])
_gaps = st.sampled_from([0, 0, 1, 5, 300])


@st.composite
def address_spaces(draw: st.DrawFn) -> tuple[list[Decided], list[int]]:
    decided: list[Decided] = []
    address = BASE
    for _ in range(draw(st.integers(1, 5))):
        address += draw(_gaps) * PAGE
        size = draw(_sizes) * PAGE
        decided.append(
            (region(address, size), draw(st.sampled_from([ALL, ALL, ALL, FIRST, NONE])), draw(st.booleans()))
        )
        address += size
    runs: list[int] = []
    position = BASE - 2 * PAGE
    while True:
        position += draw(st.sampled_from([1, 1, 2, 31, 32, 33, 63, 64, 65, 200, 257, 400, 600])) * PAGE
        length = draw(st.sampled_from([1, 1, 2, 100, 256])) * PAGE
        if position >= address:
            break
        runs += [position, position + length]
        position += length
    return decided, runs


@settings(max_examples=150)
@given(address_spaces(), st.booleans(), st.integers(0, 9000), st.sampled_from([PAGE, 3 * PAGE, 1 << 20, (1 << 20) + 8]))
def test_every_touched_byte_is_at_its_place_and_every_hole_was_never_touched(
    space: tuple[list[Decided], list[int]], whole: bool, notes_bytes: int, chunk_bytes: int
) -> None:
    decided, runs = space
    plan = plan_of(decided, runs, notes_bytes, holes_as_zeros=whole)
    data = file_of(plan, chunk_bytes)
    touched = touched_pages(runs)

    headers = plan.header(bytes(notes_bytes))
    assert len(data) == plan.total_bytes == len(headers) + sum(plan.file_sizes) + len(plan.trailer())
    assert list(plan.starts) == sorted(plan.starts)
    assert sum(plan.memory_sizes) == sum(r.size for r, _, _ in decided)
    assert all(file <= memory for file, memory in zip(plan.file_sizes, plan.memory_sizes, strict=True))
    assert not any(whole and planned.hole_bytes for planned in plan.regions)

    reads = list(zip(plan.reads[::2], plan.reads[1::2], strict=True))
    assert all(length > 0 for _, length in reads)
    assert all(a + length <= b for (a, length), (b, _) in itertools.pairwise(reads))

    in_file: dict[int, bytes] = {}
    offset = len(headers)
    assert offset % PAGE == 0
    zeros: set[int] = set()
    for start, file, zero in zip(plan.starts, plan.file_sizes, plan.zero_sizes, strict=True):
        for position in range(0, file, PAGE):
            in_file[start + position] = data[offset + position : offset + position + PAGE]
        zeros.update(range(start, start + zero, PAGE))
        offset += file
    seen = {
        segment["p_vaddr"] + position: content[position : position + PAGE]
        for segment in ELFFile(io.BytesIO(data)).iter_segments()
        if segment["p_type"] == "PT_LOAD" and (content := segment.data())
        for position in range(0, len(content), PAGE)
    }
    assert seen == {**in_file, **dict.fromkeys(zeros, bytes(PAGE))}, "what a reader sees"
    for address, length in reads:
        assert all(page in in_file for page in range(address, address + length, PAGE))

    for (mapping, decision, has_holes), planned in zip(decided, plan.regions, strict=True):
        pages = range(mapping.start, mapping.end, PAGE)
        if decision.extent is Extent.NONE:
            assert not any(page in in_file for page in pages)
        elif decision.extent is Extent.FIRST_PAGE:
            assert [page for page in pages if page in in_file] == [mapping.start]
            assert in_file[mapping.start] == page_content(mapping.start)
        else:
            left_out = 0
            for page in pages:
                if not has_holes or page in touched:
                    assert in_file[page] == page_content(page)
                elif page in in_file:
                    assert in_file[page] == bytes(PAGE)
                else:
                    left_out += PAGE
                    assert page in zeros
            assert left_out == planned.hole_bytes
        assert planned.file_bytes == sum(PAGE for page in pages if page in in_file)
        assert planned.region is mapping
    assert plan.segments == sum(planned.segments for planned in plan.regions)


def test_a_large_mapping_is_not_repeated_from_its_start() -> None:
    """Position-dependent content over many buffers: no piece of it stands for another."""
    plan = plan_of([(region(BASE, 20 * MIB), ALL, False)])
    data = file_of(plan)[PAGE:]
    assert all(data[at : at + PAGE] == page_content(BASE + at) for at in range(0, 20 * MIB, PAGE))


def test_chunks_hold_no_more_ranges_than_one_system_call_takes() -> None:
    runs = [edge for i in range(5000) for edge in (BASE + 2 * i * PAGE, BASE + (2 * i + 1) * PAGE)]
    plan = plan_of([(region(BASE, 10_000 * PAGE), ALL, True)], runs)
    assert max(len(chunk.ranges) // 2 for chunk in chunks(plan, Sizes(64 << 20))) <= 1024
    assert array("Q", [r for chunk in chunks(plan, Sizes(64 << 20)) for r in chunk.ranges]) == plan.reads


def test_what_only_userfaultfd_could_bring_is_named() -> None:
    served = frozenset({"um"})
    before, first, second, left_out = (
        region(BASE + 16 * PAGE * number, 16 * PAGE, flags=served if number else frozenset()) for number in range(4)
    )
    decided = [(before, ALL, True), (first, ALL, True), (second, ALL, True), (left_out, NONE, True)]
    pages = [(0, 1), (18, 20), (31, 32)]
    plan = plan_of(decided, [BASE + page * PAGE for run in pages for page in run])
    wanted = [(16, 18), (20, 31), (32, 48)]
    assert unserved(plan) == [(BASE + start * PAGE, (end - start) * PAGE) for start, end in wanted]
