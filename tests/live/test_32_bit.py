"""32-bit programs on the 64-bit kernel: what is different about them."""

from __future__ import annotations

import re

import pytest

from ..support.checks import assert_target_untouched
from ..support.dumps import assert_falls_back, assert_snapshot
from ..support.engine import run_corepipe
from ..support.targets import M32, start_target

pytestmark = [pytest.mark.live, pytest.mark.needs("gcc -m32")]
CLONE, WAIT4, SIGRETURN = 120, 114, 173


@pytest.mark.parametrize(
    "arguments", [("allow",), ("errno", CLONE), ("errno", WAIT4)], ids=lambda arguments: "-".join(map(str, arguments))
)
def test_a_seccomp_filter_that_only_refuses_is_suspended(spawn_target, tmp_path, arguments):
    assert_snapshot(spawn_target("confined", *arguments, flags=M32), tmp_path)


@pytest.mark.parametrize(("number", "name"), [(CLONE, "clone"), (SIGRETURN, "sigreturn")])
def test_a_seccomp_filter_that_kills_is_not_provoked(spawn_target, tmp_path, number, name):
    target = spawn_target("confined", "kill", number, flags=M32)
    assert_falls_back(target, tmp_path, rf"seccomp filter forbids {name} \(KILL_PROCESS\)")


def test_the_vdso_has_what_a_program_without_a_c_library_lacks(build_target, tmp_path):
    program = build_target("bare", *M32, "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector")
    with start_target([program], tmp_path) as target:
        assert_snapshot(target, tmp_path)


def test_a_core_of_more_than_four_gib_is_refused_before_the_target_is_stopped(spawn_target, tmp_path):
    target = spawn_target("filled", flags=M32)
    before = target.fingerprint()
    report = tmp_path / "report.json"
    everything = (target.pid, "--holes", "zero", "--preset", "full")
    refused = run_corepipe(*everything, "--report", report, output=tmp_path / "core", check=1)
    assert "its kind must stay below 4 GiB" in refused.stderr
    assert (tmp_path / "core").stat().st_size == 0
    assert refused.report(report)["stop_seconds"] is None
    assert_target_untouched(target, before)
    (largest, *_) = re.findall(r"--exclude [0-9a-f]+-[0-9a-f]+", refused.stderr)
    planned = run_corepipe(*everything, *largest.split(), "--plan", output=tmp_path / "plan")
    assert "not possible" not in (tmp_path / "plan").read_text()
    assert planned.stderr == ""
