"""The tables, made from a record of all samples; nothing here measures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import planning, stops, streams, writing
from .stops import Dumps, Stops

FORK_FACTOR = 1.25
THREAD_SECONDS = 30e-6
SINK_SPREAD = 0.2
GCORE_FACTOR = 150
MEMCPY_FACTOR = 0.8
GCORE_MIB = 2048
STREAM_FACTOR = 0.85
CPU_FACTOR = 1.15
ENGINE_BYTES = 48 << 20
_STEPS = ("attach", "registers", "maps", "fork", "copied set", "detach")


def main_tables(record: dict[str, Any]) -> str:
    """What belongs into the README."""
    measured = [stops.of(entry) for entry in record["stops"]]
    parts = [
        _machine(record),
        _stop_table(measured),
        _sentences(_stop_goals(measured)),
        "Where a snapshot's stop goes, medians in ms; \"beyond\" is what the target saw beyond the engine's own clock:",
        _step_table(measured),
        _mode_table(measured),
        _writing_table([writing.of(entry) for entry in record["writing"]]),
        _stream_table([streams.of(entry) for entry in record["streams"]]),
        _planning_table([planning.of(entry) for entry in record.get("planning", [])]),
        _start_sentence(record.get("starts", [])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def all_tables(record: dict[str, Any]) -> str:
    """Everything, with all goals."""
    measured = [stops.of(entry) for entry in record["stops"]]
    flows = [streams.of(entry) for entry in record["streams"]]
    parts = [
        "# Bench",
        main_tables(record).rstrip(),
        "Goals:",
        "\n".join(f"- {line}" for line in [*_fork_goals(measured), *_stop_goals(measured), *_stream_goals(flows)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# words and numbers -----------------------------------------------------------------------------------------------


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    virtual = " (virtual machine)" if machine["virtual"] == "yes" else ""
    rounds = f"medians of up to {record['repeats']} rounds (smallest..largest)"
    return (
        f"{machine['CPU']}{virtual}, {machine['cores']} cores, {machine['RAM']} of RAM, Linux {machine['kernel']}, "
        f"Python {machine['Python']}, load {machine['load before']} before the run; {rounds}; made by `tests/bench/run"
        f"{' --quick' if record['quick'] else ''}` in {record['seconds']:.0f} s."
    )


def _size(mib: int) -> str:
    return f"{mib} MiB" if mib < 1024 else f"{mib / 1024:g} GiB"


def _pages(name: str) -> str:
    return {"small": "4 KiB", "huge": "2 MiB"}[name]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(values: Sequence[float], scale: float = 1.0) -> str:
    """Median and range."""
    if not values:
        return "-"
    scaled = [value * scale for value in values]
    middle = _number(statistics.median(scaled))
    if len(scaled) == 1:
        return middle
    return f"{middle} ({_number(min(scaled))}..{_number(max(scaled))})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A Markdown table whose first columns are aligned to the left, the others to the right."""
    lines = [f"| {' | '.join(heads)} |", "|" + "".join("---|" if i < left else "---:|" for i in range(len(heads)))]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) if len(lines) > 2 else ""


def _sentences(lines: Sequence[str]) -> str:
    return " ".join(f"{line[0].upper()}{line[1:]}." for line in lines)


def _met(value: bool) -> str:
    return "met" if value else "MISSED"


# the stop ----------------------------------------------------------------------------------------------------------


def _gap(dumps: Dumps) -> float:
    return statistics.median(sample.gap for sample in dumps.samples)


def _goal(case: Stops, dumps: Dumps) -> float:
    return FORK_FACTOR * statistics.median(case.fork) + THREAD_SECONDS * dumps.threads


def _snapshots(cases: Iterable[Stops]) -> list[tuple[Stops, Dumps]]:
    return [(case, dumps) for case in cases for dumps in case.dumps if dumps.mode == "snapshot"]


def _stop_table(cases: Sequence[Stops]) -> str:
    rows = []
    for case, dumps in _snapshots(cases):
        gap, goal = _gap(dumps), _goal(case, dumps)
        rows.append(
            [
                _size(case.mib),
                _pages(case.pages),
                str(dumps.threads),
                dumps.sink,
                _spread([sample.gap for sample in dumps.samples], 1e3),
                _spread(case.fork, 1e3),
                _number(gap / statistics.median(case.fork)),
                f"{_number(goal * 1e3)}{'' if gap <= goal else ' (missed)'}",
            ]
        )
    heads = ["memory", "pages", "threads", "pipe into", "stop, ms", "fork(), ms", "stop / fork", "goal, ms"]
    table = _table(heads, rows, 4)
    if not table:
        return ""
    return (
        "Mode `snapshot`: how long the target stood still, told by a thread of the target itself, beside a `fork()` "
        f"of the same process in C (goal: {FORK_FACTOR:g} of it and {THREAD_SECONDS * 1e6:.0f} us a thread):\n\n{table}"
    )


