"""Never-touched memory: left out, and only that."""

from __future__ import annotations

import json
import re

import pytest

from ..support import proc
from ..support.checks import assert_no_larger, assert_target_untouched
from ..support.cores import Core, assert_well_formed, pattern
from ..support.engine import run_corepipe
from ..support.readers import run_gdb, run_reader

pytestmark = pytest.mark.live
MODES = ("direct", "buffer", "snapshot")
PAGE = 4096
TIB = 1 << 40


def touched_addresses(target):
    return [target.number("area") + target.number(f"touched{index}") for index in range(5)]


@pytest.mark.parametrize("mode", MODES)
def test_a_reservation_of_a_tebibyte_is_dumped_as_its_touched_pages(spawn_target, tmp_path, mode):
    target = spawn_target("sparse")
    before, memory = target.fingerprint(), proc.memory_fields(target.pid)
    report = tmp_path / "report.json"

    outcome = run_corepipe(target.pid, "--mode", mode, "--report", report, output=tmp_path / "core")

    assert_target_untouched(target, before)
    assert_no_larger(target.pid, memory, mode)
    core = Core(tmp_path / "core")
    assert_well_formed(core)
    assert core.size < 16 << 20
    for address in touched_addresses(target):
        assert core.read(address, PAGE) == pattern(PAGE)
    zero = target.number("area") + target.number("zero")
    assert core.read(zero, PAGE) == bytes(PAGE)
    assert not core.holds(zero + (1 << 30)), "what was never touched is not in the file"
    assert not core.holds(zero + PAGE)
    assert core.read(zero + PAGE, 8 << 20) == bytes(8 << 20), "but it reads as zeros"
    area = [segment for segment in core.segments
            if target.number("area") <= segment.address < target.number("area") + TIB]  # fmt: skip
    assert area[0].address == target.number("area")
    assert sum(segment.memory_bytes for segment in area) == TIB, "the segments tell of the whole reservation"
    told = outcome.report(report)
    assert told["holes_bytes"] > TIB - (16 << 20)
    assert told["bytes_written"] == told["bytes_planned"] == core.size


def test_the_plan_of_a_tebibyte_tells_the_size_that_is_written(spawn_target, tmp_path):
    target = spawn_target("sparse")
    target.stop()
    before = target.fingerprint()
    outcome_path = tmp_path / "plan.json"
    run_corepipe(target.pid, "--plan", "--json", output=outcome_path)
    assert target.fingerprint() == before
    plan = json.loads(outcome_path.read_text())
    run_corepipe(target.pid, output=tmp_path / "core")
    core = Core(tmp_path / "core")
    assert plan["core_bytes"] == core.size
    assert plan["segments"] == len(core.segments)
    assert sum(region["file_bytes"] for region in plan["regions"]) == core.data_bytes
    target.resume()


def test_a_short_untouched_gap_is_sent_as_zeros(spawn_target, tmp_path):
    target = spawn_target("sparse")
    run_corepipe(target.pid, output=tmp_path / "core")
    core = Core(tmp_path / "core")
    assert core.read(target.number("area"), 6 * PAGE) == pattern(PAGE) + bytes(4 * PAGE) + pattern(PAGE)


@pytest.mark.parametrize("mode", MODES)
def test_holes_zero_sends_every_byte_without_touching_the_target(spawn_target, tmp_path, mode):
    target = spawn_target("holes")
    before, memory = target.fingerprint(), proc.memory_fields(target.pid)
    run_corepipe(target.pid, "--mode", mode, "--holes", "zero", output=tmp_path / "core")
    core = Core(tmp_path / "core")
    start, length = target.number("area"), target.number("area_bytes")
    assert core.read(start, PAGE) == pattern(PAGE)
    assert core.read(start + PAGE, length - 2 * PAGE) == bytes(length - 2 * PAGE)
    assert core.read(start + length - PAGE, PAGE) == pattern(PAGE)
    assert_no_larger(target.pid, memory, mode)
    assert_target_untouched(target, before)
    run_corepipe(target.pid, "--mode", mode, output=tmp_path / "small")
    assert Core(tmp_path / "small").size <= core.size - length + (2 << 20)


@pytest.mark.needs("gdb")
def test_gdb_reads_touched_pages_and_takes_holes_for_zeros(spawn_target, build_target, tmp_path):
    target = spawn_target("sparse")
    run_corepipe(target.pid, output=tmp_path / "core")
    addresses = touched_addresses(target)
    hole = target.number("area") + (1 << 33)
    words = [f"print *(unsigned long *){address}" for address in (*addresses, hole)]
    reading = run_gdb(build_target("sparse"), tmp_path / "core", *words)
    values = [line.split(" = ")[1] for line in reading.out.splitlines() if line.startswith("$")]
    assert values == [str(0x1234567)] * len(addresses) + ["0"]


def test_guard_pages_and_holes_between_many_touched_pages_keep_their_places(spawn_target, tmp_path):
    target = spawn_target("checkered")
    target.stop()
    start, count, step = target.number("area"), target.number("count"), target.number("step")
    for mode in MODES:
        report = tmp_path / "report.json"
        outcome = run_corepipe(target.pid, "--mode", mode, "--report", report, output=tmp_path / "core")
        core = Core(tmp_path / "core")
        assert_well_formed(core)
        for index in range(0, count):
            assert core.read(start + index * step, 8) == pattern(8, index), f"page {index}"
        assert outcome.report(report)["unreadable_bytes"] == 0
    target.resume()


@pytest.mark.needs("gdb", "lldb")
@pytest.mark.tells("readers", "gdb, lldb: never-touched memory reads as zeros", "C")
@pytest.mark.parametrize("mode", ["direct", "snapshot"])
def test_a_hole_is_zeros_to_gdb_and_to_lldb(spawn_target, build_target, tmp_path, mode):
    target = spawn_target("sparse")
    core = tmp_path / "core"
    run_corepipe(target.pid, "--mode", mode, output=core)
    address = target.number("area") + target.number("zero") + PAGE
    assert Core(core).segment_at(address).hole
    lldb = run_reader("lldb", "--no-lldbinit", "--batch", "-o", f"memory read -c 16 {address}", "-c", core)
    assert f"{address:#x}: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00" in lldb.out + lldb.err
    gdb = run_gdb(build_target("sparse"), core, f"x/2xg {address}")
    assert re.search(r"0x0+\s0x0+$", gdb.out.strip())
