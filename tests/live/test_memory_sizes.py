"""Memory of every size: huge pages, more than 2 GiB, reservations of tebibytes, tens of thousands of mappings."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corepipe_engine.inspection import inspect_process, open_target
from corepipe_engine.options import DumpOptions

from ..support import machine, proc
from ..support.checks import assert_no_larger, assert_target_untouched
from ..support.cores import PATTERN_START, PATTERN_STEP, Core, assert_well_formed, pattern
from ..support.engine import run_corepipe
from ..support.readers import run_gdb, run_reader

pytestmark = pytest.mark.live
PAGE = 4096
GIB, TIB = 1 << 30, 1 << 40
MODES = ("direct", "snapshot")
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))


def in_each_mode(row: str, modes: tuple[str, ...] = MODES) -> list[Any]:
    """Modes, as parameters of a test that tells of a row in the README."""
    return [pytest.param(mode, marks=pytest.mark.tells("memory", row, mode)) for mode in modes]


def assert_follows_in_the_pipe(target, follows: Path, name: str, mode: str) -> None:
    """Every word of an area is right; the core is looked at as it comes out of the pipe."""
    before = target.fingerprint()
    command = f"{follows} {target.number(name):#x} {target.number(f'{name}_bytes')} 0"
    run_corepipe(target.pid, "--mode", mode, "--pipe", command)
    assert target.fingerprint() == before
    assert target.process.poll() is None


@pytest.mark.parametrize("mode", in_each_mode("larger than 2 GiB", MODES if SOAK else ()))
def test_more_than_one_call_can_read_is_right_at_every_place(spawn_target, build_target, tmp_path, mode):
    target = spawn_target("kinds", tmp_path, "beyond_2_gib")
    assert_follows_in_the_pipe(target, build_target("follows"), "beyond_2_gib", mode)


@pytest.mark.parametrize("mode", in_each_mode("transparent huge pages"))
def test_transparent_huge_pages(spawn_target, build_target, tmp_path, mode):
    target = spawn_target("kinds", tmp_path, "thp")

    def huge() -> int:
        return int(proc.smaps_field(target.pid, target.number("thp"), "AnonHugePages").split()[0]) * 1024

    before = huge()
    if not before:
        pytest.skip("the kernel gave no transparent huge page")
    assert_follows_in_the_pipe(target, build_target("follows"), "thp", mode)
    assert huge() == before, "reading splits none"


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        pytest.param("hugetlb", "direct", "private huge pages (filter bit 5)",
                     marks=pytest.mark.tells("memory", "hugetlb pages, private", "direct")),
        pytest.param("hugetlb_shared", "direct", "shared huge pages (filter bit 6)",
                     marks=pytest.mark.tells("memory", "hugetlb pages, shared", "direct")),
    ],
)  # fmt: skip
def test_hugetlb_pages_are_in_the_core_with_their_reason(spawn_target, tmp_path, huge_pages, name, mode, reason):
    target = spawn_target("kinds", tmp_path, name)
    start, size = target.number(name), target.number(f"{name}_bytes")
    run_corepipe(target.pid, "--plan", "--json", "--filter", "ff", output=tmp_path / "plan")
    (region,) = [one for one in json.loads((tmp_path / "plan").read_text())["regions"] if one["start"] == start]
    assert (region["kind"], region["reason"]) == ("hugetlb", reason)
    run_corepipe(target.pid, "--mode", mode, "--filter", "ff", output=tmp_path / "core")
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    assert core.read(start, size) == pattern(size)
    outcome = run_corepipe(target.pid, "--filter", "1f", "--report", tmp_path / "report")
    omitted = outcome.report(tmp_path / "report")["omitted"]
    assert omitted[f"{reason.split(' (')[0]}: filter bit {reason[-2]} is off"] == [1, size]


# --- reservations --------------------------------------------------------------------------------------------------

PLAN_SECONDS = 5.0
"""What a plan may take on an overloaded machine; it takes some milliseconds."""


@pytest.mark.parametrize("mode", in_each_mode("20 TiB reserved, some pages touched"))
def test_a_reservation_of_20_tebibytes_costs_what_was_touched(spawn_target, tmp_path, tell, mode):
    target = spawn_target("sparse", 20 * TIB)
    before, memory = target.fingerprint(), proc.memory_fields(target.pid)
    begun = time.monotonic()
    with contextlib.closing(open_target(target.pid)) as process:
        plan = inspect_process(process, DumpOptions()).plan
    seconds = time.monotonic() - begun
    assert seconds < PLAN_SECONDS
    outcome = run_corepipe(target.pid, "--mode", mode, "--report", tmp_path / "report", output=tmp_path / "core")
    assert_target_untouched(target, before)
    assert_no_larger(target.pid, memory, mode)
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    start = target.number("area")
    resident = int(proc.status_field(target.pid, "VmRSS").split()[0]) * 1024
    assert core.size - core.header_bytes < resident + (1 << 20), "no larger than what was touched, and headers"
    for index in range(5):
        assert core.read(start + target.number(f"touched{index}"), PAGE) == pattern(PAGE)
    assert outcome.report(tmp_path / "report")["holes_bytes"] >= 20 * TIB - (16 << 20)
    assert plan.hole_bytes >= 20 * TIB - (16 << 20)
    tell(f"planned in {max(seconds, 0.001) * 1000:.0f} ms, core of {core.size / 1024:.0f} KiB")


# --- mappings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_mappings() -> Iterator[None]:
    """A process may have 80,000 mappings."""
    path = Path("/proc/sys/vm/max_map_count")
    with contextlib.ExitStack() as stack:
        if int(path.read_text()) < 80_000 and not stack.enter_context(machine.setting(path, "80000")):
            pytest.skip("vm.max_map_count cannot be raised on this machine")
        yield


def word(index: int) -> int:
    return (index * PATTERN_STEP + PATTERN_START) & ((1 << 64) - 1)


def loads(listing: str) -> int:
    return sum(line.split()[:1] == ["LOAD"] for line in listing.splitlines())


@pytest.mark.needs("gdb", "readelf", "eu-readelf")
@pytest.mark.parametrize(
    ("count", "mode"),
    [
        pytest.param(count, mode, marks=pytest.mark.tells("memory", f"{count:,} mappings", mode))
        for count, mode in ((65_000, "snapshot"), (70_000, "direct"), (65_000, "direct"), (70_000, "snapshot"))
        if SOAK or (count == 65_000) == (mode == "snapshot")
    ],
)
def test_tens_of_thousands_of_mappings_are_read_by_all_readers(
    spawn_target, build_target, tmp_path, many_mappings, count, mode
):
    target = spawn_target("many", count)
    before = target.fingerprint()
    path = tmp_path / "core"
    outcome = run_corepipe(target.pid, "--mode", mode, "--report", tmp_path / "report", output=path)
    assert_target_untouched(target, before)
    report = outcome.report(tmp_path / "report")
    assert report["segments"] >= count
    assert report["bytes_written"] == report["bytes_planned"] == path.stat().st_size
    start = target.number("area")
    for reader in (("readelf", "-lW"), ("eu-readelf", "-l")):
        assert loads(run_reader(*reader, path).out) == report["segments"], reader
    indices = (0, 1, count // 2, count - 1)
    words = [f"print *(unsigned long *){start + index * PAGE}" for index in indices]
    reading = run_gdb(build_target("many"), path, *words, "bt")
    assert [line.split(" = ")[1] for line in reading.out.splitlines() if line.startswith("$")] == [
        str(word(index)) for index in indices
    ]
    assert "in beat_forever " in reading.out
    assert_every_page(path, start, count)


def assert_every_page(path: Path, start: int, count: int) -> None:
    """The word of each page is where the program headers say, all of which are of the right size."""
    with path.open("rb") as file:
        header = file.read(64)
        (headers,) = struct.unpack_from("<H", header, 56)
        if headers == 0xFFFF:  # PN_XNUM: the true number stands in the first section header, here behind all data
            file.seek(struct.unpack_from("<Q", header, 40)[0])
            headers = struct.unpack_from("<I", file.read(64), 44)[0]
        file.seek(64)
        found = 0
        table = file.read(headers * 56)
        for kind, _, offset, address, _, size, memory, _ in struct.iter_unpack("<2I6Q", table):
            if kind == 1 and start <= address < start + count * PAGE:
                assert size == memory == PAGE
                file.seek(offset)
                assert struct.unpack("<Q", file.read(8))[0] == word((address - start) // PAGE)
                found += 1
    assert found == count
