"""What a dump of a running process would be, found without touching it: regions, decisions, plan, estimated stop."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .arch import Arch, arch_of
from .elf import ELF_MAGIC, AuxvType, ElfClass
from .errors import CorepipeError, NoSuchProcessError, NotPermittedError, UsageError
from .headroom import own_memory_limit
from .memory import Buffer, ProcessMemory
from .notes import expected_notes_bytes, file_mappings
from .options import DumpOptions, Holes, ModeChoice, Shared
from .pagemap import open_pagemap, scan_spans, shmem_data_runs
from .permissions import explain_refusal, refusal
from .plan import DumpPlan, make_plan
from .policy import DEFAULT_FILTER, Decision, Preset, is_hotspot
from .preconditions import BUFFER_HEADROOM, SHARED_BUDGET, is_copied, snapshot_refusal
from .procfs import PAGE_SIZE, ProcDir, ProcessHandle, TaskStatus, parse_auxv
from .regions import Region, RegionKind, split_at

_FORK_SECONDS_PER_PTE_BYTE = 0.0105 / (1 << 20)
_SECONDS_PER_THREAD = 30e-6
_FIXED_SECONDS = 0.003
_COPY_SECONDS_PER_BYTE = 1 / 4e9
_STREAM_SECONDS_PER_BYTE = 1 / 1e9
_SECONDS_PER_READ_BYTE = {
    ModeChoice.SNAPSHOT.value: 0.0,
    ModeChoice.BUFFER.value: _COPY_SECONDS_PER_BYTE,
    ModeChoice.DIRECT.value: _STREAM_SECONDS_PER_BYTE,
}


@dataclass(frozen=True, slots=True)
class Inspection:
    """A running process as a dump would see it.

    mode: the one that would be taken, as far as can be told without touching the process; fallbacks: why no better
    one. stop_seconds is an estimate for it, in mode direct for a pipe that takes a GB a second.
    """

    pid: int
    arch: Arch
    status: TaskStatus
    comm: bytes
    exe: bytes
    threads: int
    filter_bits: int
    plan: DumpPlan
    stop_seconds: float
    mode: str
    fallbacks: tuple[str, ...] = ()

    @property
    def core_bytes(self) -> int:
        """Size of the core if the process stayed as it is."""
        return self.plan.total_bytes

    def stop_for(self, read_bytes: int) -> float:
        """Return the estimated stop in seconds if that many bytes of memory were chosen."""
        return self.stop_seconds + (read_bytes - self.plan.read_bytes) * _SECONDS_PER_READ_BYTE[self.mode]


def open_target(pid: int) -> ProcessHandle:
    """Return a handle of a process that can be dumped, as far as its status tells. Errors name what forbids it."""
    if pid <= 0:
        raise UsageError(f"{pid} is not a process id", "corepipe PID > core")
    process = ProcessHandle(pid)
    try:
        found = refusal(pid, _status_of_running(process))
        if found is not None:
            raise found
        _check_readable(process)
    except BaseException:
        process.close()
        raise
    return process


def _check_readable(process: ProcDir) -> None:
    """Raise what forbids a look at the address space, with the rule that does. Errors: NotPermittedError."""
    try:
        process.read("auxv")
    except NotPermittedError as error:
        raise explain_refusal(process, attaching=False) from error
    except CorepipeError:  # the leader has exited: its threads will be asked
        return


def _status_of_running(process: ProcessHandle) -> TaskStatus:
    status = process.status()
    if status.state in "ZX" and process.alive():  # only the leader has exited
        with live_task(process) as task:
            return task.status()
    return status


class live_task:  # noqa: N801 - used as a function
    """Context manager: the /proc folder through which the address space can be read.

    That is /proc/PID, or /proc/PID/task/TID of a live thread when the leader has exited.
    """

    def __init__(self, process: ProcDir) -> None:
        self._process = process
        self._opened: ProcDir | None = None

    def __enter__(self) -> ProcDir:
        if self._process.stat().state not in "ZX":
            return self._process
        for tid in self._process.tids():
            task = self._process.task(tid)
            try:
                if task.stat().state not in "ZX":
                    self._opened = task
                    return task
            except CorepipeError:
                pass
            task.close()
        raise NoSuchProcessError(f"process {self._process.pid} has no live thread left")

    def __exit__(self, *exception: object) -> None:
        if self._opened is not None:
            self._opened.close()


def arch_of_task(task: ProcDir) -> Arch:
    """Return the machine of the program; by the auxiliary vector's AT_PHENT where the file cannot be read.

    Errors: DumpFailedError for one that is not known.
    """
    try:
        fd = task.open("exe")
        try:
            header = os.read(fd, 20)
        finally:
            os.close(fd)
        if header[:4] == ELF_MAGIC and len(header) == 20:
            return arch_of(header[4], int.from_bytes(header[18:20], "little"))
    except OSError:
        pass
    narrow = parse_auxv(task.read("auxv"), 4)
    return arch_of(ElfClass.ELF32 if narrow.get(AuxvType.PHENT) == 32 else ElfClass.ELF64)


def coredump_filter(task: ProcDir) -> int:
    """Return the target's coredump_filter; the kernel's default where it cannot be read."""
    try:
        return int(task.read("coredump_filter"), 16)
    except (CorepipeError, ValueError):
        return DEFAULT_FILTER


class HeaderProbe:
    """Tells whether a private file mapping begins an executable file or an ELF file, as the kernel asks."""

    def __init__(self, task: ProcDir) -> None:
        self._task = task
        self._memory = ProcessMemory(task, task.stat().pid)  # the thread: a leader that has exited has no memory
        self._buffer = Buffer(PAGE_SIZE)
        self._known: dict[tuple[str, int], bool] = {}

    def __call__(self, region: Region) -> bool:
        """See policy.HeaderProbe."""
        key = (region.dev, region.inode)
        if key not in self._known:
            self._known[key] = self._executable(region) or self._elf_magic(region)
        return self._known[key]

    def _executable(self, region: Region) -> bool:
        try:
            mode = os.stat(f"map_files/{region.start:x}-{region.end:x}", dir_fd=self._task.fd).st_mode
        except OSError:
            return False
        return bool(mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH))

    def _elf_magic(self, region: Region) -> bool:
        self._memory.read(array("Q", (region.start, 4)), self._buffer, array("Q", (0, 4)))
        return bytes(self._buffer.view[:4]) == ELF_MAGIC

    def close(self) -> None:
        """Close what the probe reads with."""
        self._memory.close()
        self._buffer.close()


def has_holes(region: Region) -> bool:
    """Return whether the page tables tell which pages of the region are certainly zeros: those never touched.

    So it is for private memory without a file. Pages of shared memory may be there though the process never looked.
    Of memory that is served by userfaultfd only pages that are there can be read, whatever the rest may be.
    """
    if region.served:
        return True
    if region.kind is RegionKind.HUGETLB:
        return not region.shared and region.deleted
    return region.private_anonymous


def plan_regions(
    task: ProcDir,
    regions: Sequence[Region],
    options: DumpOptions,
    notes_bytes: int,
    arch: Arch,
    stack_pointers: Sequence[int] = (),
) -> DumpPlan:
    """Return the plan for these regions of the address space that task stands for."""
    pieces = split_at(regions, options.policy.boundaries())
    probe = HeaderProbe(task)
    try:
        target_filter = coredump_filter(task)
        pointers = sorted(stack_pointers)
        hotspot = is_hotspot(regions)
        decisions = [options.policy.decide(region, target_filter, probe, pointers, hotspot) for region in pieces]
    finally:
        probe.close()
    return lay_out(task, pieces, decisions, options.holes, notes_bytes, arch)


def touched(task: ProcDir, pieces: Sequence[Region], included: Sequence[bool]) -> tuple[array[int], list[bool]]:
    """Return the touched runs (start, end, ...; ascending) of the included regions, and which regions they tell about.

    Private memory is looked up in the page tables, shared memory in its file.
    """
    sparse = [want and has_holes(region) for region, want in zip(pieces, included, strict=True)]
    runs: array[int] = array("Q")
    with open_pagemap(task) as pagemap:
        first = 0
        for index, (region, wanted) in enumerate(zip(pieces, included, strict=True)):
            data = (
                shmem_data_runs(task, region)
                if wanted and region.kind is RegionKind.SHMEM and not region.served
                else None
            )
            if data is not None:
                runs.extend(pagemap.touched_runs(scan_spans(pieces[first:index], sparse[first:index])))
                runs.extend(data)
                sparse[index] = True
                first = index + 1
        runs.extend(pagemap.touched_runs(scan_spans(pieces[first:], sparse[first:])))
    return runs, sparse


def lay_out(
    task: ProcDir,
    pieces: Sequence[Region],
    decisions: Sequence[Decision],
    holes: Holes,
    notes_bytes: int,
    arch: Arch,
) -> DumpPlan:
    """Return the plan for regions and decisions made elsewhere, with the pages touched now."""
    runs, sparse = touched(task, pieces, [decision.included for decision in decisions])
    return make_plan(
        pieces,
        decisions,
        sparse,
        runs,
        notes_bytes,
        elf=arch.elf,
        machine=arch.machine,
        page_size=PAGE_SIZE,
        holes_as_zeros=holes is Holes.ZERO,
        tags=arch.tags,
    )


def estimate_stop(vm_pte: int, threads: int, copied_bytes: int) -> float:
    """Return the stop in seconds that a snapshot should need: page tables to copy, threads, bytes copied inside it."""
    fork = vm_pte * _FORK_SECONDS_PER_PTE_BYTE
    return _FIXED_SECONDS + fork + threads * _SECONDS_PER_THREAD + copied_bytes * _COPY_SECONDS_PER_BYTE


def rough_estimate(status: TaskStatus) -> tuple[int, float]:
    """Return (bytes of the core, seconds of the stop) from a status file alone: for lists of many processes."""
    core_bytes = status.rss_anonymous + status.rss_shmem + status.vm_swap
    copied = status.rss_shmem if status.rss_shmem <= SHARED_BUDGET else 0
    return core_bytes, estimate_stop(status.vm_pte, status.threads, copied)


def current_stack_pointers(process: ProcDir, tids: Sequence[int]) -> Iterator[int]:
    """Yield the stack pointers of sleeping threads, from /proc/PID/task/TID/syscall; running ones have none."""
    for tid in tids:
        try:
            fields = process.read(f"task/{tid}/syscall").split()
        except CorepipeError:
            continue
        if len(fields) >= 2 and fields[-2].startswith(b"0x"):
            yield int(fields[-2], 16)


def inspect_process(process: ProcessHandle, options: DumpOptions) -> Inspection:
    """Return what a dump with these options would be now. Reads smaps, which takes seconds for hundreds of GiB."""
    with live_task(process) as task:
        status = task.status()
        arch = arch_of_task(task)
        regions = task.regions()
        tids = process.tids()
        mappings = file_mappings(regions, task.readlink("root"))
        notes_bytes = expected_notes_bytes(arch, len(tids), len(task.auxv(arch.elf.word.size)), mappings)
        pointers = list(current_stack_pointers(process, tids)) if options.policy.preset is Preset.STACKS else []
        plan = plan_regions(task, regions, options, notes_bytes, arch, pointers)
        mode, fallbacks = _expected_mode(task, status, arch, regions, options, plan)
        if mode is ModeChoice.SNAPSHOT:
            stop_seconds = estimate_stop(status.vm_pte, len(tids), _copied_bytes(plan, options))
        else:
            stop_seconds = plan.read_bytes * _SECONDS_PER_READ_BYTE[mode.value] + len(tids) * _SECONDS_PER_THREAD
        return Inspection(
            pid=process.pid,
            arch=arch,
            status=status,
            comm=process.stat().comm,
            exe=task.readlink("exe"),
            threads=len(tids),
            filter_bits=coredump_filter(task),
            plan=plan,
            stop_seconds=stop_seconds,
            mode=mode.value,
            fallbacks=fallbacks,
        )


def _expected_mode(
    task: ProcDir,
    status: TaskStatus,
    arch: Arch,
    regions: Sequence[Region],
    options: DumpOptions,
    plan: DumpPlan,
) -> tuple[ModeChoice, tuple[str, ...]]:
    """Return the mode that the options would lead to, and why no better one; nothing is tried."""
    if options.mode is not ModeChoice.AUTO:
        return options.mode, ()
    refusal = snapshot_refusal(task, status, arch, regions)
    if not refusal:
        return ModeChoice.SNAPSHOT, ()
    fallbacks = [f"no snapshot: {refusal}"]
    if plan.read_bytes <= own_memory_limit() - BUFFER_HEADROOM:
        return ModeChoice.BUFFER, tuple(fallbacks)
    return ModeChoice.DIRECT, (*fallbacks, "no buffer: a copy in RAM does not fit")


def _copied_bytes(plan: DumpPlan, options: DumpOptions) -> int:
    """Return the bytes that a snapshot copies inside the stop."""
    carried = [planned for planned in plan.regions if planned.decision.included and is_copied(planned.region)]
    shared = sum(planned.file_bytes for planned in carried if planned.region.shared)
    rest = sum(planned.file_bytes for planned in carried if not planned.region.shared)
    if options.shared is Shared.LIVE or (options.shared is Shared.AUTO and shared > SHARED_BUDGET):
        shared = 0
    return shared + rest
