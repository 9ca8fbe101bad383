"""What a dump must not cost the target: what it shares is not copied, what is swapped out is not read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..support import machine, proc
from ..support.checks import NET_BYTES, assert_no_larger, assert_running, assert_target_untouched
from ..support.cores import Core, assert_well_formed, pattern
from ..support.engine import run_corepipe
from ..support.targets import Target
from ..support.waiting import eventually

pytestmark = pytest.mark.live
PAGE = 4096
MODES = ("direct", "buffer", "snapshot")


def in_each_mode(row: str) -> list[Any]:
    """Modes, as parameters of a test that tells of a row in the README."""
    marks = {mode: [pytest.mark.tells("memory", row, mode)] for mode in ("direct", "snapshot")}
    return [pytest.param(mode, marks=marks.get(mode, [])) for mode in MODES]


def kilobytes(pid: int, address: int, *names: str) -> int:
    """Sum of fields of smaps, in bytes, of the mapping that holds an address."""
    return sum(int(proc.smaps_field(pid, address, name).split()[0]) * 1024 for name in names)


@pytest.mark.parametrize("mode", in_each_mode("shared with a forked child until one writes"))
def test_pages_that_a_fork_shares_are_read_without_a_copy_of_them(spawn_target, tmp_path, mode):
    target = spawn_target("forked")
    before, memory = target.fingerprint(), proc.memory_fields(target.pid)
    start, size = target.number("area"), target.number("area_bytes")
    assert kilobytes(target.pid, start, "Shared_Clean", "Shared_Dirty") == size
    run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
    assert kilobytes(target.pid, start, "Shared_Clean", "Shared_Dirty") == size
    assert_no_larger(target.pid, memory, mode)
    assert_target_untouched(target, before)
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    assert core.read(start, size) == pattern(size)


@pytest.mark.parametrize("mode", in_each_mode("merged by KSM"))
def test_pages_that_ksm_merged_are_in_the_core_and_stay_merged(spawn_target, tmp_path, mode):
    names = ("mergeable", "mergeable_twin")

    def merged() -> bool:
        return all(kilobytes(target.pid, target.number(name), "Shared_Clean", "Shared_Dirty") == size for name in names)

    with machine.merging() as granted:
        if not granted:
            pytest.skip("no KSM to be had on this machine")
        target = spawn_target("kinds", tmp_path, *names)
        size = target.number("mergeable_bytes")
        eventually("all pages are merged", merged)
    run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
    assert merged()
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    for name in names:
        assert core.read(target.number(name), size) == pattern(size), name
    assert_running(target.pid)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param("missing", "direct", marks=pytest.mark.tells("memory", "served by userfaultfd", "direct")),
        pytest.param("minor", "direct", marks=pytest.mark.tells("memory", "served by userfaultfd", "direct")),
        ("missing", "buffer"),
        ("minor", "buffer"),
    ],
)
def test_pages_that_nobody_brings_are_not_waited_for_and_told_to_be_missing(spawn_target, tmp_path, tell, kind, mode):
    target = spawn_target("odd", kind)
    before = target.fingerprint()
    start, half = target.number("half"), 8 * PAGE
    report = tmp_path / "report"
    outcome = run_corepipe(target.pid, "--mode", mode, "--report", report, output=tmp_path / "core")
    assert_target_untouched(target, before)
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    assert core.read(start, 2 * half) == pattern(half) + bytes(half)
    assert outcome.report(report)["unreadable"] == [[start + half, half]]
    assert "32.00 KiB could not be read and are zeros in the core" in outcome.stderr
    tell("present pages; the others are named")


SWAPPED = ("private", "protnone", "file_written", "shared", "memfd", "dontfork", "wipeonfork")
"""All are swapped out. Of the shared ones, and of the last two, a fork has nothing: they are read in the target."""
PRIVATE = tuple(name for name in SWAPPED if name not in ("shared", "memfd"))
SWAP_BYTES = 32 << 20


def swapped_out(target: Target, name: str) -> int:
    return kilobytes(target.pid, target.number(name), "Swap")


@pytest.fixture
def swapped(spawn_target, tmp_path) -> Iterator[Target]:
    """A target whose areas are all swapped out."""
    with machine.swap_file(tmp_path / "swap", SWAP_BYTES) as granted:
        if not granted:
            pytest.skip("no swap to be had on this machine")
        target = spawn_target("kinds", tmp_path, *SWAPPED)

        def out(name: str) -> bool:
            machine.page_out(target.pid, target.number(name), target.number(f"{name}_bytes"))
            wanted = PAGE if name == "file_written" else target.number(f"{name}_bytes")
            return swapped_out(target, name) == wanted

        for name in SWAPPED:
            eventually(f"{name} is swapped out", lambda name=name: out(name))
        yield target
        target.end()  # before its pages must be read back for the swap to be given back


def content(target: Target, name: str) -> bytes:
    words = pattern(target.number(f"{name}_bytes"), SWAPPED.index(name) << 32)
    return bytes(byte ^ 0xFF for byte in words[:8]) + words[8:] if name == "file_written" else words


def assert_holds_all(target: Target, core: Core) -> None:
    assert_well_formed(core)
    for name in SWAPPED:
        assert core.read(target.number(name), target.number(f"{name}_bytes")) == content(target, name), name


@pytest.mark.parametrize("mode", in_each_mode("swapped out"))
def test_swapped_out_memory_is_in_the_core_and_stays_out_where_a_copy_can_be_read(swapped, tmp_path, tell, mode):
    before, memory = swapped.fingerprint(), proc.memory_fields(swapped.pid)
    sizes = {name: swapped_out(swapped, name) for name in SWAPPED}
    report = tmp_path / "report.json"
    outcome = run_corepipe(swapped.pid, "--mode", mode, "--report", report, output=tmp_path / "core")
    assert_holds_all(swapped, Core(tmp_path / "core"))
    assert outcome.report(report)["unreadable"] == []
    after = proc.memory_fields(swapped.pid)
    read_in_place = ("dontfork", "wipeonfork") if mode == "snapshot" else PRIVATE
    needed = sum(sizes[name] for name in read_in_place)
    assert memory["VmSwap"] - after["VmSwap"] <= needed
    assert after["RssAnon"] - memory["RssAnon"] <= needed + (NET_BYTES if mode == "snapshot" else 0)
    if mode == "snapshot":
        for name in ("private", "protnone", "file_written"):
            assert swapped_out(swapped, name) == sizes[name], name
    assert swapped.process.poll() is None
    assert swapped.fingerprint() == before
    tell("stays out" if mode == "snapshot" else "is read back")


@pytest.mark.parametrize("mode", ["direct"])
def test_swapped_out_memory_that_is_left_out_is_not_read_back(swapped, tmp_path, mode):
    memory = proc.memory_fields(swapped.pid)
    run_corepipe(swapped.pid, "--mode", mode, "--exclude", "anon,file,shmem", output=tmp_path / "core")
    assert proc.memory_fields(swapped.pid)["VmSwap"] == memory["VmSwap"]
    assert not Core(tmp_path / "core").holds(swapped.number("private"))
