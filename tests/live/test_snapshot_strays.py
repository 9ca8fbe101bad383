"""What holds for the process as a whole need not hold for the thread in which the copy is made."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ..support import proc
from ..support.checks import assert_target_untouched
from ..support.cores import Core, assert_well_formed
from ..support.engine import run_corepipe
from ..support.snapshots import streaming
from ..support.waiting import eventually

pytestmark = pytest.mark.live


def test_a_target_whose_children_go_to_another_pid_namespace_is_not_forked(spawn_target, tmp_path):
    """Its helper would be the init of that namespace, and the last process ever born there."""
    target = spawn_target("strays", "newpid")
    before = target.fingerprint()
    outcome = run_corepipe(target.pid, output=tmp_path / "core")
    assert "another pid namespace" in outcome.stderr
    assert "mode buffer" in outcome.stderr
    assert_well_formed(Core(tmp_path / "core"))
    assert_target_untouched(target, before)


def test_a_filter_of_one_thread_alone_is_seen_where_it_counts(spawn_target, tmp_path):
    target = spawn_target("strays", "worker")
    before = target.fingerprint()
    for _ in range(5):
        run_corepipe(target.pid, output=tmp_path / "core")
        assert len(Core(tmp_path / "core").thread_ids) == 2
        assert_target_untouched(target, before)


def test_a_snapshot_holds_no_file_of_the_target_open(spawn_target, tmp_path):
    """Else a socket, a port or a lock of a target that ends or starts another program would live on in the copy."""
    target = spawn_target("nine")
    with streaming(target.pid) as stream:
        copies = [
            pid
            for pid in (int(name) for name in os.listdir("/proc") if name.isdigit())
            if pid != target.pid and copied_from(pid, target.pid)
        ]
        assert len(copies) == 1
        own = open_files(target.pid)
        eventually("it has let go of the target's files", lambda: not own & open_files(copies[0]))
        assert all(name.startswith("pipe:") for name in open_files(copies[0])), "its own, which its pages go through"
        stream.read_core(tmp_path / "core")
    assert_well_formed(Core(tmp_path / "core"))


def open_files(pid: int) -> set[str]:
    """What the descriptors of a process stand for."""
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}


def copied_from(pid: int, target: int) -> bool:
    """Whether a process runs the target's program and is held by a tracer."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        same = os.path.samefile(f"/proc/{pid}/exe", f"/proc/{target}/exe")
    except OSError:
        return False
    tracer = re.search(r"^TracerPid:\s+(\d+)", status, re.MULTILINE)
    return same and tracer is not None and tracer[1] != "0"


def test_a_snapshot_that_gets_a_sigstop_itself_is_streamed_and_ends(spawn_target, tmp_path):
    target = spawn_target("nine")
    before = target.fingerprint()
    with streaming(target.pid) as stream:
        os.kill(stream.snapshot, signal.SIGSTOP)
        assert_well_formed(stream.read_core(tmp_path / "core"))
    assert_target_untouched(target, before)


def test_a_snapshot_that_got_a_sigstop_itself_ends_when_corepipe_is_killed(spawn_target):
    """The next pages that it sends take the signal; nothing is left to hold it then."""
    target = spawn_target("nine")
    before = target.fingerprint()
    with streaming(target.pid) as stream:
        os.read(stream.read_end, 1 << 20)
        os.kill(stream.snapshot, signal.SIGSTOP)
        for _ in range(16):
            os.read(stream.read_end, 1 << 20)
        eventually("it was taken", lambda: int(proc.status_field(stream.snapshot, "ShdPnd"), 16) == 0)
        stream.engine.kill()
        stream.engine.wait()
        assert_target_untouched(target, before)
