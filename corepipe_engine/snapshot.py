"""Mode snapshot: the target stands still for one fork, and its copy-on-write copy is read while it runs on."""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from . import ptrace
from .arch import Gadgets, ThreadState
from .capture import Captured, Context, make_notes, watch
from .carried import CopiedSet, SnapshotMemory, runs_inside, select_copied
from .choice import check_thread, choose_thread
from .copier import copy_ranges, new_buffer, populated_buffer
from .errors import CorepipeError, ModeUnavailableError, NoSuchProcessError
from .events import Notice, Phase
from .fork import Fork, SnapshotProcess, reap_inherited
from .freeze import Freeze
from .gadgets import check_gadgets, find_gadgets, find_room, injection_of
from .headroom import own_memory_limit
from .inject import Injector
from .inspection import HeaderProbe, coredump_filter, live_task, touched
from .knownmaps import KnownMaps
from .mappings import parse_maps
from .memory import Buffer, CopiedMemory, ProcessMemory
from .options import Holes
from .plan import DumpPlan, check_expressible, make_plan
from .policy import Decision, is_hotspot
from .preconditions import inherits_orphans, is_copied, snapshot_refusal
from .procfs import PAGE_SIZE, ProcDir
from .regions import Region, RegionKind, split_at
from .registers import ThreadRegisters
from .reporter import format_bytes
from .splice import PagePipes, without
from .tags import tags_of

_COPY_HEADROOM: Final = 64 << 20
_SMALL_COPY: Final = 4 << 20
"""Bytes that are copied however little memory there is: with them we stay well below 64 MiB."""
_FILE_CLOCK_NS: Final = 10_000_000
"""How much a file's time may lag behind the clock: the kernel takes it from the last tick."""


@dataclass(slots=True)
class _Frozen:
    """What was found in the stop, to be worked on after it."""

    threads: list[ThreadRegisters]
    regions: list[Region]
    auxv: bytes
    chosen: CopiedSet
    store: Buffer
    unreadable: list[tuple[int, int]]
    patches: tuple[tuple[int, bytes], ...]
    wall_clock_ns: int


@contextlib.contextmanager
def snapshot(context: Context) -> Iterator[Captured]:
    """Freeze, fork, resume; then stream the copy."""
    process = context.process
    with contextlib.ExitStack() as stack:
        task = stack.enter_context(live_task(process))
        status, before = task.status(), task.regions(context.interrupts.check)
        reason = snapshot_refusal(task, status, context.arch, before)
        if reason:
            raise ModeUnavailableError(reason)
        gadgets = find_gadgets(task, before, injection_of(context.arch))
        auxv = task.auxv(context.arch.elf.word.size)
        known = KnownMaps.of(task.read("maps"), before)
        copied = [region for region in before if is_copied(region)]
        expected = select_copied(context, task, copied, (), known.hotspot)
        store = _store_for(expected)
        copies: list[SnapshotProcess] = []
        try:
            with context.freeze() as freeze:
                fork, frozen = _take(context, freeze, task, gadgets, known, auxv, store, expected.live, copies.append)
                (copy,) = copies
                if copy.inherited and not inherits_orphans(status):
                    with contextlib.suppress(CorepipeError):  # else in a stop of its own
                        _reap_frozen(context, freeze, task, copy, gadgets)
                    raise ModeUnavailableError("the target is a subreaper and would inherit the snapshot")
            pipes = None
            del before, known  # with many mappings they are most of the memory we take
            if fork.let_go():
                pipes = fork.open_pipes()
            else:
                context.notice("the snapshot shares the target's open files until it has been streamed")
            context.phase(Phase.STREAM)
            states = freeze.states(frozen.threads)
            try:
                captured = _captured(context, task, copy, frozen, states, pipes)
                try:
                    yield captured
                finally:
                    captured.reader.close()
            finally:
                if pipes is not None:
                    pipes.close()
        finally:
            for copy in copies:
                _dispose(context, copy, gadgets)
            store.close()


def _store_for(expected: CopiedSet) -> Buffer:
    """Return memory for the copies, a little more than is expected. Errors: ModeUnavailableError."""
    wanted = sum(expected.reads[1::2])
    room = own_memory_limit() - _COPY_HEADROOM
    wanted += wanted // 16 + (1 << 20)
    if wanted > max(room, _SMALL_COPY):
        raise ModeUnavailableError(
            f"what a fork does not carry takes {format_bytes(wanted)} of RAM, there are {format_bytes(max(room, 0))}",
            "--shared live",
        )
    return populated_buffer(wanted)


