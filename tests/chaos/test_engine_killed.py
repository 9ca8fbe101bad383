"""Whatever ends corepipe, and whenever: every thread of the target runs at once, and nothing of ours is left."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from ..support import proc
from ..support.cgroups import cgroup_v2, in_group
from ..support.waiting import eventually
from .support import (
    MODES,
    SINKS,
    assert_right,
    in_moments,
    milliseconds,
    seconds_until_all_run,
    seeded,
    sleep_until_moment,
    times,
)

__all__ = ["cgroup_v2"]
pytestmark = pytest.mark.live
ENDS = {signal.SIGKILL: (0, -9), signal.SIGTERM: (0, 130, -15), signal.SIGINT: (0, 130), signal.SIGHUP: (0, 130, -1)}
"""Signal -> how corepipe may end: done already, interrupted, or before it had looked after its signals."""
ROW = "corepipe gets SIGKILL, SIGTERM, SIGINT, SIGHUP, alone or with its pipe command, in every mode"


def test_a_signal_at_any_moment_leaves_a_right_target_with_all_threads_running(driver, steady, tell_row):
    moments = seeded("signals")
    before = steady.fingerprint()
    whole = {mode: driver.usual_seconds(steady.pid, "--mode", mode, "--pipe", SINKS[0]) for mode in MODES}
    taken = []
    for _ in range(times(40, 1000)):
        mode, sink = moments.choice(MODES), moments.choice(SINKS)
        number, group = moments.choice([signal.SIGKILL, *ENDS]), moments.random() < 0.25
        run = driver.start(steady.pid, "--mode", mode, "--pipe", sink)
        sleep_until_moment(moments, whole[mode])
        run.kill(number, group)
        taken.append(seconds_until_all_run(steady))
        if not group:  # a pipe command that is hit is another matter
            assert run.status in ENDS[number], driver.errors
        else:
            assert run.status in (*ENDS[number], 5, 1), driver.errors
        assert "Traceback" not in driver.errors
        assert_right(steady, before)
    result = f"all 20 threads run, results right, nothing left; {milliseconds(taken)}"
    tell_row("faults", ROW, {"tried": in_moments(len(taken)), "what happened": result})


def test_kill_9_at_any_moment_of_a_target_that_somebody_stops_and_continues(driver, spawn_target, tell_row):
    target = spawn_target("chaos", "steady", signals="default")
    moments = seeded("stopped")
    before = target.fingerprint()
    whole = {mode: driver.usual_seconds(target.pid, "--mode", mode, "--pipe", SINKS[0]) for mode in MODES}
    count = times(12)
    for _ in range(count):
        mode = moments.choice(MODES)
        run = driver.start(target.pid, "--mode", mode, "--pipe", moments.choice(SINKS))
        sleep_until_moment(moments, whole[mode])
        os.killpg(target.pid, signal.SIGSTOP)
        sleep_until_moment(moments, whole[mode] / 4)
        run.kill()
        assert run.status in (0, -9), driver.errors
        eventually("the target stands", lambda: set(proc.thread_states(target.pid).values()) == {"T"})
        os.killpg(target.pid, signal.SIGCONT)
        seconds_until_all_run(target)
        assert_right(target, before)
    cells = {
        "tried": in_moments(count),
        "what happened": "stays stopped until it is continued, then runs, nothing left",
    }
    tell_row("faults", "the target's process group gets SIGSTOP, corepipe kill -9, the group SIGCONT", cells)


def test_kill_9_at_any_moment_of_a_target_whose_cgroup_is_frozen_and_thawed(driver, steady, cgroup_v2, tell_row):
    moments = seeded("frozen")
    before = steady.fingerprint()
    whole = {mode: driver.usual_seconds(steady.pid, "--mode", mode, "--pipe", SINKS[0]) for mode in MODES}
    count = times(12)
    with in_group(cgroup_v2, steady.pid) as group:
        for _ in range(count):
            mode = moments.choice(MODES)
            run = driver.start(steady.pid, "--mode", mode, "--pipe", moments.choice(SINKS))
            sleep_until_moment(moments, whole[mode])
            (group / "cgroup.freeze").write_text("1")
            sleep_until_moment(moments, whole[mode] / 4)
            run.kill()
            assert run.status in (0, 1, -9), driver.errors
            (group / "cgroup.freeze").write_text("0")
            seconds_until_all_run(steady)
            assert_right(steady, before)
    cells = {"tried": in_moments(count), "what happened": "runs as soon as it is thawed, nothing left"}
    tell_row("faults", "the target's cgroup is frozen, corepipe gets kill -9, the cgroup is thawed", cells)


@pytest.mark.parametrize("victims", ["the interface", "both", "both process groups"])
def test_kill_9_of_the_interface_of_both_and_of_their_groups(steady, start_tui, victims, tell_row):
    moments = seeded(victims)
    before = steady.fingerprint()
    taken = []
    for _ in range(times(1)):
        mode = moments.choice(MODES)
        tui = start_tui("--pid", steady.pid, "--mode", mode, "--pipe", moments.choice(SINKS))
        eventually("there is an engine", lambda tui=tui: proc.children(tui.pid) or tui.poll() is not None)
        (engine,) = proc.children(tui.pid) or {0}
        sleep_until_moment(moments, 0.5)
        for pid in (tui.pid, *([engine] if engine and victims != "the interface" else [])):
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if "groups" in victims else os.kill)(pid, signal.SIGKILL)
        taken.append(seconds_until_all_run(steady))
        tui.wait()
        if engine:
            eventually("nothing is left", lambda engine=engine: not proc.in_session(engine))
        assert_right(steady, before)
    result = f"all 20 threads run, nothing left; {milliseconds(taken)}"
    cells = {"tried": in_moments(len(taken)), "what happened": result}
    tell_row("faults", f"corepipe-tui gets kill -9: {victims}", cells)
