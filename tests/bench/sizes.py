"""How large and how many buffers and pipes the stream works best with, and how many ranges a call: see `Sizes`.

The engine's own classes are run here, in this process, on a target that does nothing: the read path straight from the
target, the spliced one from a snapshot of it, each into `cat`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corepipe_engine.capture import Captured, Context, read_identity
from corepipe_engine.chunks import SIZES, Sizes
from corepipe_engine.inspection import arch_of_task, live_task, open_target, plan_regions
from corepipe_engine.interrupts import Interrupts
from corepipe_engine.memory import MemoryReader, ProcessMemory
from corepipe_engine.options import DumpOptions
from corepipe_engine.plan import DumpPlan
from corepipe_engine.report import Report
from corepipe_engine.reporter import Console, Reporter
from corepipe_engine.snapshot import snapshot
from corepipe_engine.splice import PIPES, PagePipes
from corepipe_engine.stream import CoreStream, raise_error

from .programs import Beating, Programs
from .rounds import Rounds

KIB, MIB = 1 << 10, 1 << 20
_F_SETPIPE_SZ = 1031
_LARGEST_PIPE = 4 * MIB
_RUNS = 100_000
READ, MEM, SPLICE = "process_vm_readv", "/proc/PID/mem", "spliced"


@dataclass(frozen=True)
class Setting:
    """One way to stream.

    chunk: bytes of a buffer, or of a pipe that the snapshot fills; of the one there are buffers, of the other pipes.
    sink_pipe: bytes of the pipe into the sink.
    """

    path: str
    chunk: int = SIZES.chunk
    buffers: int = SIZES.buffers
    ranges: int = SIZES.ranges
    sink_pipe: int = MIB
    pipes: int = PIPES


@dataclass
class Sizing:
    """What a setting gave for a target, round by round: bytes, seconds, and seconds of processor time of both sides."""

    target: str
    setting: Setting
    bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def _contiguous() -> Iterator[Setting]:
    for path in (READ, MEM):
        for chunk, buffers in itertools.product((64 * KIB, 256 * KIB, MIB, 4 * MIB), (2, 4, 8)):
            yield Setting(path, chunk, buffers)
        for sink_pipe in (64 * KIB, 256 * KIB):
            yield Setting(path, sink_pipe=sink_pipe)
    for chunk, pipes in itertools.product((256 * KIB, MIB, 4 * MIB), (1, 2, 4)):
        yield Setting(SPLICE, chunk, pipes=pipes)
    for sink_pipe in (64 * KIB, 256 * KIB):
        yield Setting(SPLICE, sink_pipe=sink_pipe)


def _fragmented() -> Iterator[Setting]:
    for path in (READ, MEM):
        for ranges in (1, 16, 128, 1024):
            yield Setting(path, ranges=ranges)
    for chunk in (256 * KIB, 4 * MIB):
        yield Setting(READ, chunk)
    for chunk in (256 * KIB, MIB, 4 * MIB):
        yield Setting(SPLICE, chunk)


def measure(mib: int, programs: Programs, rounds: Rounds, say: Callable[[str], None]) -> list[Sizing]:
    """Stream a target of one piece, and one of many touched runs, in all settings by turns."""
    with Beating(programs.beating, mib, pages="small", beat=900_000) as target:
        results = _measure(f"{mib} MiB in one piece", target.pid, list(_contiguous()), rounds, say)
    words = [str(programs.mapped), "runs", str(_RUNS)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            process.stdout.readline()
            results += _measure(f"{_RUNS:,} touched runs", process.pid, list(_fragmented()), rounds, say)
        finally:
            process.kill()
    return results


@contextlib.contextmanager
def _large_pipes() -> Iterator[None]:
    """Allow pipes as large as we try them; root may have them in any case, but for some containers."""
    limit = Path("/proc/sys/fs/pipe-max-size")
    before = limit.read_text()
    try:
        limit.write_text(f"{max(int(before), _LARGEST_PIPE)}\n")
        yield
    finally:
        limit.write_text(before)


def _measure(
    name: str, pid: int, settings: Sequence[Setting], rounds: Rounds, say: Callable[[str], None]
) -> list[Sizing]:
    results = [Sizing(name, setting) for setting in settings]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(contextlib.closing(open_target(pid)))
        interrupts = stack.enter_context(Interrupts())
        with live_task(process) as task:
            arch, identity = arch_of_task(task), read_identity(process, task)
        reporter = Reporter(Console(2, -1), -1)
        stack.callback(reporter.close)
        report = Report("bench", pid)
        context = Context(process, arch, DumpOptions(), identity, reporter, interrupts, report, lambda: None)
        plan = plan_regions(process, process.regions(), DumpOptions(), 0, arch)
        readers = {
            READ: stack.enter_context(contextlib.closing(ProcessMemory(process))),
            MEM: stack.enter_context(contextlib.closing(ProcessMemory(process, pinned=False))),
        }
        captured = stack.enter_context(snapshot(context))
        stack.enter_context(_large_pipes())
        for number in rounds:
            say(f"  {name}, round {number + 1}")
            for result in results:
                if result.setting.path == SPLICE:
                    with contextlib.closing(_pipes(captured, result.setting, arch.elf)) as pipes:
                        _stream(result, captured.plan, captured.notes, captured.reader, pipes)
                else:
                    _stream(result, plan, b"", readers[result.setting.path], None)
    return results


def _pipes(captured: Captured, setting: Setting, elf: Any) -> PagePipes:
    """More pipes of the same snapshot."""
    if captured.pipes is None:
        raise RuntimeError("this machine's snapshots are read, not sent")
    first = captured.pipes
    pidfd = os.pidfd_open(first._calls.pid)
    try:
        pipes = PagePipes(first._calls, first._folder, pidfd, first._scratch, elf, setting.pipes, (setting.chunk,))
    finally:
        os.close(pidfd)
    pipes.ranges = first.ranges
    pipes._slow = -(1 << 30)  # a busy machine is no reason to read
    return pipes


def _cpu_seconds(pipes: PagePipes | None) -> float:
    """Processor time so far: ours, and that of the snapshot, which the kernel counts in nanoseconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = usage.ru_utime + usage.ru_stime
    if pipes is not None:
        seconds += int(Path(f"/proc/{pipes._calls.pid}/schedstat").read_text().split()[0]) / 1e9
    return seconds