def _take(
    context: Context,
    freeze: Freeze,
    task: ProcDir,
    gadgets: Gadgets,
    known: KnownMaps,
    auxv: bytes,
    store: Buffer,
    known_live: frozenset[int],
    made: Callable[[SnapshotProcess], None],
) -> tuple[Fork, _Frozen]:
    """What happens inside the stop. made gets the snapshot as soon as there is one: from then on it is the caller's."""
    arch, wall_clock_ns = context.arch, time.time_ns()
    threads = freeze.registers()
    known = known.now(task.read("maps"))
    injection = injection_of(arch)
    check_gadgets(task, gadgets, injection)
    state = freeze.state(choose_thread(freeze, task, threads, injection))
    freeze.clock.step("maps")
    watch(context, freeze)
    context.phase(Phase.SNAPSHOT)
    fork = Fork(context, freeze, task, state, gadgets)
    if known.private_hugetlb:
        raise ModeUnavailableError("the target mapped private huge pages (hugetlb) just now")
    copy = fork.run(known.stacks, threads)
    made(copy)
    freeze.clock.step("fork")
    special = known.not_carried(task, copy.folder)
    pointers = [arch.stack_pointer(thread.general) for thread in threads]
    chosen = select_copied(context, task, special, pointers, known.hotspot, known_live)
    wanted = sum(chosen.reads[1::2])
    if wanted > store.size:
        if wanted > max(own_memory_limit() - _COPY_HEADROOM, _SMALL_COPY):
            raise ModeUnavailableError(f"the target's shared memory grew to {format_bytes(wanted)}")
        store = new_buffer(wanted)
    unreadable = copy_ranges(context, freeze, task, chosen.reads, store, chosen.forked) if wanted else []
    if special:
        freeze.clock.step("copied set")
    watch(context, freeze)
    return fork, _Frozen(threads, known.regions, auxv, chosen, store, unreadable, fork.patches, wall_clock_ns)


def _captured(
    context: Context,
    task: ProcDir,
    copy: SnapshotProcess,
    frozen: _Frozen,
    states: Sequence[ThreadState],
    pipes: PagePipes | None,
) -> Captured:
    """Plan from the snapshot's own smaps and page tables, and put the readers together."""
    chosen = frozen.chosen
    try:
        plan, notes, wiped = _plan(context, task, copy, frozen, states)
        check_expressible(plan)
        source = ProcessMemory(copy.folder, pinned=False)
    except NoSuchProcessError:
        copy.check()
        raise
    live_pieces = [piece for piece in chosen.pieces if piece.start in chosen.live]
    copied = CopiedMemory(chosen.reads, frozen.store)
    copied.unreadable = frozen.unreadable
    reader = SnapshotMemory(
        source,
        copied,
        ProcessMemory(task) if live_pieces else None,
        chosen,
        frozen.patches,
    )
    if pipes is not None:
        pipes.ranges = _own_pages(plan, chosen, frozen.patches)
    for region in wiped:
        context.reporter.emit(Notice(f"{region.start:x}-{region.end:x} was wiped by the fork (MADV_WIPEONFORK)"))
    live = tuple(
        (planned.region.start, planned.file_bytes) for planned in plan.regions if planned.region.start in chosen.live
    )
    return Captured(
        plan,
        notes,
        len(states),
        reader,
        shared_live=live,
        check=copy.check,
        changed=lambda: _changed_files(plan, copy.folder, frozen.wall_clock_ns),
        pipes=pipes,
        tags=tags_of(plan, copy.pid, context.arch),
    )


_OWN_KINDS: Final = frozenset({RegionKind.ANON, RegionKind.HEAP, RegionKind.STACK})


def _own_pages(plan: DumpPlan, chosen: CopiedSet, patches: Sequence[tuple[int, bytes]]) -> array[int]:
    """Return ranges (start, end, ...) of memory that is the snapshot's alone, as it was in the stop, and readable."""
    elsewhere = {piece.start for piece in chosen.pieces}
    regions = (planned.region for planned in plan.regions)
    own = (
        (region.start, region.end)
        for region in regions
        if region.kind in _OWN_KINDS and region.perms.startswith("r") and region.start not in elsewhere
    )
    return without(own, ((address, address + len(original)) for address, original in patches))


def _changed_files(plan: DumpPlan, folder: ProcDir, since_ns: int) -> tuple[tuple[int, int], ...]:
    """Return (address, bytes) of private file mappings in the core whose file was written to since the stop.

    Pages of such a mapping that the target never wrote to are the file's, in the snapshot as in the target.
    """
    changed: dict[tuple[str, int], bool] = {}
    ranges = []
    for planned in plan.regions:
        region = planned.region
        if not region.file_backed or not planned.file_bytes or is_copied(region):
            continue
        key = (region.dev, region.inode)
        if key not in changed:
            try:
                found = os.stat(f"map_files/{region.start:x}-{region.end:x}", dir_fd=folder.fd)
                changed[key] = max(found.st_mtime_ns, found.st_ctime_ns) >= since_ns - _FILE_CLOCK_NS
            except OSError:
                changed[key] = False
        if changed[key]:
            ranges.append((region.start, planned.file_bytes))
    return tuple(ranges)


