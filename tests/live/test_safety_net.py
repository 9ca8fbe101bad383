"""Corepipe may be killed between any two of its steps: the target goes on as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import proc
from ..support.checks import assert_counter_moves, assert_running
from ..support.engine import REPOSITORY, environment
from ..support.waiting import eventually

pytestmark = pytest.mark.live
FAULT = Path(__file__).resolve().parent.parent / "support" / "fault.py"
SOAK = int(os.environ.get("COREPIPE_SOAK", "0"))
"""How often every single point is tried; 0: the short run, which tries each point of the injection once or less."""
KINDS = ("registers", "sleep", "epoll", "many")


def assert_as_before(target, before) -> None:
    """The target computes right results, nobody traces it, and nothing is in its session or among its children."""
    assert target.process.poll() is None, f"the target ended with {target.process.returncode}"
    assert_running(target.pid)
    assert_counter_moves(target)
    assert target.failures == 0
    eventually("no child is left", lambda: proc.children(target.pid) == before.children)
    eventually("no process is left", lambda: proc.in_session(os.getsid(target.pid)) == before.session)
    assert target.signals == before.signals
    assert proc.descriptors(target.pid) == before.descriptors
    blocked = {proc.status_field(target.pid, "SigBlk", tid) for tid in proc.tids(target.pid)}
    assert len(blocked) == 1, "a thread kept another signal mask"


def kill_at_every_point(target, first: int, step: int, mode: str = "snapshot", most: int = 1 << 30) -> int:
    """Return how many points were tried, most at the most; 0 when the first lies behind the last step."""
    before = target.fingerprint()
    mask = proc.status_field(target.pid, "SigBlk")
    command = [sys.executable, str(FAULT), str(target.pid), mode, str(first), str(step)]
    tried = 0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=REPOSITORY, text=True
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        for line in driver.stdout:
            word, status, *rest = line.split()
            assert_as_before(target, before)
            assert proc.status_field(target.pid, "SigBlk") == mask
            if word == "end":
                assert int(status) == 0
                assert tried >= (int(rest[0]) - first) // step - 1
                break
            assert int(status) == 9
            tried += 1
            if tried == most:
                driver.stdin.close()
                break
            driver.stdin.write("\n")
            driver.stdin.flush()
    return tried


@pytest.mark.parametrize("kind", ["altstack", "small"])
def test_kill_9_between_any_two_steps_of_a_snapshot_leaves_a_right_target_on_a_foreign_stack(spawn_target, kind):
    """A new target for each point: what is left in the stack by a killed corepipe makes the next one choose a copy."""
    for _ in range(max(SOAK, 1)):
        point, tried = 1, 1
        while tried:
            target = spawn_target("checker", kind, signals="count" if kind == "altstack" else "default")
            tried = kill_at_every_point(target, point, 1, most=1)
            target.end()
            point += 1 if SOAK else 4
        assert point > 40


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_between_any_two_steps_of_a_snapshot_leaves_a_right_target(spawn_target, kind):
    for _ in range(max(SOAK, 1)):
        target = spawn_target("checker", kind, signals="default")
        step = 1 if SOAK or kind in ("registers", "sleep") else 71 if kind == "many" else 3
        assert kill_at_every_point(target, 1, step) > 10
        target.end()


def test_kill_9_between_any_two_steps_leaves_a_stopped_target_stopped(spawn_target):
    target = spawn_target("checker", "registers", signals="default")
    target.stop()
    counter = target.counter
    command = [sys.executable, str(FAULT), str(target.pid), "snapshot", "1", "1" if SOAK else "4"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=REPOSITORY, text=True
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        for line in driver.stdout:
            eventually("nobody traces the target", lambda: not proc.tracers(target.pid))
            eventually("it is stopped", lambda: set(proc.thread_states(target.pid).values()) == {"T"})
            if line.startswith("end"):
                break
            driver.stdin.write("\n")
            driver.stdin.flush()
    assert target.counter == counter
    target.resume()
    assert_counter_moves(target)
    assert target.failures == 0
    eventually("no child is left", lambda: not proc.children(target.pid))
