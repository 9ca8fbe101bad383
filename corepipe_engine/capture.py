"""What a dump mode hands to the stream, and how it is collected from a process whose threads stand still."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arch import Arch, ThreadState
from .errors import CorepipeError
from .events import Notice, Phase, PhaseChanged, Resumed, Stopped
from .freeze import Freeze
from .inspection import plan_regions
from .interrupts import Interrupts
from .memory import MemoryReader
from .notes import ProcessIdentity, build_notes, file_mappings
from .options import DumpOptions
from .plan import DumpPlan, check_expressible
from .procfs import PAGE_SIZE, ProcDir, ProcessHandle, map_id
from .regions import Region
from .report import Report
from .reporter import Reporter

if TYPE_CHECKING:
    from .splice import PagePipes
    from .tags import TagReader


@dataclass(frozen=True, slots=True)
class Captured:
    """A core ready to be streamed: its layout, its notes, and where its memory is read.

    deadline: when a target that stands still until the stream has ended must be let go (CLOCK_MONOTONIC seconds); None
    for a running target or without --max-stop. shared_live: ranges (address, bytes) that are read
    while the target runs. check: raises when the source of the memory is gone; to be asked while streaming and after.
    changed: returns, after the stream, further ranges that others may have changed before they were read. pipes: a way
    for most of the memory that needs no reading. tags: where the tags that the plan has are read.
    """

    plan: DumpPlan
    notes: bytes
    threads: int
    reader: MemoryReader
    deadline: float | None = None
    shared_live: tuple[tuple[int, int], ...] = ()
    check: Callable[[], None] = field(default=lambda: None)
    changed: Callable[[], tuple[tuple[int, int], ...]] = field(default=lambda: ())
    pipes: PagePipes | None = None
    tags: TagReader | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What every mode works with. check_sink raises SinkError when there is nobody left to stream to."""

    process: ProcessHandle
    arch: Arch
    options: DumpOptions
    identity: ProcessIdentity
    reporter: Reporter
    interrupts: Interrupts
    report: Report
    check_sink: Callable[[], None]

    def phase(self, phase: Phase) -> None:
        """Tell that a phase begins."""
        self.reporter.emit(PhaseChanged(phase, self.reporter.now()))

    def notice(self, text: str) -> None:
        """Tell something that the person should know; it is in the report too."""
        self.report.notices.append(text)
        self.reporter.emit(Notice(text))

    @contextlib.contextmanager
    def freeze(self) -> Iterator[Freeze]:
        """Stop the target for the body of the with statement; events and report get the stop clock."""
        freeze = Freeze(self.process, self.arch, self.options.max_stop, self.interrupts.check)
        freeze.prepare()
        self.interrupts.check()
        self.check_sink()
        self.phase(Phase.FREEZE)
        self.reporter.emit(Stopped(self.reporter.now()))
        try:
            with no_garbage_collection(), freeze:
                yield freeze
        finally:
            clock = freeze.clock
            if clock.ended:
                self.phase(Phase.RESUME)
                self.reporter.emit(Resumed(self.reporter.now(), clock.seconds, dict(clock.steps)))
                self.report.stop_seconds = clock.seconds
                self.report.stop_steps = dict(clock.steps)


def read_identity(process: ProcessHandle, task: ProcDir) -> ProcessIdentity:
    """Return what the notes tell of the process; pids and ids as the target itself sees them."""
    stat, status = process.stat(), task.status()
    level = len(status.ns_tgids) or 1

    def seen(pids: tuple[int, ...], fallback: int) -> int:
        return pids[level - 1] if len(pids) >= level else fallback

    ppid = stat.ppid
    if level > 1:
        ppid = 0
        with contextlib.suppress(CorepipeError):
            parent = ProcDir(stat.ppid)
            try:
                ppid = seen(parent.status().ns_pids, 0)
            finally:
                parent.close()
    uid, gid = status.uid, status.gid
    with contextlib.suppress(CorepipeError):
        uid = map_id(task.read("uid_map"), uid)
        gid = map_id(task.read("gid_map"), gid)
    return ProcessIdentity(
        pid=seen(status.ns_tgids, process.pid),
        ppid=ppid,
        pgrp=seen(status.ns_pgids, stat.pgrp),
        sid=seen(status.ns_sids, stat.session),
        uid=uid,
        gid=gid,
        state=stat.state,
        nice=stat.nice,
        flags=stat.flags,
        comm=stat.comm,
        cmdline=task.read("cmdline").rstrip(b"\0"),
        cutime_ticks=stat.cutime_ticks,
        cstime_ticks=stat.cstime_ticks,
        root=task.readlink("root"),
    )


def make_notes(context: Context, threads: Sequence[ThreadState], auxv: bytes, regions: Sequence[Region]) -> bytes:
    """Return all notes of the core."""
    mappings = file_mappings(regions, context.identity.root)
    return build_notes(context.arch, context.identity, threads, auxv, mappings, PAGE_SIZE)


def watch(context: Context, freeze: Freeze) -> None:
    """Raise what must end a stop: its limit, an interruption, the target's death."""
    freeze.check_deadline()
    freeze.check_alive()
    context.interrupts.check()


def plan_frozen(context: Context, freeze: Freeze, task: ProcDir) -> tuple[DumpPlan, bytes, int]:
    """Return plan, notes and number of threads of a target that stands still."""
    threads = freeze.thread_states()
    regions = task.regions(lambda: watch(context, freeze))
    notes = make_notes(context, threads, task.auxv(context.arch.elf.word.size), regions)
    pointers = [context.arch.stack_pointer(thread.general) for thread in threads]
    plan = plan_regions(task, regions, context.options, len(notes), context.arch, pointers)
    check_expressible(plan)
    freeze.clock.step("plan")
    watch(context, freeze)
    return plan, notes, len(threads)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python's collector from running inside a stop."""
    import gc

    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