def _plan(
    context: Context, task: ProcDir, copy: SnapshotProcess, frozen: _Frozen, states: Sequence[ThreadState]
) -> tuple[DumpPlan, bytes, list[Region]]:
    arch, options, chosen = context.arch, context.options, frozen.chosen
    notes = make_notes(context, states, frozen.auxv, frozen.regions)
    special = {piece.start: index for index, piece in enumerate(chosen.pieces)}
    regions = frozen.regions
    _update(regions, copy.folder.each_region(context.interrupts.check), special)
    wiped = [region for region in regions if region.start not in special and "wf" in region.flags]
    pieces = split_at(regions, options.policy.boundaries())
    pointers = sorted(arch.stack_pointer(state.general) for state in states)
    target_filter, hotspot = coredump_filter(copy.folder), is_hotspot(regions)
    probe = HeaderProbe(copy.folder)
    decisions, sparse = [], []
    runs: array[int] = array("Q")
    try:
        first = 0
        for index, piece in enumerate(pieces):
            at = special.get(piece.start)
            if at is None:
                decisions.append(options.policy.decide(piece, target_filter, probe, pointers, hotspot))
                continue
            batch = _touched_between(copy.folder, pieces[first:index], decisions[first:index])
            runs.extend(batch[0])
            decisions.append(chosen.decisions[at])
            if piece.start in chosen.live:
                live_runs, (is_sparse,) = touched(task, [piece], [True])
                runs.extend(live_runs)
            else:
                is_sparse = chosen.sparse[at]
                runs.extend(runs_inside(chosen.runs, piece))
            sparse += [*batch[1], is_sparse]
            first = index + 1
        batch = _touched_between(copy.folder, pieces[first:], decisions[first:])
        runs.extend(batch[0])
        sparse += batch[1]
    finally:
        probe.close()
    plan = make_plan(
        pieces,
        decisions,
        sparse,
        runs,
        len(notes),
        elf=arch.elf,
        machine=arch.machine,
        page_size=PAGE_SIZE,
        holes_as_zeros=options.holes is Holes.ZERO,
        tags=arch.tags,
    )
    return plan, notes, wiped


def _update(regions: list[Region], seen: Iterator[Region], special: Container[int]) -> None:
    """Put regions as the snapshot has them in the place of the target's, except special ones (starts).

    One by one, so that there are never two of each: there may be many.
    """
    index = 0
    for region in seen:
        while index < len(regions) and regions[index].start < region.start:
            index += 1
        if index < len(regions) and regions[index].start == region.start and region.start not in special:
            regions[index] = region


def _touched_between(
    folder: ProcDir, pieces: Sequence[Region], decisions: Sequence[Decision]
) -> tuple[array[int], list[bool]]:
    if not pieces:
        return array("Q"), []
    return touched(folder, pieces, [decision.included for decision in decisions])


def _dispose(context: Context, copy: SnapshotProcess, gadgets: Gadgets) -> None:
    """End the snapshot. Where the target inherited it, that takes a second, very short stop."""
    context.report.snapshot_cpu_seconds = copy.cpu_seconds()
    if copy.inherited:
        try:
            _reap_in_target(context, copy, gadgets)
        except CorepipeError as error:
            context.reporter.emit(
                Notice(f"the snapshot {copy.pid} could not be taken from the target: {error.message}")
            )
    copy.end()
    parent = copy.zombie_parent()
    if parent:
        context.reporter.emit(
            Notice(f"process {copy.pid}, the snapshot, stays as a zombie until its parent {parent} reaps it")
        )
    copy.close()


def _reap_in_target(context: Context, copy: SnapshotProcess, gadgets: Gadgets) -> None:
    freeze = Freeze(context.process, context.arch, None, lambda: None)
    freeze.prepare()
    with freeze, live_task(context.process) as task:
        _reap_frozen(context, freeze, task, copy, gadgets)


def _reap_frozen(context: Context, freeze: Freeze, task: ProcDir, copy: SnapshotProcess, gadgets: Gadgets) -> None:
    """End a snapshot that the frozen target is the parent of, and take it from the target."""
    arch = context.arch
    injection = injection_of(arch)
    threads = freeze.registers()
    regions = list(parse_maps(task.read("maps")))
    check_gadgets(task, gadgets, injection)
    state = freeze.state(choose_thread(freeze, task, threads, injection))
    leader = next((one for one in threads if one.tid == context.process.pid), None)
    pointer = None if leader is None else arch.stack_pointer(leader.general)
    room = find_room(task, regions, pointer, injection.net_bytes(state))
    ptrace.set_options(state.tid, ptrace.Option.TRACESYSGOOD | check_thread(freeze, state.tid, gadgets, injection))
    with Injector(freeze, task, state, gadgets, room) as injector:
        reap_inherited(injector, copy, context.process)
    copy.inherited = False
