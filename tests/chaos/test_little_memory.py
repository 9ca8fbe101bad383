"""Where memory is short the target is never the one that dies, and corepipe itself needs little for any target."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ..support.cgroups import new_cgroup
from ..support.cores import assert_well_formed, pattern
from ..support.engine import ENGINE_SECONDS, assert_nothing_left, corepipe_started, engine_command, environment
from ..support.snapshots import streaming
from ..support.waiting import eventually
from .support import SOAK, assert_right, seconds_until_all_run

pytestmark = pytest.mark.live
LARGE = 2 << 30
LIMIT, OWN_USE = 64 << 20, 48 << 20
MIB = 1 << 20


@pytest.fixture
def memory_group():
    with new_cgroup("memory") as group:
        if group is None:
            pytest.skip("no memory controller to make a cgroup with")
        yield group


MEASURE = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""A process's peak begins with that of the one it was forked from: here that is small, and not this test run."""


def peak_of(command: list[str], **options: object) -> tuple[int, int]:
    """Run a command; return its exit status and the most memory it had resident, in bytes."""
    words = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(
        words, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, **options
    )  # type: ignore[call-overload]
    status, kilobytes = done.stdout.split()[-2:]
    return int(status), int(kilobytes) * 1024


def test_corepipe_in_a_cgroup_of_64_mib_dumps_two_gigabytes(spawn_target, memory_group, tmp_path, tell_row):
    target = spawn_target("chaos", "steady", LARGE)
    before = target.fingerprint()
    memory_group.limit(LIMIT)
    told = []
    modes = ("snapshot", "direct") if SOAK else ("snapshot",)
    for mode in modes:
        command = engine_command(target.pid, "-q", "--mode", mode, "--pipe", f"[ $(wc -c) -gt {LARGE} ]")
        with (tmp_path / "errors").open("wb") as errors:
            status, resident = peak_of(command, stderr=errors, preexec_fn=lambda: memory_group.add(os.getpid()))
        assert status == 0, (tmp_path / "errors").read_text()
        assert resident < OWN_USE
        told.append(f"{resident / MIB:.0f} MiB ({mode})")
        seconds_until_all_run(target)
        assert_right(target, before)
    assert memory_group.peak <= LIMIT
    result = f"status 0; corepipe itself never has more than {', '.join(told)}"
    tell_row(
        "faults",
        "corepipe may use 64 MiB (cgroup), the target has 2 GiB",
        {"tried": "once a mode" if SOAK else "once", "what happened": result},
    )


def test_a_copy_to_memory_that_does_not_fit_is_refused_before_the_target_is_stopped(
    spawn_target, memory_group, tell_row
):
    target = spawn_target("chaos", "steady", 256 << 20)
    before = target.fingerprint()
    memory_group.limit(LIMIT)
    with corepipe_started(
        target.pid, "--mode", "buffer", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: memory_group.add(os.getpid()),
    ) as engine:  # fmt: skip
        _, errors = engine.communicate(timeout=ENGINE_SECONDS)
        assert engine.returncode == 1, errors
        assert b"Traceback" not in errors
        assert_nothing_left(engine.pid)
    seconds_until_all_run(target)
    assert_right(target, before)
    cells = {"tried": "once", "what happened": "exit status 1, the target runs"}
    tell_row("faults", "`--mode buffer`, 64 MiB for corepipe, the target has 256 MiB", cells)


def test_when_the_targets_cgroup_runs_out_of_memory_the_copy_dies_and_not_the_target(
    spawn_target, memory_group, tmp_path, tell_row
):
    target = spawn_target("chaos", "writing", 48 << 20, preexec_fn=lambda: memory_group.add(os.getpid()))
    before = target.fingerprint()
    size, count = target.number("area_bytes"), 20 if SOAK else 1
    for _ in range(count):
        with streaming(target.pid) as stream:
            memory_group.limit(memory_group.usage + (8 << 20))  # each page it writes to takes one more
            eventually("the copy is killed, and corepipe says so", lambda: stream.engine.poll() is not None)
            assert stream.engine.returncode == 1
            assert "the snapshot was killed before it had been streamed" in stream.errors()
        seconds_until_all_run(target)
        assert_right(target, before)
        memory_group.limit(1 << 40)
    with streaming(target.pid) as stream:
        core = stream.read_core(tmp_path / "core")
    assert_well_formed(core)
    assert core.read(target.number("area"), size) == pattern(size)
    assert_right(target, before)
    cells = {
        "tried": f"{count} times" if SOAK else "once",
        "what happened": "the copy dies, corepipe says so (status 1), the target does not notice",
    }
    tell_row("faults", "the target's cgroup runs out of memory while a snapshot is streamed", cells)
