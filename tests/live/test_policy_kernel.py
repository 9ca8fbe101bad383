"""What goes in is what the kernel takes: its own core of the same process, bit by bit of the coredump_filter.

The rule of comparison. Every PT_LOAD of the kernel's core is one mapping. Ours may be cut in several at holes, but
together they are the same addresses. Then, by how much of the mapping the kernel has in the file:

- nothing: we have nothing;
- one page (an ELF header): we have that page;
- all: we have every byte, but for ranges in which the kernel's bytes are zeros: never touched or freed, which the
  kernel writes as zeros and we leave out as holes.

Where both have bytes they are the same; but execute-only memory, which the kernel may not read under a protection
key and writes as zeros, is in ours as it is. Bits 7 and 8 (DAX) change nothing on a machine without such a device.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest

from ..support.cores import Core, Segment, assert_well_formed, pattern, without_rseq
from ..support.engine import run_corepipe
from ..support.kernel_core import end_with_kernel_core
from ..support.machine import huge_pages, shm_folder
from ..support.targets import start_target

pytestmark = pytest.mark.live
ALL, DEFAULT = 0x1FF, 0x33
FILTERS = [*(1 << bit for bit in range(9)), DEFAULT, 0, ALL]
ONLY_THE_KERNEL_KNOWS = {"file_restored", "file_split_rest"}
"""Private file mappings that were written to once, and hold nothing but the file's pages: given back (MADV_DONTNEED),
or a part that mprotect made. That they were, only the kernel knows (vma->anon_vma), and takes the pages for bit 0."""
EXECUTE_ONLY = 1


def inside(core: Core, mapping: Segment) -> list[Segment]:
    """The core's segments that make up a mapping of the kernel's core."""
    end = mapping.address + mapping.memory_bytes
    found = [segment for segment in core.segments if mapping.address <= segment.address < end]
    position = mapping.address
    for segment in found:
        assert segment.address == position, f"a gap in {mapping.address:#x}"
        position += segment.memory_bytes
    assert position == end
    return found


def left_out(segments: list[Segment]) -> list[tuple[int, int]]:
    """(address, bytes) of what is not in the file."""
    return [
        (segment.address + segment.file_bytes, segment.memory_bytes - segment.file_bytes)
        for segment in segments
        if segment.file_bytes < segment.memory_bytes
    ]


def difference(ours: Core, kernel: Core, mapping: Segment, rseq: list[int]) -> str:
    """In a word what is not as the rule of comparison wants it, empty where nothing is."""
    segments = inside(ours, mapping)
    held = sum(segment.file_bytes for segment in segments)
    if mapping.file_bytes < mapping.memory_bytes:
        if held != mapping.file_bytes:
            return f"{held} bytes where the kernel has {mapping.file_bytes}"
    elif any(any(kernel.read(address, size)) for address, size in left_out(segments)):
        return "left out where the kernel has data"
    for segment in segments:
        if segment.file_bytes:
            pair = (core.read(segment.address, segment.file_bytes) for core in (ours, kernel))
            mine, theirs = (without_rseq(data, segment.address, rseq) for data in pair)
            if mine != theirs and (mapping.flags != EXECUTE_ONLY or any(theirs)):
                return f"other bytes from {segment.address:#x} on"
    return ""


@pytest.mark.parametrize(
    ("bits", "mode"),
    [*((bits, "direct") for bits in FILTERS), (DEFAULT, "snapshot"), (ALL, "snapshot")],
    ids=lambda value: f"{value:#x}" if isinstance(value, int) else value,
)
def test_every_kind_of_mapping_goes_in_exactly_where_the_kernel_takes_it(build_target, bits, mode):
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cp-")))  # core_pattern holds 127 bytes
        shm = stack.enter_context(shm_folder())
        huge = mode == "direct" and stack.enter_context(huge_pages(2))  # with private ones there is no snapshot
        program = build_target("every")
        command = [program, folder, shm, *(["hugetlb"] if huge else [])]
        target = stack.enter_context(start_target(command, folder, signals="default"))
        target.stop()
        Path(f"/proc/{target.pid}/coredump_filter").write_text(f"{bits:#x}")
        run_corepipe(target.pid, "--mode", mode, output=folder / "ours")
        end_with_kernel_core(target, folder / "kernel")
        if not (folder / "kernel").exists():
            pytest.skip("core_pattern cannot be set here, so there is no core of the kernel to compare with")
        ours, kernel = Core(folder / "ours"), Core(folder / "kernel")
        assert_well_formed(ours)
        mapped = sum(segment.memory_bytes for segment in kernel.segments)
        assert mapped == sum(segment.memory_bytes for segment in ours.segments)
        names = {target.number(name): name for name in target.facts if name != "rseq_offset"}
        rseq = [base + target.number("rseq_offset") for base in ours.thread_pointers]
        found = {}
        for mapping in kernel.segments:
            what = difference(ours, kernel, mapping, rseq)
            if what:
                found[names.get(mapping.address, f"{mapping.address:#x}")] = what
        expected = ONLY_THE_KERNEL_KNOWS if bits & 1 and not bits & 4 else set()
        assert set(found) == expected, found
        if bits & 1:
            assert ours.read(target.number("execute_only"), 4096) == pattern(4096)
        assert len(names) > 30
        if mode == "direct" and not huge:
            pytest.skip("all agreed, but huge pages could not be had")
