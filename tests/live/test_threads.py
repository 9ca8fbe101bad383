"""Threads that never sleep, and threads that come and go: dump after dump is good."""

from __future__ import annotations

import os
import struct

import pytest

from ..support.checks import assert_counter_moves, assert_target_untouched
from ..support.cores import Core, assert_well_formed, pattern
from ..support.dumps import in_both_modes
from ..support.engine import run_corepipe
from ..support.proc import tids, tracers
from ..support.readers import run_gdb
from ..support.waiting import SLOWNESS

pytestmark = pytest.mark.live
DUMPS_OF_EACH_MODE = 100 if int(os.environ.get("COREPIPE_SOAK", "0")) else 17
SPINNING = 16 if SLOWNESS == 1 else 4
"""An emulated machine comes to nothing else with 16."""


@in_both_modes("16 threads that never sleep", "buffer")
def test_dumps_of_16_spinning_threads_are_all_good(spawn_target, tmp_path, mode):
    target = spawn_target("spin", SPINNING)
    before = target.fingerprint()
    for _ in range(DUMPS_OF_EACH_MODE):
        run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
        core = Core(tmp_path / "core")
        assert_well_formed(core)
        assert core.thread_ids == tids(target.pid)
        assert_counter_moves(target)
    assert_target_untouched(target, before)


@in_both_modes("threads that come and go", "buffer")
def test_dumps_of_a_process_that_keeps_creating_and_ending_threads_are_all_good(spawn_target, tmp_path, mode):
    target = spawn_target("churn", 40)  # those that sleep are listed first: a thread may come while they are stopped
    before = target.fingerprint()
    for _ in range(DUMPS_OF_EACH_MODE):
        report = tmp_path / "report.json"
        outcome = run_corepipe(target.pid, "--mode", mode, "--report", report, output=tmp_path / "core")
        core = Core(tmp_path / "core")
        assert_well_formed(core)
        assert outcome.report(report)["threads"] == len(core.thread_ids) >= 4
        assert core.thread_ids[0] == target.pid
        ids = core.read(target.number("living"), 4 * target.number("living_count"))
        living = {tid for (tid,) in struct.iter_unpack("<i", ids) if tid}
        assert living <= set(core.thread_ids), "a thread was left running: it is in the memory and not in the notes"
        assert_counter_moves(target)
    assert_target_untouched(target, before)


@pytest.mark.needs("gdb")
@pytest.mark.parametrize(("program", "function"), [("spin", "spin"), ("churn", "churn")])
def test_gdb_unwinds_every_thread_of_a_busy_process(spawn_target, build_target, tmp_path, program, function):
    target = spawn_target(program, *((SPINNING,) if program == "spin" else ()))
    run_corepipe(target.pid, output=tmp_path / "core")
    reading = run_gdb(build_target(program), tmp_path / "core", "thread apply all bt")
    threads = len(Core(tmp_path / "core").thread_ids)
    assert reading.out.count("\nThread ") == threads
    assert reading.out.count(f" {function} (") >= (SPINNING if program == "spin" else 4)


@in_both_modes("first thread has ended", "buffer")
def test_a_process_whose_first_thread_has_ended_is_dumped_with_the_others(spawn_target, tmp_path, mode):
    target = spawn_target("leaderless")
    before = target.fingerprint()
    for _ in range(3):
        run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
        core = Core(tmp_path / "core")
        assert_well_formed(core)
        assert core.thread_ids == [tid for tid in tids(target.pid) if tid != target.pid]
        assert core.read(target.number("area"), 4 * 4096) == pattern(4 * 4096)
        assert not tracers(target.pid)
        assert_counter_moves(target)
        assert target.signals == before.signals
        assert target.fingerprint().children == before.children
