"""The snapshot's pages go into the sink uncopied, and the core is none the worse for it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from ..support.cgroups import cgroup_v2, in_group
from ..support.checks import assert_counter_moves, assert_target_untouched
from ..support.cores import Core, assert_well_formed, pattern
from ..support.engine import assert_nothing_left, run_corepipe
from ..support.snapshots import streaming
from ..support.waiting import eventually

__all__ = ["cgroup_v2"]

pytestmark = pytest.mark.live
UNREAD = 900 << 10
"""Bytes that fit into the sink's pipe, whatever its pages are filled with."""
VMSPLICE, PIPE2, CLOSE_RANGE = 278, 293, 436


def assert_whole(target, core: Core) -> None:
    assert_well_formed(core)
    size = target.number("area_bytes")
    assert core.read(target.number("area"), size) == pattern(size)


def read_report(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize(("flags", "spliced"), [(os.O_TRUNC, True), (os.O_APPEND, False)], ids=["file", "append"])
def test_a_file_takes_the_pages_uncopied_and_one_that_appends_takes_them_too(spawn_target, tmp_path, flags, spliced):
    target = spawn_target("nine")
    before, path, report = target.fingerprint(), tmp_path / "core", tmp_path / "report.json"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    try:
        run_corepipe(target.pid, "--mode", "snapshot", "--report", report, stdout=fd)
    finally:
        os.close(fd)
    assert (read_report(report)["bytes_spliced"] >= target.number("area_bytes")) is spliced
    assert_whole(target, Core(path))
    assert_target_untouched(target, before)


@pytest.mark.parametrize("mode", ["snapshot", "buffer", "direct"])
def test_the_digest_is_that_of_the_bytes_that_arrived(spawn_target, tmp_path, mode):
    target = spawn_target("nine", 8 << 20)
    report = tmp_path / "report.json"
    outcome = run_corepipe(target.pid, "--mode", mode, "--sha256", "--report", report, output=tmp_path / "core")
    arrived = hashlib.sha256((tmp_path / "core").read_bytes()).hexdigest()
    assert read_report(report)["sha256"] == arrived
    assert f"SHA-256 of the core {arrived}" in outcome.stderr
    run_corepipe(target.pid, "--mode", mode, "--sha256", "--report", report, "--pipe", "head -c 99 >/dev/null", check=5)
    assert read_report(report)["sha256"] == "", "of a core that is not whole there is none"


@pytest.mark.parametrize("sink", ["cat", "sleep 0.3; cat", "dd bs=777 status=none"])
def test_a_pipe_gets_the_pages_whatever_reads_it(spawn_target, tmp_path, sink):
    target = spawn_target("nine")
    before, report = target.fingerprint(), tmp_path / "report.json"
    run_corepipe(target.pid, "--mode", "snapshot", "--pipe", f"({sink}) >{tmp_path}/core", "--report", report)
    told = read_report(report)
    assert told["bytes_spliced"] >= target.number("area_bytes")
    assert told["bytes_written"] == told["bytes_planned"] == os.stat(tmp_path / "core").st_size
    assert_whole(target, Core(tmp_path / "core"))
    assert_target_untouched(target, before)


@pytest.mark.parametrize("number", [VMSPLICE, PIPE2, CLOSE_RANGE], ids=["vmsplice", "pipe2", "close_range"])
@pytest.mark.parametrize("kind", ["allow", "errno", "kill", "trap"])
def test_where_a_filter_forbids_it_the_memory_is_read(spawn_target, tmp_path, kind, number):
    target = spawn_target("confined", kind, number)
    before, report = target.fingerprint(), tmp_path / "report.json"
    run_corepipe(target.pid, "--mode", "snapshot", "--report", report, output=tmp_path / "core")
    told = read_report(report)
    assert told["mode"] == "snapshot"
    assert (told["bytes_spliced"] > 0) is (kind == "allow")
    assert_whole(target, Core(tmp_path / "core"))
    assert_target_untouched(target, before)


def test_a_cgroup_that_is_frozen_meanwhile_holds_nothing_up(spawn_target, tmp_path, cgroup_v2):
    """The snapshot is in the target's cgroup: frozen with it, it cannot send its pages any more, but it can be read."""
    target = spawn_target("nine")
    with in_group(cgroup_v2, target.pid) as group:
        with streaming(target.pid) as stream:
            (group / "cgroup.freeze").write_text("1")
            events = group / "cgroup.events"
            eventually("the cgroup is frozen", lambda: "frozen 1" in events.read_text())
            core = stream.read_core(tmp_path / "core")
        (group / "cgroup.freeze").write_text("0")
    assert_whole(target, core)
    assert_counter_moves(target)


@pytest.mark.parametrize("name", ["private", "thp"])
def test_pages_in_the_pipe_stay_as_they_are_when_the_copy_has_ended(spawn_target, tmp_path, shm_folder, name):
    """The last ones are still unread then, and the target is the only one that has them mapped."""
    target = spawn_target("kinds", shm_folder, name)
    report, plan = tmp_path / "report.json", tmp_path / "plan.json"
    run_corepipe(target.pid, "--plan", "--json", output=plan)
    total = json.loads(plan.read_text())["core_bytes"]
    with streaming(target.pid, "--report", report) as stream:
        begin = b""
        while len(begin) < total - UNREAD:
            begin += os.read(stream.read_end, total - UNREAD - len(begin))
        eventually("the copy has ended", lambda: not os.path.exists(f"/proc/{stream.snapshot}/fd/0"))
        os.kill(target.pid, signal.SIGUSR1)
        eventually("the area is inverted", lambda: target.counter == 2)
        core = stream.read_core(tmp_path / "core", begin)
    assert_well_formed(core)
    size = target.number(f"{name}_bytes")
    assert core.read(target.number(name), size) == pattern(size)
    last = target.number(name) + size - 4096
    (place,) = (
        segment.offset + last - segment.address
        for segment in core.segments
        if segment.address <= last < segment.address + segment.file_bytes
    )
    assert place > len(begin), "the end of the area was in the pipe"
    assert read_report(report)["bytes_spliced"] > size // 2


def test_a_reader_that_goes_away_ends_the_dump_and_the_snapshot(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    outcome = run_corepipe(target.pid, "--mode", "snapshot", "--pipe", "head -c 3000000 >/dev/null", check=5)
    assert_nothing_left(outcome.pid)
    assert_target_untouched(target, before)


def test_memory_the_target_has_read_but_never_written_is_sent_as_zeros(spawn_target, tmp_path):
    """Gaps inside a direct range are pages the snapshot never had: it sends the zero page for them."""
    target = spawn_target("holes")
    before, report = target.fingerprint(), tmp_path / "report.json"
    run_corepipe(target.pid, "--mode", "snapshot", "--report", report, output=tmp_path / "one")
    run_corepipe(target.pid, "--mode", "direct", output=tmp_path / "other")
    one, other = Core(tmp_path / "one"), Core(tmp_path / "other")
    assert read_report(report)["unreadable"] == []
    for segment in other.segments:
        if segment.address <= target.number("area") < segment.address + segment.memory_bytes:
            assert one.read(segment.address, segment.file_bytes) == other.read(segment.address, segment.file_bytes)
            break
    else:
        raise AssertionError("the area is in no segment")
    assert_target_untouched(target, before)
