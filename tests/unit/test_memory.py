"""memory.py: every byte is read, or counted as unreadable; whatever a single call makes of it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepipe_engine.copier import _readers
from corepipe_engine.errors import NoSuchProcessError
from corepipe_engine.memory import Buffer, CopiedMemory, ProcessMemory, VmReadv
from corepipe_engine.procfs import PAGE_SIZE, ProcDir

from .model import page_content

PAGES = 64
_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_MAP_FIXED = 0x10
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def failing(*numbers: int) -> VmReadv:
    """A process_vm_readv that fails with these errnos in turn, the last for ever."""
    left = list(numbers)

    def call(*arguments: int) -> int:
        ctypes.set_errno(left.pop(0) if len(left) > 1 else left[0])
        return -1

    return call


def real(*arguments: int) -> int:
    result: int = _libc.process_vm_readv(*arguments)
    return result


def interrupted_storm() -> VmReadv:
    """Every second call is interrupted."""
    calls = 0

    def call(*arguments: int) -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            ctypes.set_errno(errno.EINTR)
            return -1
        return real(*arguments)

    return call


def short_reads(limit: int) -> VmReadv:
    """Reads the first range alone, and of it limit bytes at the most."""

    def call(pid: int, local: int, local_count: int, remote: int, remote_count: int, flags: int) -> int:
        words = (ctypes.c_uint64 * 4)()
        ctypes.memmove(words, local, 16)
        ctypes.memmove(ctypes.addressof(words) + 16, remote, 16)
        words[1] = words[3] = min(words[1], limit)
        address = ctypes.addressof(words)
        return real(pid, address, 1, address + 16, 1, 0)

    return call


class Source:
    """Pages of our own that tell their number."""

    def __init__(self) -> None:
        self.buffer = Buffer(PAGES * PAGE_SIZE)
        self.address = self.buffer.address
        for page in range(PAGES):
            self.buffer.view[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = page_content(page * PAGE_SIZE)
        self.forbidden: list[int] = []

    def forbid(self, *pages: int) -> None:
        """Map an empty file there: neither way can read such a page, and the address space keeps no hole."""
        fd = os.memfd_create("empty")
        for page in pages:
            self._map(page, mmap.MAP_SHARED, fd)
        os.close(fd)
        self.forbidden += pages

    def protect(self, page: int) -> None:
        """PROT_NONE: process_vm_readv cannot read it, /proc/PID/mem can."""
        _libc.mprotect(self.address + page * PAGE_SIZE, PAGE_SIZE, 0)

    def close(self) -> None:
        for page in self.forbidden:
            self._map(page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        self.buffer.close()

    def _map(self, page: int, flags: int, fd: int) -> None:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        address = self.address + page * PAGE_SIZE
        assert _libc.mmap(address, PAGE_SIZE, access, flags | _MAP_FIXED, fd, 0) == address


@pytest.fixture
def ours() -> Iterator[ProcDir]:
    process = ProcDir(os.getpid())
    yield process
    process.close()


@pytest.fixture
def source() -> Iterator[Source]:
    pages = Source()
    yield pages
    pages.close()


@pytest.fixture
def target() -> Iterator[Buffer]:
    buffer = Buffer(2 * PAGES * PAGE_SIZE)
    buffer.view[:] = b"\xaa" * buffer.size
    yield buffer
    buffer.close()


def layout(ranges: list[tuple[int, int]]) -> tuple[array[int], array[int]]:
    """Ranges one after the other in the target."""
    flat, places, offset = array("Q"), array("Q"), 0
    for address, length in ranges:
        flat.extend((address, length))
        places.extend((offset, length))
        offset += length
    return flat, places


def check(source: Source, target: Buffer, ranges: list[tuple[int, int]], lost: set[int]) -> None:
    offset = 0
    for address, length in ranges:
        for position in range(length):
            if position and (address + position) % PAGE_SIZE:
                continue
            page = (address + position - source.address) // PAGE_SIZE
            end = min((page + 1) * PAGE_SIZE, address + length - source.address)
            start = address + position - source.address
            expected = page_content(page * PAGE_SIZE)[start % PAGE_SIZE :][: end - start]
            expected = bytes(end - start) if page in lost else expected
            assert bytes(target.view[offset + position : offset + position + end - start]) == expected
        offset += length
    assert bytes(target.view[offset : offset + 64]) == b"\xaa" * 64


def test_pages_that_others_map_too_are_never_pinned(ours: ProcDir, source: Source, target: Buffer) -> None:
    """To pin a page that a fork shares the kernel copies it: a target would grow as it is read."""
    asked: list[int] = []

    def noting(pid: int, local: int, local_count: int, remote: int, count: int, flags: int) -> int:
        asked.extend(ctypes.cast(remote, ctypes.POINTER(ctypes.c_uint64))[: 2 * count : 2])
        return real(pid, local, local_count, remote, count, flags)

    spans = [(1, 3), (5, 6), (8, 12)]
    pages = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13]
    addresses = {page: source.address + page * PAGE_SIZE for page in pages}
    unpinned = array("Q", [source.address + page * PAGE_SIZE for span in spans for page in span])
    ranges = [(address, PAGE_SIZE) for address in addresses.values()]
    source.forbid(9)
    memory = ProcessMemory(ours, vm_readv=noting, unpinned=unpinned)
    flat, places = layout(ranges)
    memory.read(flat, target, places)
    memory.close()
    check(source, target, ranges, {9})
    assert memory.unreadable == [(addresses[9], PAGE_SIZE)]
    kept = {address for page, address in addresses.items() if any(start <= page < end for start, end in spans)}
    assert kept == set(addresses.values()) - set(asked)


ways: list[tuple[str, VmReadv | None]] = [
    ("as it comes", None),
    ("ENOSYS", failing(errno.ENOSYS)),
    ("EPERM", failing(errno.EPERM)),
    ("EACCES", failing(errno.EACCES)),
    ("EFAULT always", failing(errno.EFAULT)),
    ("EIO once, EINTR, ENOMEM", failing(errno.EIO, errno.EINTR, errno.EINTR, errno.ENOMEM)),
    ("interrupted storm", interrupted_storm()),
    ("at most 1000 bytes", short_reads(1000)),
    ("short by a page", short_reads(PAGE_SIZE)),
]


@pytest.mark.parametrize("call", [call for _, call in ways], ids=[name for name, _ in ways])
def test_every_byte_arrives_whatever_process_vm_readv_does(
    ours: ProcDir, source: Source, target: Buffer, call: VmReadv | None
) -> None:
    memory = ProcessMemory(ours, vm_readv=call)
    ranges = [
        (source.address, 3 * PAGE_SIZE),
        (source.address + 5 * PAGE_SIZE + 8, 24),
        (source.address + 6 * PAGE_SIZE - 4, 8),
        (source.address + 10 * PAGE_SIZE, 20 * PAGE_SIZE),
        (source.address + 63 * PAGE_SIZE, PAGE_SIZE),
    ]
    flat, places = layout(ranges)
    memory.read(flat, target, places)
    check(source, target, ranges, set())
    assert memory.unreadable == []
    memory.close()


@pytest.mark.parametrize("call", [call for _, call in ways], ids=[name for name, _ in ways])
def test_pages_that_cannot_be_read_are_zeros_and_counted(
    ours: ProcDir, source: Source, target: Buffer, call: VmReadv | None
) -> None:
    source.forbid(1, 2, 7, 12)
    memory = ProcessMemory(ours, vm_readv=call)
    ranges = [
        (source.address, 4 * PAGE_SIZE),
        (source.address + 6 * PAGE_SIZE + 100, PAGE_SIZE),
        (source.address + 12 * PAGE_SIZE, PAGE_SIZE),
        (source.address + 20 * PAGE_SIZE, 2 * PAGE_SIZE),
    ]
    flat, places = layout(ranges)
    memory.read(flat, target, places)
    assert memory.unreadable == [
        (source.address + PAGE_SIZE, 2 * PAGE_SIZE),
        (source.address + 7 * PAGE_SIZE, 100),
        (source.address + 12 * PAGE_SIZE, PAGE_SIZE),
    ]
    check(source, target, ranges, {1, 2, 7, 12})
    memory.close()


_pages = st.integers(0, PAGES - 1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, PAGES - 1), st.integers(0, PAGE_SIZE - 1), st.integers(1, 3 * PAGE_SIZE)), max_size=8
    ),
    st.sets(_pages, max_size=6),
    st.sampled_from([None, errno.ENOSYS, 1, 5000]),
)
def test_any_ranges_over_any_broken_pages(
    spots: list[tuple[int, int, int]], broken: set[int], limit: int | None
) -> None:
    source, target, ours = Source(), Buffer(16 * PAGE_SIZE * 3), ProcDir(os.getpid())
    target.view[:] = b"\xaa" * target.size
    try:
        source.forbid(*broken)
        call = None if limit is None else failing(limit) if limit == errno.ENOSYS else short_reads(limit)
        memory = ProcessMemory(ours, vm_readv=call)
        ranges = []
        for page, offset, length in spots:
            start = page * PAGE_SIZE + offset
            ranges.append((source.address + start, min(length, PAGES * PAGE_SIZE - start)))
        flat, places = layout(ranges)
        memory.read(flat, target, places)
        check(source, target, ranges, broken)
        memory.close()
        lost = sum(length for _, length in memory.unreadable)
        expected = 0
        for address, length in ranges:
            for page in broken:
                low = max(address, source.address + page * PAGE_SIZE)
                high = min(address + length, source.address + (page + 1) * PAGE_SIZE)
                expected += max(high - low, 0)
        assert lost == expected
    finally:
        source.close()
        target.close()
        ours.close()


def test_pages_without_read_permission_are_read_all_the_same(ours: ProcDir, source: Source, target: Buffer) -> None:
    """process_vm_readv refuses them; they hold data, and a core has it."""
    source.protect(3)
    memory = ProcessMemory(ours)
    flat, places = layout([(source.address, 8 * PAGE_SIZE)])
    memory.read(flat, target, places)
    check(source, target, [(source.address, 8 * PAGE_SIZE)], set())
    assert memory.unreadable == []
    memory.close()


def test_more_ranges_than_one_call_takes(ours: ProcDir, source: Source, target: Buffer) -> None:
    ranges = [(source.address + 16 * number, 16) for number in range(3000)]
    memory = ProcessMemory(ours)
    flat, places = layout(ranges)
    memory.read(flat, target, places)
    assert bytes(target.view[:48000]) == bytes(source.buffer.view[:48000])
    memory.close()


def test_places_need_not_be_in_order(ours: ProcDir, source: Source, target: Buffer) -> None:
    memory = ProcessMemory(ours)
    ranges = array("Q", (source.address, 8, source.address + PAGE_SIZE, 8))
    memory.read(ranges, target, array("Q", (100, 8, 0, 8)))
    assert bytes(target.view[100:108]) == page_content(0)[:8]
    assert bytes(target.view[:8]) == page_content(PAGE_SIZE)[:8]
    memory.close()


def test_a_forbidden_call_is_not_tried_again(ours: ProcDir, source: Source, target: Buffer) -> None:
    calls = []

    def call(*arguments: int) -> int:
        calls.append(arguments)
        ctypes.set_errno(errno.ENOSYS)
        return -1

    memory = ProcessMemory(ours, vm_readv=call)
    flat, places = layout([(source.address + page * PAGE_SIZE, PAGE_SIZE) for page in range(0, PAGES, 2)])
    memory.read(flat, target, places)
    memory.read(flat, target, places)
    assert len(calls) == 1
    memory.close()


def test_an_address_beyond_off_t_does_not_break_the_reader(ours: ProcDir, target: Buffer) -> None:
    memory = ProcessMemory(ours)
    memory.read(array("Q", (0xFFFFFFFFFFFFE000, PAGE_SIZE)), target, array("Q", (0, PAGE_SIZE)))
    assert memory.unreadable == [(0xFFFFFFFFFFFFE000, PAGE_SIZE)]
    assert bytes(target.view[:PAGE_SIZE]) == bytes(PAGE_SIZE)
    memory.close()


@pytest.mark.parametrize("call", [None, failing(errno.ENOSYS)], ids=["as it comes", "ENOSYS"])
def test_a_process_that_ended_is_told_and_not_read_as_zeros(target: Buffer, call: VmReadv | None) -> None:
    pid = os.fork()
    if pid == 0:
        while True:
            os.read(_never[0], 1)
    process = ProcDir(pid)
    memory = ProcessMemory(process, vm_readv=call)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with pytest.raises(NoSuchProcessError):
        memory.read(array("Q", (target.address, 8)), target, array("Q", (0, 8)))
    memory.close()
    process.close()


_never = os.pipe()


# --- copies --------------------------------------------------------------------------------------------------------


def copied() -> CopiedMemory:
    ranges = array("Q", (0x1000, 0x100, 0x3000, 0x80))
    buffer = Buffer(0x180)
    buffer.view[:] = bytes(range(256)) + bytes(range(128))
    return CopiedMemory(ranges, buffer)


def test_a_copy_is_found_by_address() -> None:
    memory, target = copied(), Buffer(64)
    memory.read(
        array("Q", (0x1000, 4, 0x10FC, 4, 0x3000, 2, 0x307F, 1)), target, array("Q", (0, 4, 8, 4, 16, 2, 32, 1))
    )
    assert bytes(target.view[:4]) == bytes([0, 1, 2, 3])
    assert bytes(target.view[8:12]) == bytes([252, 253, 254, 255])
    assert bytes(target.view[16:18]) == bytes([0, 1])
    assert target.view[32] == 127
    memory.close()
    memory.close()
    target.close()


@pytest.mark.parametrize(
    ("address", "length"), [(0xFFF, 1), (0x1000, 0x101), (0x1100, 1), (0x2FFF, 2), (0x3080, 1), (0, 8)]
)
def test_what_was_not_copied_is_never_made_up(address: int, length: int) -> None:
    memory, target = copied(), Buffer(1024)
    with pytest.raises(LookupError):
        memory.read(array("Q", (address, length)), target, array("Q", (0, length)))
    memory.close()
    target.close()


def test_a_buffer_of_no_bytes_and_a_second_close_do_no_harm() -> None:
    buffer = Buffer(0)
    buffer.close()
    buffer.close()


@pytest.mark.parametrize(("processors", "readers"), [(1, 2), (2, 2), (3, 3), (64, 4)])
def test_as_many_threads_copy_as_there_are_processors_for(
    monkeypatch: pytest.MonkeyPatch, processors: int, readers: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
    assert _readers() == readers
