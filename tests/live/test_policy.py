"""What goes in and what stays out is what was asked for, and the report says so."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ..support.checks import assert_target_untouched
from ..support.cores import Core, assert_same_as_memory, assert_well_formed, pattern
from ..support.engine import run_corepipe

pytestmark = pytest.mark.live
PAGE = 4096
SIZE = 4 * PAGE
PRIVATE, SHARED, PRIVATE_FILE, SHARED_FILE = "private", "shared", "private_file", "shared_file"


@pytest.fixture
def mappings(spawn_target, tmp_path):
    """The target with one mapping of every kind."""
    return spawn_target("mappings", tmp_path)


def held(core: Core, target, names) -> set[str]:
    """Those of the named mappings whose first byte is in the file."""
    return {name for name in names if core.holds(target.number(name))}


NAMES = ("private", "dontdump", "protnone", "shared", "private_file", "shared_file", "written_file", "memfd")
DEFAULT = {"private", "protnone", "shared", "written_file", "memfd"}


def dump(target, path: Path, *arguments: object, check: int = 0) -> Core:
    run_corepipe(target.pid, *arguments, output=path, check=check)
    core = Core(path)
    assert_well_formed(core)
    return core


def test_by_default_the_core_holds_what_the_kernel_would_dump(mappings, tmp_path):
    before = mappings.fingerprint()
    core = dump(mappings, tmp_path / "core")
    assert held(core, mappings, NAMES) == DEFAULT
    for name in ("private", "protnone", "shared", "memfd"):
        assert core.read(mappings.number(name), SIZE) == pattern(SIZE), name
    assert core.read(mappings.number("written_file"), SIZE) == b"w" + pattern(SIZE)[1:]
    assert_target_untouched(mappings, before)


@pytest.mark.parametrize("mode", ["direct", "buffer"])
def test_memory_that_only_the_kernel_may_read_is_in_the_core(mappings, tmp_path, mode):
    core = dump(mappings, tmp_path / "core", "--mode", mode)
    segment = core.segment_at(mappings.number("protnone"))
    assert segment.flags == 0
    assert core.read(mappings.number("protnone"), SIZE) == pattern(SIZE)


@pytest.mark.parametrize(
    ("bits", "wanted"),
    [
        ("0", set()),
        ("1", {"private", "protnone", "written_file"}),
        ("2", {"shared", "memfd"}),
        ("4", {"private_file", "written_file"}),
        ("8", {"shared_file"}),
        ("3f", set(NAMES) - {"dontdump"}),
        ("33", DEFAULT),
    ],
)
def test_the_targets_coredump_filter_is_respected_and_filter_overrides_it(mappings, tmp_path, bits, wanted):
    path = Path(f"/proc/{mappings.pid}/coredump_filter")
    path.write_text(f"0x{bits}")
    assert held(dump(mappings, tmp_path / "core"), mappings, NAMES) == wanted
    path.write_text("0x33")
    assert held(dump(mappings, tmp_path / "core", "--filter", bits), mappings, NAMES) == wanted


@pytest.mark.parametrize(
    ("arguments", "added", "removed"),
    [
        (("--include", "file"), {"private_file"}, set()),
        (("--include", "*/shared_file"), {"shared_file"}, set()),
        (("--include", "shared-file", "--include", "*/private_file"), {"shared_file", "private_file"}, set()),
        (("--include", "shared-file,file"), {"shared_file", "private_file"}, set()),
        (("--exclude", "shmem"), set(), {"shared", "memfd"}),
        (("--exclude", "anon"), set(), {"private", "protnone"}),
        (("--include", "file", "--exclude", "*/private_file"), set(), set()),
        (("--exclude", "*/private_file", "--include", "file"), {"private_file"}, set()),
        (("--preset", "full"), {"private_file", "shared_file"}, set()),
        (("--preset", "java"), set(), set()),
        (("--preset", "full", "--exclude", "anon"), {"private_file", "shared_file"}, {"private", "protnone"}),
    ],
)
def test_rules_and_presets_change_the_choice_and_the_last_rule_wins(mappings, tmp_path, arguments, added, removed):
    core = dump(mappings, tmp_path / "core", *arguments)
    assert held(core, mappings, NAMES) == (DEFAULT | added) - removed


def test_a_path_with_a_comma_is_one_path(spawn_target, tmp_path):
    folder = tmp_path / "one,heap"
    folder.mkdir()
    target = spawn_target("mappings", folder)
    core = dump(target, tmp_path / "core", "--include", f"{folder}/private_file")
    assert held(core, target, NAMES) == DEFAULT | {"private_file"}
    assert core.read(target.number("private_file"), SIZE) == pattern(SIZE)


def test_a_rule_that_names_no_mapping_is_told(mappings, tmp_path):
    report = tmp_path / "report.json"
    rules = ("--exclude", "*/no-such-library", "--exclude", "anon", "--include", "1000-2000")
    outcome = run_corepipe(mappings.pid, *rules, "--report", report, output=tmp_path / "core")
    unmatched = [
        "--exclude */no-such-library names no mapping of the process",
        "--include 1000-2000 names no mapping of the process",
    ]
    assert [line for line in outcome.report(report)["notices"] if "names no" in line] == unmatched
    assert all(line in outcome.stderr for line in unmatched)
    run_corepipe(mappings.pid, "--plan", *rules, output=tmp_path / "plan")
    assert (tmp_path / "plan").read_text().splitlines()[-2:] == unmatched
    run_corepipe(mappings.pid, "--plan", "--json", *rules, output=tmp_path / "plan")
    assert json.loads((tmp_path / "plan").read_text())["notices"] == unmatched


def test_an_address_range_takes_pages_in_and_out(mappings, tmp_path):
    start = mappings.number("private")
    core = dump(mappings, tmp_path / "core", "--exclude", f"{start + PAGE:x}-{start + 2 * PAGE:x}")
    assert core.read(start, PAGE) == pattern(PAGE)
    assert not core.holds(start + PAGE)
    assert core.read(start + 2 * PAGE, 2 * PAGE) == pattern(2 * PAGE, 2 * PAGE // 8)
    hidden = mappings.number("dontdump")
    core = dump(mappings, tmp_path / "core", "--include", f"0x{hidden:x}-0x{hidden + PAGE:x}")
    assert core.read(hidden, PAGE) == pattern(PAGE)
    assert not core.holds(hidden + PAGE)


def test_the_preset_stacks_keeps_every_stack_and_leaves_out_large_memory(spawn_target, tmp_path):
    target = spawn_target("nine")
    core = dump(target, tmp_path / "core", "--preset", "stacks")
    assert not core.holds(target.number("area"))
    assert core.size < 16 << 20
    assert len(core.thread_ids) == 9


def test_the_preset_full_is_byte_for_byte_what_the_process_has(mappings, tmp_path):
    mappings.stop()
    core = dump(mappings, tmp_path / "core", "--mode", "buffer", "--preset", "full")
    assert_same_as_memory(core, mappings.pid)
    program = next(segment for segment in core.segments if segment.flags & 1 and segment.file_bytes)
    assert program.file_bytes == program.memory_bytes
    mappings.resume()


def test_what_is_left_out_is_in_the_report_with_its_reason(mappings, tmp_path):
    report = tmp_path / "report.json"
    outcome = run_corepipe(mappings.pid, "--report", report, output=tmp_path / "core")
    told = outcome.report(report)
    assert told["omitted"]["MADV_DONTDUMP"] == [1, SIZE]
    assert "shared file mapping: filter bit 3 is off" in told["omitted"]
    core = Core(tmp_path / "core")
    left_out = sum(segment.memory_bytes for segment in core.segments) - core.data_bytes
    assert sum(size for _, size in told["omitted"].values()) + told["holes_bytes"] == left_out


@pytest.mark.parametrize("mode", ["direct", "buffer"])
def test_pages_that_cannot_be_read_are_counted_and_named_and_status_6_if_strict(spawn_target, tmp_path, mode):
    target = spawn_target("mappings", tmp_path, "with a truncated file")
    before = target.fingerprint()
    lost = [target.number("truncated_file") + PAGE, 3 * PAGE]
    report = tmp_path / "report.json"
    for arguments, status in (((), 0), (("--strict",), 6)):
        outcome = run_corepipe(
            target.pid, "--mode", mode, "--report", report, *arguments, output=tmp_path / "core", check=status
        )
        told = outcome.report(report)
        assert told["exit_code"] == status
        assert told["unreadable"] == [lost]
        assert told["unreadable_bytes"] == 3 * PAGE
        assert "12.00 KiB could not be read and are zeros in the core" in outcome.stderr
        core = Core(tmp_path / "core")
        assert_well_formed(core)
        assert core.read(target.number("truncated_file"), SIZE) == b"t" + pattern(PAGE)[1:] + bytes(3 * PAGE)
    assert_target_untouched(target, before)


def test_strict_is_status_0_when_everything_could_be_read(mappings, tmp_path):
    dump(mappings, tmp_path / "core", "--strict")


def test_the_plan_shows_every_region_with_its_reason_and_touches_nothing(mappings, tmp_path):
    mappings.stop()
    before = mappings.fingerprint()
    run_corepipe(mappings.pid, "--plan", output=tmp_path / "plan")
    lines = (tmp_path / "plan").read_text().splitlines()
    (line,) = [line for line in lines if f"{mappings.number('dontdump'):x}-" in line]
    assert line.startswith("  ")
    assert "MADV_DONTDUMP" in line
    (line,) = [line for line in lines if line.endswith("/written_file")]
    assert line.startswith("* ")
    assert "written pages of a private file mapping" in line
    run_corepipe(mappings.pid, "--plan", "--json", "--exclude", "shmem", output=tmp_path / "plan.json")
    plan = json.loads((tmp_path / "plan.json").read_text())
    by_start = {region["start"]: region for region in plan["regions"]}
    assert by_start[mappings.number("memfd")]["reason"] == "--exclude shmem"
    assert plan["threads"] == 1
    assert mappings.fingerprint() == before
    mappings.resume()


def test_the_plan_tells_the_exact_size_of_the_core_of_a_stopped_process(mappings, tmp_path):
    mappings.stop()
    for arguments in ((), ("--preset", "full"), ("--holes", "zero"), ("--filter", "0")):
        run_corepipe(mappings.pid, "--plan", "--json", *arguments, output=tmp_path / "plan.json")
        plan = json.loads((tmp_path / "plan.json").read_text())
        core = dump(mappings, tmp_path / "core", *arguments)
        assert plan["core_bytes"] == core.size, arguments
        assert plan["segments"] == len(core.segments)
    mappings.resume()


def test_the_report_is_for_its_owner_only_and_replaces_what_was_there(mappings, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("old")
    report.chmod(0o644)
    old_umask = os.umask(0)
    try:
        outcome = run_corepipe(mappings.pid, "--report", report, output=tmp_path / "core")
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    told = outcome.report(report)
    assert told["pid"] == mappings.pid
    assert told["comm"] == "mappings"
    assert told["exit_code"] == 0
    assert told["mode"] in ("snapshot", "buffer")
    assert told["mode_why"]
    assert told["version"]
    assert told["started"] <= told["finished"]
    assert told["sink_status"] is None
    assert [path for path in tmp_path.iterdir() if path.name.startswith("report")] == [report], "no temporary file left"


def test_a_report_that_cannot_be_written_is_status_1_after_a_good_core(mappings, tmp_path):
    core = dump(mappings, tmp_path / "core", "--report", "/no/such/folder/report.json", check=1)
    assert len(core.thread_ids) == 1
