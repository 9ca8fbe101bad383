"""A native target of each width, held still, and its cores: corepipe's, gcore's, and the kernel's own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.engine import run_corepipe
from ..support.kernel_core import end_with_kernel_core
from ..support.readers import run_reader
from ..support.targets import M32, start_target


@dataclass(frozen=True)
class Cores:
    """Cores of one process at one instant. ours (a snapshot) and direct have holes, whole has none."""

    program: Path
    pid: int
    ours: Path
    direct: Path
    whole: Path
    gcore: Path
    kernel: Path
    rseq_offset: int
    wide: bool


@pytest.fixture(
    scope="session",
    params=[pytest.param((), id="64-bit"), pytest.param(M32, id="32-bit", marks=pytest.mark.needs("gcc -m32"))],
)
def cores(request, build_target, tmp_path_factory) -> Cores:
    """Every kind of core of the program `nine`, which SIGSTOP held while they were taken."""
    for tool in ("gdb", "gcore"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("cores")
    program = build_target("nine", *request.param)
    with start_target([program, 4 << 20] if request.param else [program], folder, signals="default") as target:
        target.stop()
        run_reader("gcore", "-o", folder / "gcore", target.pid)  # first: it writes into the target's code
        run_corepipe(target.pid, "--mode", "snapshot", output=folder / "ours")
        run_corepipe(target.pid, "--mode", "direct", output=folder / "direct")
        run_corepipe(target.pid, "--mode", "buffer", "--holes", "zero", output=folder / "whole")
        end_with_kernel_core(target, folder / "kernel", asleep=8)
    paths = (folder / name for name in ("ours", "direct", "whole", f"gcore.{target.pid}", "kernel"))
    return Cores(program, target.pid, *paths, target.number("rseq_offset"), wide=not request.param)


@pytest.fixture(scope="session")
def kernel_core(cores) -> Path:
    """The kernel's own core; tests that need it are skipped where there can be none."""
    if not cores.kernel.exists():
        pytest.skip("core_pattern cannot be set here, so there is no core of the kernel to compare with")
    return cores.kernel
