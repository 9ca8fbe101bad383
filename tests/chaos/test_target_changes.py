"""Whatever the target does, or others do to it, while it is dumped: corepipe ends well or says why, nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support import proc
from ..support.cores import Core, assert_well_formed
from ..support.engine import REPOSITORY, environment
from ..support.waiting import eventually
from .support import (
    MODES,
    SINKS,
    SOAK,
    assert_right,
    in_moments,
    seconds_until_all_run,
    seeded,
    sleep_until_moment,
    times,
)

pytestmark = pytest.mark.live
RIVAL = Path(__file__).parent / "rival.py"


def assert_told(driver, run, *statuses: int) -> None:
    """It ended with one of these statuses; with words where that is not 0, and never with a traceback."""
    assert run.status in statuses, driver.errors
    assert "Traceback" not in driver.errors
    assert run.status == 0 or "corepipe: " in driver.errors, driver.errors


def test_a_target_that_maps_unmaps_moves_protects_forks_and_starts_threads(driver, spawn_target, tmp_path, tell_row):
    target = spawn_target("chaos", "shifting", signals="default")
    moments = seeded("shifting")
    before = target.fingerprint()
    count = times(6)
    for _ in range(count):
        run = driver.start(target.pid, "-q", "--mode", moments.choice(MODES), "--pipe", f"cat >{tmp_path}/core")
        assert_told(driver, run, 0)
        assert_well_formed(Core(tmp_path / "core"))
        seconds_until_all_run(target)
        assert_right(target, before, forks=True)
    cells = {"tried": f"{count} dumps", "what happened": "status 0 and a well-formed core each time, results right"}
    tell_row("faults", "the target maps, unmaps, moves, protects, forks, starts threads all the time", cells)


@pytest.mark.parametrize(
    ("what", "number", "ended"),
    [
        ("is killed", signal.SIGKILL, -9),
        ("exits", signal.SIGUSR2, 7),
        ("starts another program (exec)", signal.SIGUSR1, None),
    ],
)
def test_a_target_that_ends_or_execs_at_any_moment(driver, spawn_target, what, number, ended, tell_row):
    moments = seeded(what)
    told: dict[int, int] = {}
    count = times(6)
    target = spawn_target("chaos", "steady", 1 << 20, signals="default")
    for turn in range(count):
        if target.process.poll() is not None:
            target = spawn_target("chaos", "steady", 1 << 20, signals="default")
        run = driver.start(target.pid, "-q", "--mode", MODES[turn % 3], "--pipe", moments.choice(SINKS))
        sleep_until_moment(moments, 0.15)
        os.kill(target.pid, number)
        if ended is not None:
            assert target.process.wait(30) == ended
            eventually("nothing is left", lambda target=target: not proc.in_session(target.pid))
        assert_told(driver, run, 0, 1, 4)
        told[run.status] = told.get(run.status, 0) + 1
        if ended is None:
            seconds_until_all_run(target)
            assert not proc.tracers(target.pid)
            eventually("no child is left", lambda target=target: proc.in_session(target.pid) == {target.pid})
    result = f"{'runs' if ended is None else 'ends'} as it would without us; {statuses(told)}"
    tell_row("faults", f"the target {what}", {"tried": in_moments(count), "what happened": result})


def statuses(told: dict[int, int]) -> str:
    """How often each exit status was seen, in words."""
    return "exit status " + ", ".join(f"{status}: {count} times" for status, count in sorted(told.items()))


def copies(target: int) -> set[int]:
    return proc.in_session(target) - {target}


def test_a_copy_that_is_killed_at_any_moment(driver, steady, tell_row):
    moments = seeded("copy")
    before = steady.fingerprint()
    told: dict[int, int] = {}
    count = times(8)
    for _ in range(count):
        run = driver.start(steady.pid, "-q", "--mode", "snapshot", "--pipe", moments.choice(SINKS))
        eventually("there is a copy, or the end", lambda run=run: copies(steady.pid) or not proc.in_session(run.pid))
        sleep_until_moment(moments, moments.choice([0, 0.01, 0.1]))
        for pid in copies(steady.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert_told(driver, run, 0, 1)
        told[run.status] = told.get(run.status, 0) + 1
        seconds_until_all_run(steady)
        assert_right(steady, before)
    result = f"the target does not notice; {statuses(told)}"
    tell_row("faults", "the copy (or its helper) is killed", {"tried": in_moments(count), "what happened": result})


def test_another_tracer_that_comes_and_goes(driver, steady, tell_row):
    moments = seeded("rival")
    before = steady.fingerprint()
    told: dict[int, int] = {}
    count = times(8)
    with subprocess.Popen(
        [sys.executable, str(RIVAL), str(steady.pid), str(moments.random())],
        env=environment(), cwd=REPOSITORY, stdin=subprocess.PIPE,
    ) as rival:  # fmt: skip
        for turn in range(count):
            run = driver.start(steady.pid, "-q", "--mode", MODES[turn % 3], "--pipe", moments.choice(SINKS))
            assert_told(driver, run, 0, 1, 3)
            told[run.status] = told.get(run.status, 0) + 1
        rival.stdin.close()
        assert rival.wait() == 0
    seconds_until_all_run(steady)
    assert_right(steady, before)
    cells = {"tried": f"{count} dumps", "what happened": f"the target runs; {statuses(told)}"}
    tell_row("faults", "another tracer takes a thread and lets it go, again and again", cells)


FLOOD = "head -c 4000000 /dev/zero | tr '\\0' e >&2; cat >/dev/null"
SINKS_THAT_FAIL = {
    "closes its input": ("exec 0<&-; exec sleep 1000", 5),
    "is killed": ("head -c 3000000 >/dev/null; kill -9 $$", 5),
    "fails after it has taken all": ("cat >/dev/null; exit 1", 5),
    "writes 4 MB to standard error": (FLOOD, 0),
    "is slow": ("sleep 0.2; cat >/dev/null", 0),
    "is stuck for ever (--max-stop 0.3, direct)": ("sleep 1000", 1),
    "writes to a full disk (tmpfs)": ("cat >{disk}/core", 5),
}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        eventually("it is unmounted", lambda: not subprocess.run(["umount", folder], check=False).returncode)


@pytest.mark.parametrize("what", SINKS_THAT_FAIL)
def test_a_pipe_command_that(driver, steady, small_disk, what, tell_row):
    command, status = SINKS_THAT_FAIL[what]
    before = steady.fingerprint()
    stuck = "stuck" in what
    taken = []
    for mode in ["direct"] if stuck else MODES if SOAK else [seeded(what).choice(MODES)]:
        limit = ["--max-stop", "0.3"] if stuck else []
        run = driver.start(steady.pid, "-q", "--mode", mode, "--pipe", command.format(disk=small_disk), *limit)
        if stuck:
            eventually("it is stopped", lambda run=run: proc.tracers(steady.pid) == {run.pid})
            begun = time.monotonic()
            seconds_until_all_run(steady)
            taken.append(time.monotonic() - begun)
        assert_told(driver, run, status)
        seconds_until_all_run(steady)
        assert_right(steady, before)
    result = f"exit status {status}, the target runs" + (f" after {taken[0]:.2f} s" if stuck else "")
    cells = {"tried": "once" if stuck or not SOAK else "once in every mode", "what happened": result}
    tell_row("faults", f"the pipe command {what}", cells)
