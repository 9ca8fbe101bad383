"""A target whose cgroup is frozen (docker pause) is dumped, and stays frozen."""

from __future__ import annotations

import pytest

from ..support import proc
from ..support.cgroups import cgroup_v2, in_group
from ..support.checks import assert_counter_moves
from ..support.cores import Core, assert_well_formed
from ..support.engine import run_corepipe
from ..support.waiting import eventually

__all__ = ["cgroup_v2"]
pytestmark = pytest.mark.live


@pytest.mark.parametrize(("mode", "status"), [("auto", 0), ("snapshot", 1), ("direct", 0)])
def test_a_target_in_a_frozen_cgroup_is_dumped_and_stays_frozen(spawn_target, tmp_path, cgroup_v2, mode, status):
    target = spawn_target("nine", 1 << 20)
    with in_group(cgroup_v2, target.pid) as group:
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
