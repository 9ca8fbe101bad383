"""The dump modes as context managers that yield what is to be streamed, and the choice between them.

direct: the target stands still while the stream runs. buffer: it stands still while memory is copied to RAM.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from .capture import Captured, Context, plan_frozen, watch
from .copier import copy_ranges, new_buffer, populated_buffer
from .elf import ElfClass
from .errors import CorepipeError, ModeUnavailableError
from .events import ModeChosen, Phase
from .headroom import own_memory_limit, prefer_as_victim
from .inspection import inspect_process, live_task
from .memory import Buffer, CopiedMemory, ProcessMemory
from .options import ModeChoice
from .plan import DumpPlan, check_expressible, unserved
from .preconditions import BUFFER_HEADROOM
from .regions import copied_on_write
from .reporter import format_bytes
from .snapshot import snapshot
from .tags import KeptTags, tags_of

_GROWTH_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to take the dump. capture raises ModeUnavailableError, with the target running, where it cannot serve."""

    choice: ModeChoice
    why: str
    capture: Callable[[Context], AbstractContextManager[Captured]]


@contextlib.contextmanager
def direct(context: Context) -> Iterator[Captured]:
    """Freeze, stream, resume. Needs no memory; the stop lasts as long as the sink takes."""
    with context.freeze() as freeze, live_task(context.process) as task:
        plan, notes, threads = plan_frozen(context, freeze, task)
        memory = ProcessMemory(task, unpinned=_copied_on_write(plan))
        memory.unreadable += unserved(plan)
        try:
            context.phase(Phase.STREAM)
            tags = tags_of(plan, next(iter(freeze.threads)), context.arch)
            yield Captured(plan, notes, threads, memory, freeze.deadline, check=freeze.check_alive, tags=tags)
        finally:
            freeze.clock.step("stream")
            freeze.release()


@contextlib.contextmanager
def buffer(context: Context) -> Iterator[Captured]:
    """Freeze, copy the planned bytes to RAM, resume, stream."""
    expected = inspect_process(context.process, context.options).plan.read_bytes
    wanted = expected + expected // 32 + _GROWTH_BYTES
    room = own_memory_limit() - BUFFER_HEADROOM
    if wanted > room:
        raise ModeUnavailableError(
            f"a copy in RAM needs {format_bytes(wanted)}, there are {format_bytes(max(room, 0))} to spare",
            "--mode direct needs no memory; or choose less: --preset stacks, --exclude",
        )
    prefer_as_victim()
    store: Buffer | None = populated_buffer(wanted)
    try:
        with context.freeze() as freeze, live_task(context.process) as task:
            plan, notes, threads = plan_frozen(context, freeze, task)
            if store is None or plan.read_bytes > store.size:  # it grew: what is missing is paged in as it is used
                if store is not None:
                    store.close()
                    store = None
                if plan.read_bytes > room:
                    raise ModeUnavailableError(f"the target grew to {format_bytes(plan.read_bytes)}, too much to copy")
                store = new_buffer(plan.read_bytes)
            context.phase(Phase.COPY)
            unreadable = copy_ranges(context, freeze, task, plan.reads, store, _copied_on_write(plan))
            source = tags_of(plan, next(iter(freeze.threads)), context.arch)
            tags = KeptTags(plan, source, lambda: watch(context, freeze)) if source is not None else None
            freeze.clock.step("copy")
        memory = CopiedMemory(plan.reads, store)
        memory.unreadable = sorted([*unreadable, *unserved(plan)])
        store = None  # the reader's from here on: a stream that is broken off may be in the middle of a read
        context.phase(Phase.STREAM)
        try:
            yield Captured(plan, notes, threads, memory, tags=tags)
        finally:
            memory.close()
    finally:
        if store is not None:
            store.close()


def _copied_on_write(plan: DumpPlan) -> array[int]:
    return copied_on_write(planned.region for planned in plan.regions)


MODES: Final = (
    Mode(ModeChoice.SNAPSHOT, "the target stands still for one fork, and its copy is streamed", snapshot),
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
    if context.arch.elf.elf_class is ElfClass.ELF32:  # the others express any size
        check_expressible(inspect_process(context.process, context.options).plan)
    with contextlib.ExitStack() as stack:
        for index, mode in enumerate(candidates):
            context.report.mode, context.report.mode_why = mode.choice.value, mode.why
            context.report.fallbacks = list(fallbacks)
            context.reporter.emit(ModeChosen(mode.choice.value, mode.why, list(fallbacks)))
            try:
                captured = stack.enter_context(mode.capture(context))
            except ModeUnavailableError as error:
                if index == len(candidates) - 1:
                    raise
                fallbacks.append(f"no {mode.choice}: {error.message}")
                continue
            yield captured
            return
    raise CorepipeError(f"mode {choice} is not available")
