"""How fast a thread of the target writes to its memory before, during and after a stream."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .dumps import Engine, dump
from .programs import Beating, Programs
from .rounds import Rounds
from .stops import sink_command

_BEAT_MICROSECONDS = 1000
_CALM_SECONDS = 0.7
_EARLY_SECONDS = 0.1
_THROTTLED_SECONDS = 2.0
SINKS = ("cat", "zstd", "50 MB/s")


@dataclass
class Sample:
    """Increments a second before the stop; in the first tenth of a second after it; until the end of the stream; after.

    gap: seconds of the stop as the target saw it, stream: seconds from resume to the end of the stream.
    """

    before: float
    early: float
    during: float
    after: float
    gap: float
    stream: float


@dataclass
class Writing:
    """All samples with one sink."""

    mib: int
    sink: str
    samples: list[Sample] = field(default_factory=list)


def measure(
    mib: int, sinks: Sequence[str], engine: Engine, programs: Programs, rounds: Rounds, say: Callable[[str], None]
) -> list[Writing]:
    """Dump a writing target again and again."""
    results = [Writing(mib, sink) for sink in sinks]
    with Beating(programs.beating, mib, beat=_BEAT_MICROSECONDS, writer=True) as target:
        for _ in rounds:
            for result in results:
                result.samples.append(_sample(target, result.sink, engine, programs))
    for result in results:
        best = max(sample.during / sample.before for sample in result.samples)
        say(f"  into {result.sink}: at best {best * 100:.0f} % of the increments while streaming")
    return results


def _sample(target: Beating, sink: str, engine: Engine, programs: Programs) -> Sample:
    target.reset()
    begun = time.monotonic()
    time.sleep(_CALM_SECONDS)
    calm = time.monotonic()
    seen = dump(
        engine,
        target.pid,
        *("--mode", "snapshot", "--pipe", sink_command(sink, programs), "--pipe-as-root", "-q"),
        break_off=_THROTTLED_SECONDS if sink == "50 MB/s" else None,
    )
    ended = time.monotonic()
    time.sleep(_CALM_SECONDS)
    finished = seen.finished or seen.resumed + _THROTTLED_SECONDS
    samples = target.samples()
    return Sample(
        before=_rate(samples, begun, calm),
        early=_rate(samples, seen.resumed, min(seen.resumed + _EARLY_SECONDS, finished)),
        during=_rate(samples, seen.resumed, finished),
        after=_rate(samples, ended, ended + _CALM_SECONDS),
        gap=target.longest_gap(*seen.window),
        stream=finished - seen.resumed,
    )


def _rate(samples: Sequence[tuple[float, int]], begin: float, end: float) -> float:
    """Increments a second between two times, from the samples that lie inside."""
    times = [moment for moment, _ in samples]
    first, last = bisect_left(times, begin), bisect_right(times, end) - 1
    if last <= first:
        return 0.0
    return (samples[last][1] - samples[first][1]) / (times[last] - times[first])


def of(record: dict[str, Any]) -> Writing:
    """Writing from its JSON."""
    return Writing(**{**record, "samples": [Sample(**sample) for sample in record["samples"]]})
