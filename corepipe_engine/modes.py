"""The dump modes as context managers that yield what is to be streamed, and the choice between them.

direct: the target stands still while the stream runs. buffer: it stands still while memory is copied to RAM.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from .capture import Captured, Context, plan_frozen
from .errors import CorepipeError, ModeUnavailableError
from .events import ModeChosen, Phase
from .freeze import Freeze
from .inspection import inspect_process, live_task
from .memory import Buffer, CopiedMemory, ProcessMemory
from .options import ModeChoice
from .procfs import ProcDir, mem_available
from .reporter import format_bytes

_COPY_THREADS: Final = 2
_COPY_SLICE_BYTES: Final = 16 << 20
_HEADROOM_BYTES: Final = 256 << 20
_MADV_POPULATE_WRITE: Final = 23


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to take the dump. capture raises ModeUnavailableError, with the target running, where it cannot serve."""

    choice: ModeChoice
    why: str
    capture: Callable[[Context], AbstractContextManager[Captured]]


def own_memory_limit() -> int:
    """Return how many bytes this process may still take: MemAvailable, or less by its cgroups (v2)."""
    limit = mem_available()
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            path = next(line.split(":", 2)[2].strip() for line in file if line.startswith("0::"))
        limit = min(limit, cgroup_room(path))
    return limit


def cgroup_room(path: str) -> int:
    """Return the bytes that a cgroup (v2, path as in /proc/PID/cgroup) may still take, the levels above included."""
    room = 1 << 62
    while True:
        folder = f"/sys/fs/cgroup{path}"
        with contextlib.suppress(OSError, ValueError):
            with open(f"{folder}/memory.max", "rb") as file:
                maximum = int(file.read())  # "max" is a ValueError: no limit here
            with open(f"{folder}/memory.current", "rb") as file:
                current = int(file.read())
            room = min(room, max(maximum - current + _reclaimable(folder), 0))
        if path in ("", "/"):
            return room
        path = os.path.dirname(path)


def _reclaimable(folder: str) -> int:
    """Bytes of clean page cache that the kernel can drop."""
    with open(f"{folder}/memory.stat", "rb") as file:
        for line in file:
            if line.startswith(b"inactive_file "):
                return int(line.split()[1])
    return 0


@contextlib.contextmanager
def direct(context: Context) -> Iterator[Captured]:
    """Freeze, stream, resume. Needs no memory; the stop lasts as long as the sink takes."""
    with context.freeze() as freeze, live_task(context.process) as task:
        plan, notes, threads = plan_frozen(context, freeze, task)
        memory = ProcessMemory(task, _task_id(task))
        try:
            context.phase(Phase.STREAM)
            yield Captured(plan, notes, threads, memory, deadline=freeze.deadline)
        finally:
            freeze.clock.step("stream")
            freeze.release()