def _mode_table(cases: Sequence[Stops]) -> str:
    rows = []
    for case in cases:
        if {dumps.mode for dumps in case.dumps} == {"snapshot"} and not case.gcore:
            continue
        best = next(dumps for dumps in case.dumps if dumps.mode == "snapshot")
        for dumps in case.dumps:
            if dumps.sink != "50 MB/s":
                gaps = [sample.gap for sample in dumps.samples]
                rows.append([_size(case.mib), dumps.mode, dumps.sink, _spread(gaps, 1e3), _ratio(_gap(dumps), best)])
        for threads, seconds in case.memcpy.items():
            row = [_size(case.mib), f"memcpy in C, {threads} thread{'s' * (threads != '1')}", "memory"]
            rows.append([*row, _spread(seconds, 1e3), _ratio(statistics.median(seconds), best)])
        if case.gcore:
            gap = statistics.median(case.gcore)
            rows.append(
                [_size(case.mib), "gdb's `gcore`", "a file in memory", _spread(case.gcore, 1e3), _ratio(gap, best)]
            )
    table = _table(["memory", "mode", "pipe into", "stop, ms", "of `snapshot`"], rows, 3)
    what = "The other modes, a copy of as much memory in C, and gdb's `gcore`, on the same targets (4 KiB pages)"
    return f"{what}:\n\n{table}" if table else ""


def _ratio(gap: float, best: Dumps) -> str:
    return f"{_number(gap / _gap(best))} x"


def _step_table(cases: Sequence[Stops]) -> str:
    rows = []
    for case, dumps in _snapshots(cases):
        samples = dumps.samples
        columns = [[sample.steps.get(name, 0.0) for sample in samples] for name in _STEPS]
        columns += [[sample.stop for sample in samples], [sample.gap - sample.stop for sample in samples], case.fork]
        name = f"{_size(case.mib)}, {_pages(case.pages)}, {dumps.threads} threads, {dumps.sink}"
        rows.append([name, *(_number(statistics.median(column) * 1e3) for column in columns)])
    return _table(["target", *_STEPS, "engine's stop", "beyond", "fork() in C"], rows, 1)


def _fork_goals(cases: Sequence[Stops]) -> list[str]:
    lines = []
    for case, dumps in _snapshots(cases):
        gap, goal = _gap(dumps), _goal(case, dumps)
        name = f"{_size(case.mib)}, {_pages(case.pages)}, {dumps.threads} threads, {dumps.sink}"
        lines.append(f"{name}: stop {_number(gap * 1e3)} ms, goal {_number(goal * 1e3)} ms: {_met(gap <= goal)}")
    return lines


def _stop_goals(cases: Sequence[Stops]) -> list[str]:
    lines = []
    for case in cases:
        gaps = [_gap(dumps) for dumps in case.dumps if dumps.mode == "snapshot"]
        if len(gaps) > 1:
            spread = max(gaps) / min(gaps) - 1
            lines.append(
                f"{_size(case.mib)}: the stops of all sinks lie within {spread * 100:.0f} % "
                f"(goal {SINK_SPREAD * 100:.0f} %: {_met(spread <= SINK_SPREAD)})"
            )
        buffered = [sample for dumps in case.dumps if dumps.mode == "buffer" for sample in dumps.samples]
        if buffered and case.memcpy:
            speed = min(case.memcpy["1"]) / min(sample.steps["copy"] for sample in buffered)
            goal = f"goal {MEMCPY_FACTOR}: {_met(speed >= MEMCPY_FACTOR)}"
            lines.append(
                f"{_size(case.mib)}: `buffer` copies at {speed:.2f} of memcpy's speed, the best of both ({goal})"
            )
        if case.gcore:
            ratio = statistics.median(case.gcore) / gaps[0]
            goal = f" (goal {GCORE_FACTOR}: {_met(ratio >= GCORE_FACTOR)})" if case.mib == GCORE_MIB else ""
            lines.append(f"{_size(case.mib)}: `gcore` held the target {ratio:.0f} times as long as a snapshot{goal}")
    return lines


# while streaming -------------------------------------------------------------------------------------------------