def _stream(result: Sizing, plan: DumpPlan, notes: bytes, reader: MemoryReader, pipes: PagePipes | None) -> None:
    setting = result.setting
    header = plan.header(notes)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as sink:
        assert sink.stdin
        fd = sink.stdin.fileno()
        fcntl.fcntl(fd, _F_SETPIPE_SZ, setting.sink_pipe)
        cpu, begun = _cpu_seconds(pipes), time.monotonic()
        sizes = Sizes(SIZES.chunk if pipes else setting.chunk, setting.buffers, setting.ranges)
        stream = CoreStream(plan, header, reader, fd, pipes=pipes, sizes=sizes)
        stream.start()
        while not stream.done and stream.error is None:
            select.select([stream.wake_fd], [], [])
            stream.serve()
        raise_error(stream)
        result.seconds.append(time.monotonic() - begun)
        stream.close(10.0)
        result.cpu_seconds.append(_cpu_seconds(pipes) - cpu)
        result.bytes = stream.written
        if pipes is not None and stream.spliced < stream.written // 2:
            raise RuntimeError(f"only {stream.spliced} of {stream.written} bytes were spliced")


def of(record: dict[str, Any]) -> Sizing:
    """Sizing from its JSON."""
    return Sizing(**{**record, "setting": Setting(**record["setting"])})


def table(record: dict[str, Any]) -> str:
    """What was measured, in Markdown: processor time for a GB, and in parentheses the speed."""
    found = {(one.target, one.setting): one for one in map(of, record["sizes"])}
    targets = list(dict.fromkeys(target for target, _ in found))
    parts = [_machine(record), "Seconds of processor time for a GB (in parentheses: GB/s), medians:"]

    def cell(target: str, setting: Setting) -> str:
        one = found.get((target, setting))
        if one is None:
            return "-"
        cpu, seconds = statistics.median(one.cpu_seconds), statistics.median(one.seconds)
        return f"{cpu / one.bytes * 1e9:.2f} ({one.bytes / seconds / 1e9:.1f})"

    whole, runs = targets
    rows = [f"| {whole} | 2 buffers | 4 | 8 |", "|---|---:|---:|---:|"]
    for path, chunk in itertools.product((READ, MEM), (64 * KIB, 256 * KIB, MIB, 4 * MIB)):
        cells = [cell(whole, Setting(path, chunk, buffers)) for buffers in (2, 4, 8)]
        rows.append(f"| {path}, {chunk >> 10} KiB | {' | '.join(cells)} |")
    rows += ["", f"| {whole} | 1 pipe | 2 | 4 |", "|---|---:|---:|---:|"]
    for chunk in (256 * KIB, MIB, 4 * MIB):
        cells = [cell(whole, Setting(SPLICE, chunk, pipes=pipes)) for pipes in (1, 2, 4)]
        rows.append(f"| {SPLICE}, {chunk >> 10} KiB | {' | '.join(cells)} |")
    rows += ["", f"| {whole}, pipe into the sink | 64 KiB | 256 KiB | 1 MiB |", "|---|---:|---:|---:|"]
    for path in (READ, MEM, SPLICE):
        cells = [cell(whole, Setting(path, sink_pipe=size)) for size in (64 * KIB, 256 * KIB, MIB)]
        rows.append(f"| {path} | {' | '.join(cells)} |")
    rows += ["", f"| {runs}, ranges at most | 1 | 16 | 128 | 1024 |", "|---|---:|---:|---:|---:|"]
    for path in (READ, MEM):
        cells = [cell(runs, Setting(path, ranges=ranges)) for ranges in (1, 16, 128, 1024)]
        rows.append(f"| {path} | {' | '.join(cells)} |")
    rows += ["", f"| {runs} | 256 KiB | 1 MiB | 4 MiB |", "|---|---:|---:|---:|"]
    for path in (READ, SPLICE):
        cells = [cell(runs, Setting(path, chunk)) for chunk in (256 * KIB, MIB, 4 * MIB)]
        rows.append(f"| {path} | {' | '.join(cells)} |")
    return "\n\n".join([*parts, "\n".join(rows)])


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return (
        f"{machine['CPU']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load before']} before."
    )
