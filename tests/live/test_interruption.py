"""Whatever ends corepipe, the target runs again at once and nothing of ours stays."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import time

import pytest

from ..support import proc
from ..support.checks import assert_counter_moves, assert_still_stopped, assert_target_untouched
from ..support.engine import assert_nothing_left, corepipe_started, run_corepipe, wait_frozen
from ..support.waiting import eventually

pytestmark = pytest.mark.live
MODES = ("direct", "buffer", "snapshot")
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))
STUCK = "sleep 1000"
"""A pipe command that takes no byte and does not end."""


def kill_at_random_moments(target, mode, times, seed, check):
    """Start dump after dump, kill each with SIGKILL somewhere between its first and its last instruction, and check."""
    moments = random.Random(f"{seed} {mode}")
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    arguments = (target.pid, "--mode", mode, "--pipe", "cat >/dev/null")
    begun = time.monotonic()
    run_corepipe(*arguments)
    whole = time.monotonic() - begun
    for _ in range(times):
        with corepipe_started(*arguments, **options) as engine:
            # not a wait for something: the moment is the test's input. Python's own start is the first third.
            time.sleep(moments.uniform(whole / 4, whole))
            engine.kill()
            engine.wait()
            check()
            assert_nothing_left(engine.pid)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("program", "times"), [("nine", 8), ("spin", 4), ("churn", 3)])
def test_kill_9_of_corepipe_at_any_moment_leaves_the_target_running(spawn_target, mode, program, times):
    target = spawn_target(program)
    before = target.fingerprint()
    times = 10 * times if SOAK else times
    kill_at_random_moments(target, mode, times, program, lambda: assert_target_untouched(target, before))


@pytest.mark.parametrize("mode", MODES)
def test_kill_9_of_corepipe_at_any_moment_leaves_a_stopped_target_stopped(spawn_target, mode):
    target = spawn_target("nine", 8 << 20)
    target.stop()
    before = target.fingerprint()
    times = 30 if SOAK else 4
    kill_at_random_moments(target, mode, times, "stopped", lambda: assert_still_stopped(target, before, killed=True))
    target.resume()
    assert_counter_moves(target)
    eventually("no child is left", lambda: target.fingerprint().children == before.children)
    assert target.signals.keys() - {signal.SIGCONT} == before.signals.keys()


def test_kill_9_of_corepipe_while_the_target_is_certainly_frozen(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    for _ in range(5):
        read_end, write_end = os.pipe()
        with corepipe_started(target.pid, "--mode", "direct", stdout=write_end, stderr=subprocess.DEVNULL) as engine:
            os.close(write_end)
            wait_frozen(target.pid, engine.pid)
            engine.kill()
            engine.wait()
            assert_target_untouched(target, before)
        os.close(read_end)


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGINT, STUCK),
        (signal.SIGTERM, STUCK),
        (signal.SIGHUP, STUCK),
        (signal.SIGQUIT, STUCK),
        (signal.SIGTERM, f"cat | {STUCK}"),
        (signal.SIGINT, "trap '' TERM INT HUP QUIT; sleep 1000; sleep 1000"),
    ],
)
def test_a_signal_while_the_pipe_is_stuck_lets_the_target_go_and_is_status_130(spawn_target, number, command):
    target = spawn_target("nine")
    before = target.fingerprint()
    with corepipe_started(
        target.pid, "--mode", "direct", "--pipe", command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as engine:
        wait_frozen(target.pid, engine.pid)
        engine.send_signal(number)
        assert engine.wait(30) == 130
        assert f"interrupted by {number.name}; the target runs" in engine.stderr.read().decode()
        assert_target_untouched(target, before)
        assert_nothing_left(engine.pid)


def test_a_signal_at_standard_output_that_nobody_reads_is_status_130(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    read_end, write_end = os.pipe()
    with corepipe_started(target.pid, "--mode", "direct", stdout=write_end, stderr=subprocess.DEVNULL) as engine:
        os.close(write_end)
        wait_frozen(target.pid, engine.pid)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(30) == 130
        assert_target_untouched(target, before)
    os.close(read_end)


def test_a_stopped_target_stays_stopped_when_the_dump_is_interrupted(spawn_target):
    target = spawn_target("nine")
    target.stop()
    before = target.fingerprint()
    with corepipe_started(
        target.pid, "--mode", "direct", "--pipe", STUCK, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as engine:
        wait_frozen(target.pid, engine.pid)
        engine.send_signal(signal.SIGINT)
        assert engine.wait(30) == 130
    assert_still_stopped(target, before)
    target.resume()


def test_max_stop_ends_a_direct_dump_into_a_stuck_pipe_with_status_1(spawn_target, tmp_path):
    target = spawn_target("nine")
    before = target.fingerprint()
    report = tmp_path / "report.json"
    outcome = run_corepipe(
        target.pid, "--mode", "direct", "--max-stop", "0.5", "--report", report, "--pipe", STUCK, check=1
    )
    assert "the stop reached its limit of 0.5 s (--max-stop)" in outcome.stderr
    assert "\n  try: " in outcome.stderr
    assert outcome.report(report)["stop_seconds"] >= 0.5
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)


def test_max_stop_too_short_for_any_copy_lets_the_target_go_with_status_1(spawn_target, tmp_path):
    target = spawn_target("nine")
    before = target.fingerprint()
    outcome = run_corepipe(target.pid, "--mode", "buffer", "--max-stop", "0.000001", check=1)
    assert "--max-stop" in outcome.stderr
    assert_target_untouched(target, before)


def read_events_until(stream, name):
    """Read JSON lines up to the event of that name and return it."""
    for line in stream:
        record = json.loads(line)
        if record["event"] == name:
            return record
    raise AssertionError(f"no event {name}")


@contextlib.contextmanager
def events_pipe():
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as stream:
        yield stream, write_end


def test_a_buffered_target_runs_although_the_pipe_is_stuck(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    with events_pipe() as (stream, write_end), corepipe_started(
        target.pid, "--mode", "buffer", "--events-fd", write_end, "--pipe", STUCK, pass_fds=(write_end,),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as engine:  # fmt: skip
        os.close(write_end)
        read_events_until(stream, "resumed")
        assert_target_untouched(target, before)
        assert engine.poll() is None
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(30) == 130
        assert_nothing_left(engine.pid)


def test_a_reader_of_events_that_goes_away_ends_the_dump_and_the_target_runs(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    with events_pipe() as (stream, write_end), corepipe_started(
        target.pid, "--mode", "direct", "--events-fd", write_end, "--pipe", STUCK, pass_fds=(write_end,),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as engine:  # fmt: skip
        os.close(write_end)
        wait_frozen(target.pid, engine.pid)
        stream.close()
        assert engine.wait(30) == 130
        assert_target_untouched(target, before)
        assert_nothing_left(engine.pid)


@pytest.mark.parametrize("mode", MODES)
def test_standard_error_and_events_that_nobody_reads_hold_up_neither_the_target_nor_the_core(
    spawn_target, tmp_path, mode
):
    target = spawn_target("nine")
    before = target.fingerprint()
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, bytes(4096))  # full: whoever writes next waits
    with corepipe_started(
        target.pid, "-v", "--mode", mode, "--events-fd", write_end, "--pipe", f"cat > {tmp_path}/core",
        pass_fds=(write_end,), stdout=subprocess.DEVNULL, stderr=write_end,
    ) as engine:  # fmt: skip
        os.close(write_end)
        assert engine.wait(60) == 0
        assert_target_untouched(target, before)
    os.close(read_end)
    assert proc.descriptors(target.pid) == before.descriptors


def test_nohup_keeps_a_dump_alive(spawn_target, tmp_path):
    target = spawn_target("nine")
    read_end, write_end = os.pipe()
    with corepipe_started(
        target.pid, "--mode", "direct", stdout=write_end, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as engine:  # fmt: skip
        os.close(write_end)
        wait_frozen(target.pid, engine.pid)
        engine.send_signal(signal.SIGHUP)
        with open(read_end, "rb") as stream:
            assert len(stream.read()) > 64 << 20
        assert engine.wait(30) == 0
