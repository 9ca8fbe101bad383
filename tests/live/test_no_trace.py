"""A process that watches itself sees nothing of a dump: no signal, no child, no call that ends otherwise."""

from __future__ import annotations

import os
import signal

import pytest

from ..support import proc
from ..support.checks import assert_running, assert_target_untouched
from ..support.engine import assert_nothing_left, run_corepipe

pytestmark = pytest.mark.live
MODES = ("snapshot", "buffer")
DUMPS = 200 if int(os.environ.get("COREPIPE_SOAK", "0")) else 4


def dump_again_and_again(target, mode) -> None:
    for _ in range(DUMPS):
        outcome = run_corepipe(target.pid, "--mode", mode)
        assert target.failures == 0, "the target saw something"
        assert_nothing_left(outcome.pid)


@pytest.mark.parametrize("mode", MODES)
def test_calls_with_timeouts_end_as_they_would_without_a_dump(spawn_target, mode):
    target = spawn_target("observer", "calls", signals="default")
    before = target.fingerprint()
    masks = {tid: proc.status_field(target.pid, "SigBlk", tid) for tid in proc.tids(target.pid)}
    dump_again_and_again(target, mode)
    assert_target_untouched(target, before)
    assert {tid: proc.status_field(target.pid, "SigBlk", tid) for tid in proc.tids(target.pid)} == masks
    assert all(not int(proc.status_field(target.pid, name), 16) for name in ("SigPnd", "ShdPnd"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("restart", [(), ("restart",)], ids=["interrupting", "restarting"])
def test_a_process_that_waits_for_any_child_meets_only_its_own(spawn_target, mode, restart):
    target = spawn_target("observer", "children", *restart, signals="default")
    dump_again_and_again(target, mode)
    assert_running(target.pid)
    os.kill(target.pid, signal.SIGUSR2)
    assert target.process.wait(30) == 0
    assert target.failures == 0
    assert target.signals[signal.SIGCHLD] > 10


@pytest.mark.parametrize("mode", MODES)
def test_a_timer_at_1_khz_and_the_calls_it_interrupts_go_on(spawn_target, mode):
    target = spawn_target("observer", "alarm", signals="default")
    before = target.fingerprint()
    dump_again_and_again(target, mode)
    assert_target_untouched(target, before)