@contextlib.contextmanager
def buffer(context: Context) -> Iterator[Captured]:
    """Freeze, copy the planned bytes to RAM, resume, stream."""
    expected = inspect_process(context.process, context.options).plan.read_bytes
    room = own_memory_limit() - _HEADROOM_BYTES
    if expected > room:
        raise ModeUnavailableError(
            f"a copy in RAM needs {format_bytes(expected)}, there are {format_bytes(max(room, 0))} to spare",
            "--mode direct needs no memory; or choose less: --preset stacks, --exclude",
        )
    store: Buffer | None = populated_buffer(expected + expected // 32 + (4 << 20))
    try:
        with context.freeze() as freeze, live_task(context.process) as task:
            plan, notes, threads = plan_frozen(context, freeze, task)
            if store is None or plan.read_bytes > store.size:  # it grew: what is missing is paged in as it is used
                if store is not None:
                    store.close()
                    store = None
                if plan.read_bytes > room:
                    raise ModeUnavailableError(f"the target grew to {format_bytes(plan.read_bytes)}, too much to copy")
                store = Buffer(plan.read_bytes)
            context.phase(Phase.COPY)
            unreadable = copy_ranges(context, freeze, task, plan.reads, store)
            freeze.clock.step("copy")
        memory = CopiedMemory(plan.reads, store)
        memory.unreadable = unreadable
        store = None  # the reader's from here on: a stream that is broken off may be in the middle of a read
        context.phase(Phase.STREAM)
        try:
            yield Captured(plan, notes, threads, memory)
        finally:
            memory.close()
    finally:
        if store is not None:
            store.close()


def populated_buffer(size: int) -> Buffer:
    """Return a buffer whose pages are there already, so that writing to it inside a stop costs no page faults."""
    store = Buffer(size)
    with contextlib.suppress(OSError, ValueError):
        store.advise(mmap.MADV_HUGEPAGE)
    with contextlib.suppress(OSError, ValueError):  # before Linux 5.14 the pages come when they are written
        store.advise(_MADV_POPULATE_WRITE)
    return store


def _task_id(task: ProcDir) -> int:
    return task.stat().pid


class _Copier:
    """Copies ranges of a stopped target into one buffer, with a few threads."""

    def __init__(self, task: ProcDir, store: Buffer, slices: list[tuple[int, int, int]]) -> None:
        self._task = task
        self._store = store
        self._slices = slices
        self._lock = threading.Lock()
        self.unreadable: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self.cancelled = False

    def run(self) -> None:
        """Take slices until there are none."""
        try:
            memory = ProcessMemory(self._task, _task_id(self._task))
            try:
                while not self.cancelled:
                    with self._lock:
                        if not self._slices:
                            break
                        address, length, offset = self._slices.pop()
                    memory.read(array("Q", (address, length)), self._store, array("Q", (offset, length)))
            finally:
                memory.close()
                with self._lock:
                    self.unreadable += memory.unreadable
        except BaseException as error:
            self.error = error
            self.cancelled = True


def copy_ranges(
    context: Context, freeze: Freeze, task: ProcDir, ranges: array[int], store: Buffer
) -> list[tuple[int, int]]:
    """Copy ranges (address, length, ...) one after the other into store; return what could not be read.

    Errors: StopDeadlineError, InterruptedDumpError, NoSuchProcessError.
    """
    slices: list[tuple[int, int, int]] = []
    offset = 0
    for index in range(0, len(ranges), 2):
        address, length = ranges[index], ranges[index + 1]
        for start in range(0, length, _COPY_SLICE_BYTES):
            step = min(_COPY_SLICE_BYTES, length - start)
            slices.append((address + start, step, offset + start))
        offset += length
    slices.reverse()
    copier = _Copier(task, store, slices)
    threads = [threading.Thread(target=copier.run, daemon=True) for _ in range(_COPY_THREADS)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.02)
                freeze.check_deadline()
                context.interrupts.check()
    finally:
        copier.cancelled = True
        for thread in threads:
            thread.join()
    if copier.error is not None:
        raise copier.error
    return sorted(copier.unreadable)


MODES: Final = (
    Mode(ModeChoice.BUFFER, "the target stands still while its memory is copied to RAM", buffer),
    Mode(ModeChoice.DIRECT, "the target stands still until the pipe has taken everything", direct),
)
"""In the order in which `auto` tries them."""


@contextlib.contextmanager
def captured_by_mode(context: Context) -> Iterator[Captured]:
    """Yield what the chosen mode captured; `auto` takes the first mode that can serve and says why not an earlier one.

    Errors: ModeUnavailableError when none can, and what the mode raises; the target runs then.
    """
    choice = context.options.mode
    candidates = [mode for mode in MODES if choice in (ModeChoice.AUTO, mode.choice)]
    fallbacks: list[str] = []
    with contextlib.ExitStack() as stack:
        for index, mode in enumerate(candidates):
            try:
                captured = stack.enter_context(mode.capture(context))
            except ModeUnavailableError as error:
                if index == len(candidates) - 1:
                    raise
                fallbacks.append(f"no {mode.choice}: {error.message}")
                continue
            context.report.mode, context.report.mode_why = mode.choice.value, mode.why
            context.report.fallbacks = fallbacks
            context.reporter.emit(ModeChosen(mode.choice.value, mode.why, fallbacks))
            yield captured
            return
    raise CorepipeError(f"mode {choice} is not available")
