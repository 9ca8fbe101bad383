"""A target whose cgroup is frozen (docker pause) is dumped, and stays frozen."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from ..support import proc
from ..support.checks import assert_counter_moves
from ..support.cores import Core, assert_well_formed
from ..support.engine import run_corepipe
from ..support.waiting import eventually

pytestmark = pytest.mark.live


@pytest.fixture
def cgroup_mount(tmp_path):
    """cgroup v2, wherever this machine has it, or mounted for the test."""
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists():
            yield root
            return
    mount = tmp_path / "cgroup"
    mount.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize(("mode", "status"), [("auto", 0), ("snapshot", 1), ("direct", 0)])
def test_a_target_in_a_frozen_cgroup_is_dumped_and_stays_frozen(spawn_target, tmp_path, cgroup_mount, mode, status):
    target = spawn_target("nine", 1 << 20)
    group = cgroup_mount / f"corepipe-test-{target.pid}"
    home = cgroup_mount / proc_cgroup(target.pid)
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(target.pid))
        (group / "cgroup.freeze").write_text("1")
        frozen = group / "cgroup.events"
        eventually("the cgroup is frozen", lambda: "frozen 1" in frozen.read_text())
        counter = target.counter
        outcome = run_corepipe(target.pid, "--mode", mode, check=status, output=tmp_path / "core")
        if mode != "direct":
            assert "the target's cgroup is frozen" in outcome.stderr
        if not status:
            assert_well_formed(Core(tmp_path / "core"))
        eventually("nobody traces the target", lambda: not proc.tracers(target.pid))
        eventually("the cgroup is frozen as before", lambda: "frozen 1" in frozen.read_text())
        assert target.counter == counter
        (group / "cgroup.freeze").write_text("0")
        assert_counter_moves(target)
        assert target.signals == {}
    finally:
        with contextlib.suppress(OSError):
            (group / "cgroup.freeze").write_text("0")
        (home / "cgroup.procs").write_text(str(target.pid))
        group.rmdir()


def proc_cgroup(pid: int) -> str:
    """Path of a process's cgroup v2, without the leading slash."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:].lstrip("/")
    return ""
