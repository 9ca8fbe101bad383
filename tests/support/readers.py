"""The programs that read cores, run without a person's settings and without the network."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .waiting import SLOWNESS

READER_SECONDS = 300.0 * SLOWNESS
"""Heap dumps of a JVM take long on an overloaded machine; reached only when a test fails."""


@dataclass(frozen=True)
class Reading:
    """What a reader printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def warnings(self) -> list[str]:
        """Lines in which the reader complains."""
        lines = self.out.splitlines() + self.err.splitlines()
        return [line for line in lines if "warning:" in line.lower() or "error:" in line.lower()]


def run_reader(*command: object, check: bool = True) -> Reading:
    """Run a reader; with check it must end with 0."""
    settings = {"LC_ALL": "C", "DEBUGINFOD_URLS": "", "HOME": "/nonexistent"}
    result = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=READER_SECONDS,
        env={**os.environ, **settings},
        check=False,
    )
    reading = Reading(result.returncode, result.stdout.decode("utf-8", "replace"), result.stderr.decode())
    if check:
        assert reading.status == 0, f"{command[0]} ended with {reading.status}: {reading.out[-2000:]}{reading.err}"
    return reading


def run_gdb(program: Path | str, core: Path, *commands: str) -> Reading:
    """Open a core in gdb and run commands."""
    arguments = [word for command in commands for word in ("-ex", command)]
    return run_reader(
        "gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-ex", "set pagination off", *arguments,
        program, core,
    )  # fmt: skip
