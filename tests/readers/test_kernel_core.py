"""The core is made as the kernel makes one: compared with the kernel's own core of the same process."""

from __future__ import annotations

import re
import struct

import pytest

from ..support.cores import (
    NT_AUXV,
    NT_FILE,
    NT_FPREGSET,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_PRXFPREG,
    NT_X86_XSAVE_LAYOUT,
    NT_X86_XSTATE,
    Core,
    assert_well_formed,
    without_rseq,
)
from ..support.machines import NT_386_TLS, NT_ARM_TLS
from ..support.readers import run_gdb

pytestmark = [pytest.mark.live, pytest.mark.needs("gdb")]

KINDS = {
    "EM_X86_64": (NT_FPREGSET, NT_X86_XSTATE),
    "EM_386": (NT_FPREGSET, NT_PRXFPREG, NT_X86_XSTATE, NT_386_TLS),
    "EM_AARCH64": (NT_FPREGSET, NT_ARM_TLS),
}
"""Of each thread, beside NT_PRSTATUS; tests/arm64 looks at all of Arm's."""


@pytest.fixture(scope="module")
def kernel(kernel_core) -> Core:
    return Core(kernel_core)


@pytest.fixture(scope="module")
def whole(cores) -> Core:
    return Core(cores.whole)


def by_thread(core: Core, kind: int) -> dict[int, bytes]:
    """Thread id -> the raw note of that kind."""
    return dict(zip(core.thread_ids, (note.data for note in core.notes_of(kind)), strict=True))


def test_notes_have_the_kernels_order_owners_types_and_sizes(whole, kernel):
    assert [note.kind for note in whole.notes] == [note.kind for note in kernel.notes]


@pytest.mark.parametrize("kind", [NT_AUXV, NT_FILE, NT_X86_XSAVE_LAYOUT])
def test_notes_of_the_process_hold_the_kernels_bytes(whole, kernel, kind):
    if kind == NT_X86_XSAVE_LAYOUT and not kernel.notes_of(kind):
        pytest.skip("this kernel writes no NT_X86_XSAVE_LAYOUT")
    assert whole.note(kind).data == kernel.note(kind).data


def test_prpsinfo_tells_what_the_kernel_tells(whole, kernel):
    ours, theirs = whole.note(NT_PRPSINFO).data, kernel.note(NT_PRPSINFO).data
    ids = whole.layout.process_ids
    arguments = ids.stop
    assert ours[3] == theirs[3]  # pr_nice
    assert ours[ids] == theirs[ids]  # uid, gid, pid, ppid, pgrp, sid, fname
    assert ours[arguments:].rstrip(b"\0") == theirs[arguments:].rstrip(b" \0")  # the kernel's last NUL is a space too


def test_registers_of_parked_threads_are_the_kernels(whole, kernel):
    leader = whole.thread_ids[0]
    assert set(whole.thread_ids) == set(kernel.thread_ids)
    for kind in (NT_PRSTATUS, *KINDS[whole.machine]):
        ours, theirs = by_thread(whole, kind), by_thread(kernel, kind)
        start = whole.registers_offset if kind == NT_PRSTATUS else 0
        for tid in set(ours) - {leader, kernel.thread_ids[0]}:  # the first took the signal
            assert len(ours[tid]) > start
            assert ours[tid][start:] == theirs[tid][start:], f"note {kind:#x} of thread {tid}"


def test_process_fields_of_every_prstatus_are_the_kernels(whole, kernel):
    ours, theirs = by_thread(whole, NT_PRSTATUS), by_thread(kernel, NT_PRSTATUS)
    for tid in ours:
        ids = whole.layout.ids
        assert ours[tid][ids] == theirs[tid][ids]  # sighold, pid, ppid, pgrp, sid
        assert struct.unpack_from("<i", ours[tid], 12)[0] == 0  # no signal was the cause


def test_segments_have_the_kernels_addresses_sizes_and_flags(whole, kernel):
    assert_well_formed(whole)
    shape = [(segment.address, segment.memory_bytes, segment.flags, segment.align) for segment in whole.segments]
    assert shape == [(segment.address, segment.memory_bytes, segment.flags, segment.align)
                     for segment in kernel.segments]  # fmt: skip


def test_segments_hold_the_kernels_bytes(cores, whole, kernel):
    """All but the leader's stack and rseq, which ran again for a moment, and pages that only the process can read."""
    areas = [base + cores.rseq_offset for base in whole.thread_pointers]
    stack = whole.stack_pointers[0]
    different = []
    for ours, theirs in zip(whole.segments, kernel.segments, strict=True):
        if ours.file_bytes != theirs.file_bytes:
            different.append(ours)
        elif not ours.address <= stack < ours.address + ours.memory_bytes:
            for done in range(0, ours.file_bytes, 1 << 22):
                size = min(1 << 22, ours.file_bytes - done)
                address = ours.address + done
                read = [without_rseq(core.read(address, size), address, areas) for core in (whole, kernel)]
                assert read[0] == read[1], f"from {address:#x} on"
    assert all(segment.file_bytes == 0 and segment.memory_bytes <= 8 * 4096 for segment in different), different
    for segment in different:
        assert not any(kernel.read(segment.address, kernel.segment_at(segment.address).file_bytes))


def complaints(program, core) -> set[str]:
    """gdb's warnings, without the names of files and the numbers in them."""
    reading = run_gdb(program, core, "info threads", "thread apply all bt", "info sharedlibrary", "info auxv")
    return {re.sub(r"/\S+|0x[0-9a-f]+|\d+", "…", line) for line in reading.warnings}


def test_gdb_warns_of_nothing_that_it_does_not_warn_of_in_the_kernels_core(cores, kernel_core):
    allowed = complaints(cores.program, kernel_core)
    assert complaints(cores.program, cores.ours) <= allowed
    assert complaints(cores.program, cores.whole) <= allowed
