"""One native target, held still, and its cores: corepipe's, gcore's, and the kernel's own."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.engine import run_corepipe
from ..support.readers import run_reader
from ..support.targets import start_target

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@dataclass(frozen=True)
class Cores:
    """Cores of one process at one instant. ours has holes, whole has none."""

    program: Path
    pid: int
    ours: Path
    whole: Path
    gcore: Path
    kernel: Path


@pytest.fixture(scope="session")
def cores(build_target, tmp_path_factory) -> Iterator[Cores]:
    """Every kind of core of the program `nine`, which SIGSTOP held while they were taken."""
    for tool in ("gdb", "gcore"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("cores")
    program = build_target("nine")
    pattern = CORE_PATTERN.read_text()
    try:
        CORE_PATTERN.write_text(f"{folder}/kernel.%p")
    except OSError as error:
        pytest.skip(f"the kernel's core_pattern cannot be set here: {error}")
    try:
        with start_target([program], folder, signals="default") as target:
            resource.prlimit(target.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            target.stop()
            run_reader("gcore", "-o", folder / "gcore", target.pid)  # first: it writes into the target's code
            run_corepipe(target.pid, output=folder / "ours")
            run_corepipe(target.pid, "--holes", "zero", output=folder / "whole")
            os.kill(target.pid, signal.SIGABRT)
            os.kill(target.pid, signal.SIGCONT)
            assert target.process.wait() == -signal.SIGABRT
            yield Cores(
                program,
                target.pid,
                folder / "ours",
                folder / "whole",
                folder / f"gcore.{target.pid}",
                folder / f"kernel.{target.pid}",
            )
    finally:
        CORE_PATTERN.write_text(pattern)
