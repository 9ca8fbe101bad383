"""The target is safe: after a dump it is what it was before."""

from __future__ import annotations

import pytest

from ..support import proc
from ..support.checks import assert_no_larger, assert_still_stopped, assert_target_untouched
from ..support.dumps import in_both_modes
from ..support.engine import assert_nothing_left, run_corepipe
from ..support.targets import M32
from ..support.waiting import eventually

pytestmark = pytest.mark.live
MODES = ("direct", "buffer", "snapshot")


@pytest.mark.parametrize("program", ["nine", "spin", "churn"])
@pytest.mark.parametrize("mode", MODES)
def test_after_a_dump_the_target_runs_unsignalled_untraced_and_without_children(spawn_target, tmp_path, mode, program):
    target = spawn_target(program)
    before = target.fingerprint()
    for _ in range(3):
        outcome = run_corepipe(target.pid, "--mode", mode, "--pipe", f"cat > {tmp_path}/core")
        assert_target_untouched(target, before)
        assert target.signals == {}
        assert_nothing_left(outcome.pid)


@in_both_modes("stopped by SIGSTOP: stays stopped", "buffer")
def test_a_target_stopped_before_is_stopped_after(spawn_target, tmp_path, mode):
    target = spawn_target("nine")
    target.stop()
    before = target.fingerprint()
    counter = target.counter
    for _ in range(3):
        run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
        assert_still_stopped(target, before)
    assert target.counter == counter
    target.resume()
    eventually("the SIGCONT of this test has arrived", lambda: target.signals)
    assert set(target.signals) == {18}, "nothing but the SIGCONT of this test"
    assert_target_untouched(target, target.fingerprint())


@pytest.mark.parametrize("mode", MODES)
def test_a_dump_does_not_make_the_target_larger(spawn_target, tmp_path, mode):
    target = spawn_target("nine")
    target.stop()
    before = proc.memory_fields(target.pid)
    run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
    assert_no_larger(target.pid, before, mode)
    target.resume()


@pytest.mark.parametrize(
    ("flags", "rounds"), [((), 5), pytest.param(M32, 2, marks=pytest.mark.needs("gcc -m32"))], ids=["64-bit", "32-bit"]
)
def test_calls_in_which_threads_sleep_go_on_as_if_nothing_happened(spawn_target, tmp_path, flags, rounds):
    """epoll_wait, recv with a timeout, poll, futex, nanosleep, read: none of them returns early."""
    target = spawn_target("sleepers", flags=flags)
    before = target.fingerprint()
    for mode in MODES:
        for _ in range(rounds):
            run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
            assert target.failures == 0, "a sleeping call returned"
    assert_target_untouched(target, before)
