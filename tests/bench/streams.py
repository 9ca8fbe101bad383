"""The speed of the stream beside what the machine can do: two threads in C, and dd."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .dumps import Engine, dump
from .programs import Beating, Programs
from .rounds import Rounds

_LIMIT_BUFFERS = 4
_LIMIT_SIZES = tuple(1 << shift for shift in range(16, 23))
COMMANDS = {"cat": ["cat"], "zstd -1": ["zstd", "-q", "-1", "-c"], "zstd -T0": ["zstd", "-q", "-T0", "-c"]}
WRITERS = ("corepipe", "limit", "dd")


@dataclass
class Sample:
    """One stream: its bytes, the seconds it took, and CPU time (with the snapshot's) and peak memory of what wrote it.

    whole_seconds: from the start of the command to its end.
    """

    bytes: int
    seconds: float
    whole_seconds: float
    cpu_seconds: float
    peak_bytes: int = 0

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds


@dataclass
class Streams:
    """All streams of one target into one sink, by writer. limit_bytes: the best buffer size of the program in C."""

    mib: int
    pages: str
    sink: str
    limit_bytes: int = 0
    writers: dict[str, list[Sample]] = field(default_factory=dict)


def measure(
    mib: int,
    pages: str,
    sinks: Sequence[tuple[str, Sequence[str]]],
    engine: Engine,
    programs: Programs,
    rounds: Rounds,
    say: Callable[[str], None],
) -> list[Streams]:
    """Stream one target into several sinks, each with its writers, in turns."""
    results = []
    with Beating(programs.beating, mib, pages=pages, beat=100_000) as target:
        best = 0
        for sink, writers in sinks:
            if not best and "limit" in writers:
                best = min(_LIMIT_SIZES, key=lambda size: _limit(target, programs, sink, size).seconds)
            result = Streams(mib, pages, sink, best, {writer: [] for writer in writers})
            for _ in rounds if sink == "cat" else rounds.fewer():
                for writer, samples in result.writers.items():
                    samples.append(_sample(writer, target, engine, programs, sink, best))
            results.append(result)
            for writer, samples in result.writers.items():
                rate = max(sample.rate for sample in samples)
                say(f"  {writer}, {pages} pages, into {sink}: at best {rate / 1e9:.2f} GB/s")
    return results


def _sample(writer: str, target: Beating, engine: Engine, programs: Programs, sink: str, best: int) -> Sample:
    if writer == "corepipe":
        return _corepipe(target, engine, sink)
    if writer == "limit":
        return _limit(target, programs, sink, best)
    return _dd(target, sink)


def _sink(name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(COMMANDS[name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _close(sink: subprocess.Popen[bytes]) -> None:
    if sink.stdin:
        sink.stdin.close()
    sink.wait()


def _corepipe(target: Beating, engine: Engine, sink_name: str) -> Sample:
    sink = _sink(sink_name)
    begun = time.monotonic()
    try:
        seen = dump(engine, target.pid, "--mode", "snapshot", "-q", stdout=sink.stdin)
    finally:
        _close(sink)
    report = seen.report
    return Sample(
        report["bytes_written"],
        report["stream_seconds"],
        time.monotonic() - begun,
        seen.cpu_seconds + report["snapshot_cpu_seconds"],
        seen.peak_bytes,
    )


def _limit(target: Beating, programs: Programs, sink: str, size: int) -> Sample:
    words = [programs.limit, target.pid, target.address, target.bytes, size, _LIMIT_BUFFERS]
    sample, errors = _run([str(word) for word in words], target.bytes, sink)
    sample.seconds = float(errors)
    return sample


def _dd(target: Beating, sink: str) -> Sample:
    words = ["dd", f"if=/proc/{target.pid}/mem", "bs=1M", "iflag=skip_bytes,count_bytes,fullblock"]
    return _run([*words, f"skip={target.address}", f"count={target.bytes}", "status=none"], target.bytes, sink)[0]


def _run(words: Sequence[str], count: int, sink_name: str) -> tuple[Sample, str]:
    """Run a program into a sink; return what it took, and its standard error."""
    sink = _sink(sink_name)
    begun = time.monotonic()
    try:
        process = subprocess.Popen(words, stdout=sink.stdin, stderr=subprocess.PIPE)
        assert process.stderr
        with process.stderr as stream:
            errors = stream.read().decode("utf-8", "replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
    finally:
        _close(sink)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}: {errors}")
    return Sample(count, seconds, time.monotonic() - begun, usage.ru_utime + usage.ru_stime), errors


def of(record: dict[str, Any]) -> Streams:
    """Streams from their JSON."""
    writers = {name: [Sample(**sample) for sample in samples] for name, samples in record["writers"].items()}
    return Streams(**{**record, "writers": writers})
