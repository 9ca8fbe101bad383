"""What many mappings, large reservations and many touched runs cost: the plan, the stop, and the engine's own start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .dumps import Engine, dump
from .programs import Programs
from .rounds import Rounds

CASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("1,000 mappings", ("mappings", "1000")),
    ("64,000 mappings", ("mappings", "64000")),
    ("4 TiB reserved, 1,000 pages touched", ("reserved", "4", "1000")),
    ("200,000 touched runs", ("runs", "200000")),
)
_STARTS: dict[str, tuple[str, ...]] = {
    "bare interpreter": ("-c", "pass"),
    "`corepipe --version`": ("-m", "corepipe_engine", "--version"),
    "`corepipe --help`": ("-m", "corepipe_engine", "--help"),
    "a dump of `sleep`": ("-m", "corepipe_engine", "-q", "PID"),
}


@dataclass
class Sample:
    """One plan and one dump. Seconds; peak: the most memory that the engine's process had, bytes."""

    plan: float
    plan_cpu: float
    plan_peak: int
    stop: float
    steps: dict[str, float]
    fork: float
    dump_peak: int


@dataclass
class Planning:
    """All samples of one target."""

    target: str
    samples: list[Sample] = field(default_factory=list)


@dataclass
class Start:
    """Seconds that a command took from its start to its end, and those of processor time."""

    command: str
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def measure(engine: Engine, programs: Programs, rounds: Rounds, say: Callable[[str], None]) -> list[Planning]:
    """Plan and dump each target in turns."""
    results = []
    for name, words in CASES:
        result = Planning(name)
        with _mapped([str(programs.mapped), *words]) as (process, fork):
            for _ in rounds:
                result.samples.append(_sample(process.pid, fork, engine))
        say(f"  {name}: plan at best {min(sample.plan for sample in result.samples):.2f} s")
        results.append(result)
    return results


@contextmanager
def _mapped(words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], float]]]:
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def fork() -> float:
            orders.write(b"fork\n")
            return int(answers.readline()) / 1e9

        if answers.readline() != b"ready\n":
            raise RuntimeError(f"{words} did not start")
        try:
            yield process, fork
        finally:
            process.kill()


def _sample(pid: int, fork: Callable[[], float], engine: Engine) -> Sample:
    begun = time.monotonic()
    process = engine.popen([pid, "--plan", "--json"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begun
    if process.returncode:
        raise RuntimeError(f"--plan ended with {process.returncode}")
    seen = dump(engine, pid, "--mode", "snapshot", "-q")
    return Sample(
        seconds,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss << 10,
        seen.stop_seconds,
        seen.steps,
        fork(),
        seen.peak_bytes,
    )


def measure_start(engine: Engine, rounds: Rounds) -> list[Start]:
    """How long Python itself, and corepipe with next to nothing to do, take."""
    results = [Start(name) for name in _STARTS]
    with subprocess.Popen(["sleep", "1000"]) as target:
        try:
            for _ in range(4 * rounds.count):
                for result in results:
                    words = [str(target.pid) if word == "PID" else word for word in _STARTS[result.command]]
                    begun = time.monotonic()
                    options = {"stdout": subprocess.DEVNULL, "env": engine.environment(), "cwd": engine.folder}
                    process = subprocess.Popen([sys.executable, *words], **options)
                    result.cpu_seconds.append(_cpu_seconds(process))
                    result.seconds.append(time.monotonic() - begun)
        finally:
            target.kill()
    return results


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Wait for the process and return its processor time. RuntimeError if it failed."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def of(record: dict[str, Any]) -> Planning:
    """Planning from its JSON."""
    return Planning(record["target"], [Sample(**sample) for sample in record["samples"]])
