"""Corepipe may be killed between any two of its steps: the target goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support import proc
from ..support.checks import assert_counter_moves, assert_running
from ..support.engine import REPOSITORY, corepipe_started, environment
from ..support.machines import arm_only, x86_only
from ..support.targets import M32, spawn_extended
from ..support.waiting import SLOWNESS, eventually

pytestmark = pytest.mark.live
FAULT = Path(__file__).resolve().parent.parent / "support" / "fault.py"
SOAK = int(os.environ.get("COREPIPE_SOAK", "0"))
"""How often every single point is tried; 0: the short run, which tries each point of the injection once or less."""
KINDS = ("registers", "sleep", "futex", "epoll", "many")
STEPS = {("registers", ()): 1, ("sleep", ()): 3, ("futex", ()): 7, ("epoll", ()): 5,
         ("many", ()): 71 if SLOWNESS == 1 else 13,
         ("registers", M32): 5, ("sleep", M32): 7, ("epoll", M32): 11}  # fmt: skip
"""The short run tries every so many-th point."""
MANY = int(100 / SLOWNESS)
NAP_SECONDS = 0.8 * SLOWNESS


def kinds(*names: str, narrow: bool):
    """Checkers of 64 bit, and of 32 bit where narrow says so."""
    cells = [pytest.param(name, (), id=name) for name in names]
    needs = pytest.mark.needs("gcc -m32")
    narrow_names = [name for name in names if narrow and name not in ("many", "futex")]
    cells += [pytest.param(name, M32, id=f"{name}-32-bit", marks=needs) for name in narrow_names]
    return pytest.mark.parametrize(("kind", "flags"), cells)


def assert_as_before(target, before, beats: bool = True) -> None:
    """The target computes right results, nobody traces it, and nothing is in its session or among its children."""
    assert target.process.poll() is None, f"the target ended with {target.process.returncode}"
    assert_running(target.pid)
    if beats:
        assert_counter_moves(target)
    assert target.failures == 0
    eventually("no child is left", lambda: proc.children(target.pid) == before.children)
    eventually("no process is left", lambda: proc.in_session(os.getsid(target.pid)) == before.session)
    assert target.signals == before.signals
    assert proc.descriptors(target.pid) == before.descriptors
    blocked = {proc.status_field(target.pid, "SigBlk", tid) for tid in proc.tids(target.pid)}
    assert len(blocked) == 1, "a thread kept another signal mask"


def kill_at_every_point(
    target, first: int, step: int, mode: str = "snapshot", most: int = 1 << 30, kind: str = "kill", beats: bool = True
) -> int:
    """Return how many points were tried, most at the most; 0 when the first lies behind the last step.

    beats: wait each time until the target has counted.
    """
    before = target.fingerprint()
    mask = proc.status_field(target.pid, "SigBlk")
    command = [sys.executable, str(FAULT), str(target.pid), mode, str(first), str(step)]
    tried, expected = 0, 9 if kind == "kill" else 1 << 8  # wait statuses: SIGKILL, exit status 1
    settings = environment({"FAULT_KIND": kind})
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=settings, cwd=REPOSITORY, text=True
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        for line in driver.stdout:
            word, status, *rest = line.split()
            try:
                assert_as_before(target, before, beats)
            except AssertionError as error:
                raise AssertionError(f"after step {line.strip()}") from error
            eventually("its mask is its own", lambda: proc.status_field(target.pid, "SigBlk") == mask)
            if word == "end":
                assert int(status) == 0
                assert tried >= (int(rest[0]) - first) // step - 1
                break
            assert int(status) == expected
            tried += 1
            if tried == most:
                driver.stdin.close()
                break
            driver.stdin.write("\n")
            driver.stdin.flush()
    return tried


@kinds("altstack", "small", narrow=SOAK > 0)
def test_kill_9_between_any_two_steps_of_a_snapshot_leaves_a_right_target_on_a_foreign_stack(spawn_target, kind, flags):
    """A new target for each point: what is left in the stack by a killed corepipe makes the next one choose a copy."""
    for _ in range(max(SOAK, 1)):
        point, tried = 1, 1
        while tried:
            target = spawn_target("checker", kind, signals="count" if kind == "altstack" else "default", flags=flags)
            tried = kill_at_every_point(target, point, 1, most=1)
            target.end()
            point += 1 if SOAK else 9
        assert point > 40


@kinds(*KINDS, narrow=True)
def test_kill_9_between_any_two_steps_of_a_snapshot_leaves_a_right_target(spawn_target, kind, flags):
    for _ in range(max(SOAK, 1)):
        others = (MANY,) if kind == "many" else ()
        target = spawn_target("checker", kind, *others, signals="default", flags=flags)
        assert kill_at_every_point(target, 1, 1 if SOAK else STEPS[kind, flags]) > (5 if flags else 10)
        target.end()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(("tiles",), id="amx", marks=x86_only),
        pytest.param(("vectors",), id="avx-512", marks=x86_only),
        pytest.param(("sve",), id="sve", marks=arm_only),
        pytest.param(("sve", 256), id="sve-256", marks=arm_only),
    ],
)
def test_kill_9_between_any_two_steps_of_a_snapshot_keeps_registers_that_not_every_machine_has(spawn_target, kind):
    for _ in range(max(SOAK, 1)):
        target = spawn_extended(spawn_target, *kind)
        assert kill_at_every_point(target, 1, 1 if SOAK else 5) > 10
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


def test_a_sleep_ends_in_its_time_although_kill_9_after_kill_9_interrupts_it(spawn_target):
    """Begun anew by each it would never end: they come faster than that."""
    target = spawn_target("checker", "nap", int(1000 * NAP_SECONDS), signals="default")
    begun, naps = time.monotonic(), target.counter
    while time.monotonic() - begun < 3 * NAP_SECONDS:
        assert kill_at_every_point(target, 1, 7, beats=False) > 10
    assert target.counter > naps
    assert target.failures == 0


@kinds("registers", "sleep", narrow=SOAK > 0)
def test_an_error_out_of_any_step_leaves_a_right_target(spawn_target, kind, flags):
    """Whatever fails on the way, the thread comes home, the helper is reaped, and the snapshot is gone."""
    target = spawn_target("checker", kind, signals="default", flags=flags)
    assert kill_at_every_point(target, 1, 1 if SOAK else 5, kind="raise") > 10


def test_a_storm_of_sigstop_and_sigcont_ends_as_its_last_signal_has_it(spawn_target, tmp_path):
    target = spawn_target("checker", "registers", signals="default")
    for _ in range(50 if SOAK else 8):
        with corepipe_started(target.pid, "--mode", "snapshot", stdout=subprocess.DEVNULL) as engine:
            while engine.poll() is None:
                os.killpg(target.pid, signal.SIGSTOP)
                os.killpg(target.pid, signal.SIGCONT)
        eventually("it runs", lambda: "T" not in proc.thread_states(target.pid).values())
        assert_running(target.pid)
        assert_counter_moves(target)
    assert target.failures == 0