def _writing_table(results: Sequence[writing.Writing]) -> str:
    rows = []
    for result in results:
        samples = result.samples
        rows.append(
            [
                result.sink,
                _spread([sample.before for sample in samples], 1e-6),
                *(_share(samples, name) for name in ("early", "during", "after")),
                _spread([sample.stream for sample in samples]),
            ]
        )
    heads = ["pipe into", "before, million/s", "first 0.1 s", "while streaming", "after", "stream, s"]
    table = _table(heads, rows, 1)
    if not table:
        return ""
    return (
        f"Increments of a thread of the target that writes to random pages of {_size(results[0].mib)}, before the dump "
        f"and in per cent of that:\n\n{table}"
    )


def _share(samples: Sequence[writing.Sample], name: str) -> str:
    return f"{_spread([100 * getattr(sample, name) / sample.before for sample in samples if sample.before])} %"


def _stream_table(results: Sequence[streams.Streams]) -> str:
    rows = []
    for result in results:
        names = {
            "corepipe": "`corepipe`",
            "limit": f"two threads in C, {result.limit_bytes >> 10} KiB",
            "dd": "`dd` of /proc/PID/mem",
        }
        for writer, samples in result.writers.items():
            peak = max(sample.peak_bytes for sample in samples)
            rows.append(
                [
                    f"{_size(result.mib)}, {_pages(result.pages)}",
                    result.sink,
                    names[writer],
                    _spread([sample.rate for sample in samples], 1e-9),
                    _spread([sample.whole_seconds for sample in samples]),
                    _spread([sample.cpu_seconds for sample in samples]),
                    f"{peak / (1 << 20):.0f}" if peak else "-",
                ]
            )
    heads = ["memory, pages", "pipe into", "writer", "stream, GB/s", "in all, s", "its CPU, s", "its RAM, MiB"]
    table = _table(heads, rows, 3)
    return f"The stream, beside what the machine can do:\n\n{table}" if table else ""


def _planning_table(results: Sequence[planning.Planning]) -> str:
    rows = []
    for result in results:
        samples = result.samples
        inside = [sample.stop - sample.steps.get("fork", 0.0) for sample in samples]
        rows.append(
            [
                result.target,
                _spread([sample.plan for sample in samples]),
                _spread([sample.plan_cpu for sample in samples]),
                f"{max(sample.plan_peak for sample in samples) / (1 << 20):.0f}",
                _spread([sample.stop for sample in samples], 1e3),
                _spread(inside, 1e3),
                _spread([sample.fork for sample in samples], 1e3),
                f"{max(sample.dump_peak for sample in samples) / (1 << 20):.0f}",
            ]
        )
    heads = ["target", "`--plan`, s", "its CPU, s", "its RAM, MiB", "stop, ms", "of it beside the fork, ms"]
    table = _table([*heads, "fork() in C, ms", "RAM of a dump, MiB"], rows, 1)
    return f"Many mappings, a large reservation, a fragmented heap:\n\n{table}" if table else ""


def _start_sentence(starts: Sequence[dict[str, Any]]) -> str:
    if not starts:
        return ""
    words = [
        f"{start['command']} {_spread(start['seconds'], 1e3)} ms, CPU {_spread(start.get('cpu_seconds', []), 1e3)} ms"
        for start in starts
    ]
    return f"From start to end: {'; '.join(words)}."


def _stream_goals(results: Sequence[streams.Streams]) -> list[str]:
    lines = []
    for result in results:
        ours, limit = result.writers.get("corepipe", []), result.writers.get("limit", [])
        if not ours or not limit:
            continue
        name = f"{_size(result.mib)}, {_pages(result.pages)}, into {result.sink}"
        rate = _of_both(ours, limit, lambda sample: sample.rate)
        cpu = _of_both(ours, limit, lambda sample: sample.cpu_seconds)
        peak = max(sample.peak_bytes for sample in ours)
        lines.append(
            f"{name}: {rate:.2f} of the C program's speed (goal {STREAM_FACTOR}: {_met(rate >= STREAM_FACTOR)}), "
            f"{cpu:.2f} of its CPU time (goal {CPU_FACTOR}: {_met(cpu <= CPU_FACTOR)}), "
            f"{peak / (1 << 20):.0f} MiB (goal {ENGINE_BYTES >> 20}: {_met(peak <= ENGINE_BYTES)})"
        )
    return lines


def _of_both(
    ours: Sequence[streams.Sample], theirs: Sequence[streams.Sample], value: Callable[[streams.Sample], float]
) -> float:
    return statistics.median(map(value, ours)) / statistics.median(map(value, theirs))
