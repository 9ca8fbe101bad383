"""How long the target stands still, as it sees it itself, beside a fork() of the same process and gdb's gcore."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .dumps import Engine, dump
from .programs import Beating, Programs
from .rounds import Rounds

THROTTLED_BYTES = 50_000_000
_BREAK_OFF_SECONDS = 0.1
_SETTLE_SECONDS = 0.02


@dataclass(frozen=True)
class Case:
    """One target, and the dumps (mode, sink) it is put through in every round."""

    mib: int
    threads: int = 1
    pages: str = "small"
    dumps: tuple[tuple[str, str], ...] = (("snapshot", "cat"),)
    gcore: bool = False
    break_off: bool = False


ALL_SINKS = (("snapshot", "cat"), ("snapshot", "zstd"), ("snapshot", "50 MB/s"))
ALL_MODES = (*ALL_SINKS, ("buffer", "cat"), ("direct", "cat"), ("direct", "zstd"))
FULL = (
    Case(64, dumps=ALL_SINKS),
    Case(512, dumps=ALL_MODES),
    Case(2048, dumps=ALL_MODES, gcore=True),
    Case(2048, threads=100, break_off=True),
    Case(2048, threads=1000, break_off=True),
    Case(2048, pages="huge", break_off=True),
    Case(8192, dumps=ALL_SINKS, break_off=True),
)
QUICK = (
    Case(64, dumps=ALL_SINKS),
    Case(64, threads=100),
    Case(64, threads=1000),
    Case(512, dumps=ALL_MODES, gcore=True),
    Case(512, pages="huge"),
)


@dataclass
class Sample:
    """One dump: seconds that the target saw, seconds of the engine's own clock, and its parts."""

    gap: float
    stop: float
    steps: dict[str, float]


@dataclass
class Dumps:
    """All dumps of one mode into one sink. threads: with the heart, which the case does not count."""

    mode: str
    sink: str
    threads: int = 0
    samples: list[Sample] = field(default_factory=list)


@dataclass
class Stops:
    """What was measured on one target. fork, gcore and memcpy (one thread, two): seconds."""

    mib: int
    threads: int
    pages: str
    huge_bytes: int = 0
    fork: list[float] = field(default_factory=list)
    gcore: list[float] = field(default_factory=list)
    memcpy: dict[str, list[float]] = field(default_factory=dict)
    dumps: list[Dumps] = field(default_factory=list)


def sink_command(sink: str, programs: Programs) -> str:
    """The pipe command of a sink."""
    return {
        "cat": "cat >/dev/null",
        "zstd": "zstd -q -1 -T0 >/dev/null",
        "zstd -T0": "zstd -q -T0 >/dev/null",
        "50 MB/s": f"{programs.throttle} {THROTTLED_BYTES}",
    }[sink]


def measure(case: Case, engine: Engine, programs: Programs, rounds: Rounds, say: Callable[[str], None]) -> Stops:
    """Put one target through all its dumps, round by round."""
    result = Stops(case.mib, case.threads, case.pages, dumps=[Dumps(mode, sink) for mode, sink in case.dumps])
    with Beating(programs.beating, case.mib, case.threads, case.pages) as target:
        result.huge_bytes = target.huge_bytes()
        for _ in rounds:
            target.touch()
            time.sleep(_SETTLE_SECONDS)
            result.fork.append(target.fork())
            for dumps in result.dumps:
                dumps.samples.append(_sample(case, target, dumps, engine, programs))
            if ("buffer", "cat") in case.dumps:
                for threads in ("1", "2"):
                    words = [str(programs.memcpy), str(case.mib), threads]
                    result.memcpy.setdefault(threads, []).append(float(subprocess.check_output(words)))
            if case.gcore and not result.gcore and shutil.which("gcore"):
                result.gcore.append(_gcore(target))
        for dumps in result.dumps:
            best = min(sample.gap for sample in dumps.samples)
            say(f"  {dumps.mode} into {dumps.sink}: at best {best * 1e3:.1f} ms, fork {min(result.fork) * 1e3:.1f} ms")
    return result


def _sample(case: Case, target: Beating, dumps: Dumps, engine: Engine, programs: Programs) -> Sample:
    target.touch()
    target.reset()
    time.sleep(_SETTLE_SECONDS)
    slow = case.break_off or dumps.sink == "50 MB/s"
    seen = dump(
        engine,
        target.pid,
        *("--mode", dumps.mode, "--pipe", sink_command(dumps.sink, programs), "--pipe-as-root", "-q"),
        break_off=_BREAK_OFF_SECONDS if slow else None,
    )
    dumps.threads = len(os.listdir(f"/proc/{target.pid}/task"))
    return Sample(target.longest_gap(*seen.window), seen.stop_seconds, seen.steps)


def _gcore(target: Beating) -> float:
    """Seconds that gcore holds the target; its core goes to memory, and away."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        target.reset()
        begun = time.monotonic()
        command = ["gcore", "-o", str(Path(folder, "core")), str(target.pid)]
        with contextlib.suppress(OSError):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return target.longest_gap(begun, time.monotonic())


def of(record: dict[str, Any]) -> Stops:
    """Stops from their JSON."""
    dumps = [
        Dumps(**{**entry, "samples": [Sample(**sample) for sample in entry["samples"]]}) for entry in record["dumps"]
    ]
    return Stops(**{**record, "dumps": dumps})
