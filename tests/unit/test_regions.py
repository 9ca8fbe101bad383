"""regions.py: what a mapping is, and that cutting one loses nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.regions import RegionKind, classify, split_at

from .model import BASE, PAGE, region


@pytest.mark.parametrize(
    ("perms", "inode", "path", "flags", "kind"),
    [
        ("rw-p", 0, b"", "rd wr", RegionKind.ANON),
        ("rw-p", 0, b"", "", RegionKind.ANON),
        ("rw-p", 0, b"[heap]", "rd wr", RegionKind.HEAP),
        ("rw-p", 0, b"[stack]", "rd wr gd", RegionKind.STACK),
        ("rw-p", 0, b"[stack:77]", "", RegionKind.STACK),
        ("rw-p", 0, b"[anon:scudo]", "rd wr", RegionKind.ANON),
        ("r-xp", 0, b"[vdso]", "rd ex", RegionKind.VDSO),
        ("r--p", 0, b"[vvar]", "rd pf io", RegionKind.VVAR),
        ("r--p", 0, b"[vvar_vclock]", "rd pf io", RegionKind.VVAR),
        ("--xp", 0, b"[vsyscall]", "ex", RegionKind.VSYSCALL),
        ("r-xp", 9, b"/bin/a", "rd ex", RegionKind.FILE),
        ("r--s", 9, b"/bin/a", "rd mr", RegionKind.FILE),  # read-only open file: the kernel treats it as private
        ("r--s", 9, b"/bin/a", "", RegionKind.SHARED_FILE),
        ("rw-s", 9, b"/var/db", "rd wr sh", RegionKind.SHARED_FILE),
        ("rw-p", 9, b"/[heap]", "rd wr", RegionKind.FILE),
        ("rw-s", 9, b"/dev/shm/x", "rd wr sh", RegionKind.SHMEM),
        ("rw-p", 9, b"/dev/shm/x", "rd wr", RegionKind.FILE),
        ("rw-s", 9, b"/memfd:jit (deleted)", "rd wr sh", RegionKind.SHMEM),
        ("rw-s", 9, b"/SYSV00000000 (deleted)", "rd wr sh", RegionKind.SHMEM),
        ("rw-s", 9, b"/dev/zero (deleted)", "rd wr sh", RegionKind.SHMEM),
        ("rw-s", 9, b"[anon_shmem:arena]", "rd wr sh", RegionKind.SHMEM),
        ("rw-s", 9, b"/dev/hugepages/x", "rd wr sh ht", RegionKind.HUGETLB),
        ("rw-p", 9, b"/anon_hugepage (deleted)", "rd wr ht", RegionKind.HUGETLB),
        ("rw-s", 9, b"/dev/fb0", "rd wr sh io pf", RegionKind.DEVICE),
        ("rw-s", 9, b"/dev/vfio", "rd wr sh pf", RegionKind.DEVICE),
    ],
)
def test_a_mapping_is_told_by_what_backs_it(perms: str, inode: int, path: bytes, flags: str, kind: RegionKind) -> None:
    assert classify(perms, inode, path, frozenset(flags.split())) is kind


def test_shared_follows_the_flag_sh_where_there_are_flags() -> None:
    assert region(BASE, PAGE, perms="r--s").shared
    assert not region(BASE, PAGE, perms="r--s", flags=frozenset({"rd"})).shared
    assert region(BASE, PAGE, perms="rw-s", flags=frozenset({"rd", "sh"})).shared


@pytest.mark.parametrize(
    ("fields", "zeros"),
    [
        ({}, True),
        ({"kind": RegionKind.HEAP, "path": b"[heap]"}, True),
        ({"perms": "r--p", "path": b"/bin/a", "inode": 1, "kind": RegionKind.FILE}, False),
        ({"perms": "rw-s", "kind": RegionKind.SHMEM, "path": b"/dev/zero (deleted)", "inode": 1}, False),
        ({"perms": "rw-s", "flags": frozenset({"sh"})}, False),
        ({"perms": "r--s", "flags": frozenset({"rd"}), "path": b"/a", "inode": 1}, False),
        ({"path": b"[vdso]", "kind": RegionKind.VDSO}, False),
        ({"path": b"[vvar]", "kind": RegionKind.VVAR}, False),
    ],
)
def test_only_private_anonymous_memory_may_have_holes(fields: dict[str, object], zeros: bool) -> None:
    assert region(BASE, PAGE, **fields).private_anonymous is zeros


def test_a_piece_keeps_the_file_offset_of_its_bytes() -> None:
    whole = region(BASE, 10 * PAGE, offset=4 * PAGE, path=b"/bin/a", inode=1, kind=RegionKind.FILE)
    assert whole.piece(BASE + 3 * PAGE, BASE + 5 * PAGE).offset == 7 * PAGE
    assert region(BASE, 10 * PAGE).piece(BASE + 3 * PAGE, BASE + 5 * PAGE).offset == 0


@given(st.integers(1, 1000), st.integers(0, 1000), st.lists(st.integers(0, 1001), max_size=6))
def test_no_piece_of_a_touched_mapping_passes_for_untouched(size: int, touched: int, cuts: list[int]) -> None:
    touched = min(touched, size)
    whole = region(BASE, size * PAGE, anonymous=touched * PAGE, rss=touched * PAGE, swap=PAGE if touched else 0)
    pieces = split_at([whole], [BASE + cut * PAGE for cut in cuts])
    for piece in pieces:
        assert bool(piece.anonymous) == bool(touched)
        assert piece.anonymous <= piece.size
        assert piece.anonymous % PAGE == 0
    assert sum(piece.anonymous for piece in pieces) >= whole.anonymous


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=6), st.lists(st.integers(-2, 80), max_size=10)
)
def test_cutting_changes_boundaries_and_nothing_else(layout: list[tuple[int, int]], cuts: list[int]) -> None:
    regions, address = [], BASE
    for gap, size in layout:
        address += gap * PAGE
        regions.append(region(address, size * PAGE))
        address += size * PAGE
    boundaries = [BASE + cut * PAGE for cut in cuts]
    pieces = split_at(regions, boundaries)
    covered = [page for piece in pieces for page in range(piece.start, piece.end, PAGE)]
    assert covered == [page for whole in regions for page in range(whole.start, whole.end, PAGE)]
    assert not any(piece.start < cut < piece.end for piece in pieces for cut in boundaries)
    edges = {edge for whole in regions for edge in (whole.start, whole.end)}
    assert all(b.start in edges or b.start in boundaries for _, b in itertools.pairwise(pieces))
    assert split_at(regions, []) == regions


def test_a_file_is_deleted_when_it_has_no_name_left_whatever_its_path_says() -> None:
    named = region(BASE, PAGE, path=b"/tmp/a", inode=5, kind=RegionKind.SHARED_FILE)
    gone = replace(named, path=b"/tmp/a (deleted)")
    assert (named.deleted, gone.deleted) == (False, True)
    assert not replace(gone, links=1).deleted, "it has another link, or this is its name"
    assert replace(gone, links=0).deleted
