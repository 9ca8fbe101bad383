"""What the kernel may answer in place of what was asked for: short reads, interruptions, calls that are not there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
from array import array
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepipe_engine.errors import CorepipeError, DumpFailedError, ExitCode, NoSuchProcessError, NotPermittedError
from corepipe_engine.memory import Buffer, ProcessMemory
from corepipe_engine.pagemap import Pagemap
from corepipe_engine.procfs import PAGE_SIZE, ProcDir, ProcessHandle, read_all

ANSWERS = st.lists(st.one_of(st.integers(1, 3), st.sampled_from([errno.EINTR, errno.EIO])), max_size=6)


@pytest.fixture
def ours() -> Iterator[ProcDir]:
    folder = ProcDir(os.getpid())
    yield folder
    folder.close()


def failing(number: int) -> Callable[..., int]:
    def call(*arguments: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_a_file_of_proc_is_read_whole_however_little_each_read_gives(sizes: list[int]) -> None:
    read_end, write_end = os.pipe()
    content = os.urandom(20_000)
    os.write(write_end, content)
    os.close(write_end)
    real, turn = os.read, itertools.cycle(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "read", lambda fd, size: real(fd, min(size, next(turn))))
        assert read_all(read_end) == content
    os.close(read_end)


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EIO, DumpFailedError, ExitCode.FAILED),
        (errno.ENOMEM, DumpFailedError, ExitCode.FAILED),
        (errno.EPERM, NotPermittedError, ExitCode.NOT_PERMITTED),
        (errno.ESRCH, NoSuchProcessError, ExitCode.NO_PROCESS),
    ],
)
@pytest.mark.parametrize(
    "look",
    [
        lambda ours: ours.stat(),
        lambda ours: ours.status(),
        lambda ours: ours.auxv(8),
        lambda ours: list(ours.regions()),
        lambda ours: ours.read("maps"),
    ],
    ids=["stat", "status", "auxv", "smaps", "maps"],
)
def test_a_read_error_in_proc_is_told_in_words_with_its_status(
    ours: ProcDir, monkeypatch: pytest.MonkeyPatch, look: Callable[[ProcDir], object],
    number: int, kind: type[CorepipeError], code: ExitCode,
) -> None:  # fmt: skip
    for name in ("read", "readv", "pread", "preadv"):
        monkeypatch.setattr(os, name, failing(number))
    with pytest.raises(kind) as caught:
        look(ours)
    assert caught.value.exit_code is code
    assert str(os.getpid()) in caught.value.message


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_process_that_cannot_be_opened_for_want_of_descriptors_is_told(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "open", failing(number))
    with pytest.raises(DumpFailedError, match=os.strerror(number)):
        ProcessHandle(os.getpid())


@settings(max_examples=200)
@given(ANSWERS, st.sampled_from([0, errno.ENOSYS, errno.EPERM, errno.EFAULT]), st.integers(1, 5 * PAGE_SIZE))
def test_memory_arrives_whole_through_interruptions_short_reads_and_calls_that_go_missing(
    answers: list[int], at_last: int, length: int
) -> None:
    """Answers of process_vm_readv: so many 64ths of what is asked for, or an errno; at last the real one, or none."""
    source, target = Buffer(6 * PAGE_SIZE), Buffer(6 * PAGE_SIZE)
    source.view[:] = os.urandom(6 * PAGE_SIZE)
    left = list(answers)

    def vm_readv(pid: int, local: int, locals_: int, remote: int, remotes: int, flags: int) -> int:
        answer = left.pop(0) if left else at_last
        if answer > 3:
            ctypes.set_errno(answer)
            return -1
        to, size = ctypes.c_uint64.from_address(local).value, ctypes.c_uint64.from_address(local + 8).value
        size = size * answer // 64 if answer else size
        ctypes.memmove(to, ctypes.c_uint64.from_address(remote).value, size)
        return size

    folder = ProcDir(os.getpid())
    memory = ProcessMemory(folder, vm_readv=vm_readv)
    try:
        memory.read(array("Q", (source.address + 7, length)), target, array("Q", (0, length)))
        assert bytes(target.view[:length]) == bytes(source.view[7 : 7 + length])
        assert memory.unreadable == []
    finally:
        memory.close()
        folder.close()
        source.close()
        target.close()


def test_a_page_that_gives_eio_is_zeros_and_counted_and_the_others_arrive(
    ours: ProcDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = Buffer(3 * PAGE_SIZE), Buffer(3 * PAGE_SIZE)
    source.view[:] = target.view[:] = b"x" * (3 * PAGE_SIZE)
    bad, real = source.address + PAGE_SIZE, os.preadv

    def preadv(fd: int, views: list[memoryview], address: int) -> int:
        if address >= bad and address < bad + PAGE_SIZE:
            raise OSError(errno.EIO, "made by the test")
        return (
            real(fd, [views[0][: max(bad - address, PAGE_SIZE)]], address)
            if address < bad
            else real(fd, views, address)
        )

    monkeypatch.setattr(os, "preadv", preadv)
    memory = ProcessMemory(ours, pinned=False)
    memory.read(array("Q", (source.address, 3 * PAGE_SIZE)), target, array("Q", (0, 3 * PAGE_SIZE)))
    assert bytes(target.view[:]) == b"x" * PAGE_SIZE + bytes(PAGE_SIZE) + b"x" * PAGE_SIZE
    assert memory.unreadable == [(bad, PAGE_SIZE)]
    memory.close()
    source.close()
    target.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EFAULT])
def test_page_tables_that_cannot_be_scanned_are_told_and_never_taken_for_empty(
    ours: ProcDir, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", failing(number))
    pagemap = Pagemap(ours)
    with pytest.raises(DumpFailedError, match="pagemap"):
        pagemap.touched_runs([(PAGE_SIZE, 2 * PAGE_SIZE)])
    pagemap.close()


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.ENOSYS])
def test_page_tables_read_in_short_pieces_without_the_scan_tell_the_same(
    ours: ProcDir, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    area = Buffer(64 * PAGE_SIZE)
    for page in range(0, 64, 3):
        area.view[page * PAGE_SIZE] = 1
    spans = [(area.address, area.address + area.size)]
    pagemap = Pagemap(ours)
    known = pagemap.touched_runs(spans)
    real = os.pread
    monkeypatch.setattr(fcntl, "ioctl", failing(number))
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 40), at))
    assert pagemap.touched_runs(spans) == known
    assert len(known) > 20
    pagemap.close()
    area.close()
