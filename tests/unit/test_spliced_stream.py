"""stream.py with pipes that somebody else fills: the same bytes, whatever way they go."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import select
import struct
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepipe_engine import splice
from corepipe_engine.arch import SystemCall
from corepipe_engine.chunks import Chunk, Sizes, _Reads, chunks, rest_of
from corepipe_engine.elf import ELF64
from corepipe_engine.errors import DumpFailedError, NoSuchProcessError, SinkError
from corepipe_engine.plan import DumpPlan
from corepipe_engine.splice import kernel_version, open_pipes, without
from corepipe_engine.stream import CoreStream, raise_error

from .model import ALL, BASE, NONE, PAGE, ModelMemory, content, file_of, plan_of, region
from .streaming import PATIENCE_SECONDS, Reader, run

F_SETPIPE_SZ = 1031
MIB = 1 << 20


def is_read(plan: DumpPlan, page: int) -> bool:
    """Whether the plan reads that page; else it is zeros."""
    reads = plan.reads
    return any(reads[i] <= page < reads[i] + reads[i + 1] for i in range(0, len(reads), 2))


class FakePipes:
    """As the snapshot's: fill() puts the model's bytes, and zeros for what was never touched, into a real pipe."""

    def __init__(self, plan: DumpPlan, ranges: list[int], bad: frozenset[int] = frozenset()) -> None:
        ends = [os.pipe() for _ in range(2)]
        self.fds = [read_end for read_end, _ in ends]
        self.size = MIB
        self.ranges = array("Q", ranges)
        self.usable = True
        self.leaked = False
        self.error: BaseException | None = None
        self.filled = 0
        self._ends = [write_end for _, write_end in ends]
        self._plan = plan
        self._bad = bad
        for fd in self._ends:
            fcntl.fcntl(fd, F_SETPIPE_SZ, MIB)

    def fill(self, slot: int, ranges: array[int]) -> int:
        if self.error is not None:
            raise self.error
        assert threading.current_thread() is threading.main_thread()
        done = 0
        for index in range(0, len(ranges), 2):
            for page in range(ranges[index], ranges[index] + ranges[index + 1], PAGE):
                if page in self._bad:
                    return done
                os.write(self._ends[slot], content(page, PAGE) if is_read(self._plan, page) else bytes(PAGE))
                done += PAGE
        self.filled += done
        return done

    def leak(self) -> None:
        self.leaked = True

    def close(self) -> None:
        for fd in (*self.fds, *self._ends):
            os.close(fd)


def sparse_plan() -> DumpPlan:
    """3 MiB touched throughout, a region left out, 4 MiB with two gaps, and one of a few pages."""
    second = BASE + 4 * MIB
    runs = [second, second + MIB, second + MIB + 20 * PAGE, second + 2 * MIB, second + 2 * MIB + PAGE, second + 4 * MIB]
    decided = [
        (region(BASE, 3 * MIB), ALL, False),
        (region(BASE + 3 * MIB, PAGE), NONE, False),
        (region(second, 4 * MIB), ALL, True),
        (region(second + 8 * MIB, 3 * PAGE), ALL, False),
    ]
    return plan_of(decided, runs, 100)


def everything(plan: DumpPlan) -> list[int]:
    return [border for planned in plan.regions for border in (planned.region.start, planned.region.end)]


@pytest.fixture
def pipes_over() -> Iterator[object]:
    made: list[FakePipes] = []

    def make(plan: DumpPlan, ranges: list[int], bad: frozenset[int] = frozenset()) -> FakePipes:
        made.append(FakePipes(plan, ranges, bad))
        return made[-1]

    yield make
    for pipes in made:
        pipes.close()


def streamed(plan: DumpPlan, pipes: FakePipes, fd: int) -> CoreStream:
    stream = CoreStream(plan, plan.header(bytes(plan.notes_bytes)), ModelMemory(), fd, pipes=pipes)
    stream.start()
    run(stream)
    raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    assert stream.written == plan.total_bytes
    return stream


def test_pages_go_past_us_and_the_core_is_the_same(pipes_over) -> None:
    plan = sparse_plan()
    pipes, reader = pipes_over(plan, everything(plan)), Reader()
    stream = streamed(plan, pipes, reader.write_fd)
    assert reader.content() == file_of(plan)
    assert stream.spliced == pipes.filled == 7 * MIB, "all but the few pages"


@pytest.mark.parametrize("pipe_size", [MIB // 4, MIB])
def test_pipes_and_buffers_may_be_of_any_size(pipes_over, pipe_size: int) -> None:
    """What cannot be sent takes several buffers where they are smaller than pipes, and else a part of one."""
    plan, reader = sparse_plan(), Reader()
    pipes = pipes_over(plan, everything(plan), frozenset({BASE + 3 * PAGE, BASE + 2 * MIB}))
    pipes.size = pipe_size
    stream = CoreStream(
        plan, plan.header(bytes(100)), ModelMemory(), reader.write_fd, pipes=pipes, sizes=Sizes(MIB // 2, buffers=2)
    )
    stream.start()
    run(stream)
    raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    assert reader.content() == file_of(plan)
    assert stream.spliced == 7 * MIB - 2 * pipe_size + 3 * PAGE


def test_a_long_segment_of_many_runs_is_sent_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second page of 8 MiB was touched: nobody looks at the runs, and what is between goes along."""
    looked_at: list[int] = []
    pieces = _Reads.pieces
    monkeypatch.setattr(_Reads, "pieces", lambda self, start, end: looked_at.append(start) or pieces(self, start, end))
    runs = [BASE + page * PAGE for page in range(2048)]
    plan = plan_of([(region(BASE, 8 * MIB), ALL, True), (region(BASE + 8 * MIB, PAGE), ALL, False)], runs)
    direct = array("Q", (BASE, BASE + 8 * MIB))
    sent = [chunk for chunk in chunks(plan, direct=direct, pipe_size=4 * MIB) if chunk.direct]
    assert [list(chunk.ranges) for chunk in sent] == [[BASE, 4 * MIB], [BASE + 4 * MIB, 4 * MIB]]
    assert looked_at == [BASE + 8 * MIB]


def test_a_sink_that_cannot_splice_gets_the_same_bytes(pipes_over, tmp_path: Path) -> None:
    plan = sparse_plan()
    path = tmp_path / "core"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stream = streamed(plan, pipes_over(plan, everything(plan)), fd)
    os.close(fd)
    assert path.read_bytes() == file_of(plan)
    assert stream.spliced == 0


def test_with_a_digest_every_byte_comes_by(pipes_over) -> None:
    plan, reader, digest = sparse_plan(), Reader(), hashlib.sha256()
    pipes = pipes_over(plan, everything(plan))
    stream = CoreStream(plan, plan.header(bytes(100)), ModelMemory(), reader.write_fd, pipes=pipes, digest=digest)
    stream.start()
    run(stream)
    raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    assert reader.content() == file_of(plan)
    assert digest.digest() == hashlib.sha256(file_of(plan)).digest()
    assert stream.spliced == 0


def test_a_file_gets_the_same_bytes(pipes_over, tmp_path: Path) -> None:
    plan = sparse_plan()
    with open(tmp_path / "core", "wb") as file:
        stream = streamed(plan, pipes_over(plan, everything(plan)), file.fileno())
    assert (tmp_path / "core").read_bytes() == file_of(plan)
    assert stream.spliced == 7 * MIB


def test_a_sink_that_is_non_blocking_gets_the_same_bytes(pipes_over) -> None:
    plan, reader = sparse_plan(), Reader()
    os.set_blocking(reader.write_fd, False)
    streamed(plan, pipes_over(plan, everything(plan)), reader.write_fd)
    assert reader.content() == file_of(plan)


def test_pages_that_cannot_be_sent_are_read(pipes_over) -> None:
    plan, reader = sparse_plan(), Reader()
    bad = frozenset({BASE, BASE + MIB + 7 * PAGE, BASE + 4 * MIB + MIB + 3 * PAGE})
    pipes = pipes_over(plan, everything(plan), bad)
    stream = streamed(plan, pipes, reader.write_fd)
    assert reader.content() == file_of(plan)
    assert 0 < stream.spliced < 7 * MIB


def test_pipes_that_are_given_up_in_the_middle_are_used_no_more(pipes_over) -> None:
    plan, reader = sparse_plan(), Reader()
    pipes = pipes_over(plan, everything(plan))
    fill = pipes.fill

    def once(slot: int, ranges: array[int]) -> int:
        pipes.usable = False
        return fill(slot, ranges)

    pipes.fill = once
    stream = streamed(plan, pipes, reader.write_fd)
    assert reader.content() == file_of(plan)
    assert stream.spliced == MIB


@pytest.mark.parametrize("error", [NoSuchProcessError("gone"), MemoryError(), DumpFailedError("broken")])
def test_what_goes_wrong_in_filling_ends_the_stream(pipes_over, error: BaseException) -> None:
    plan, reader = sparse_plan(), Reader()
    pipes = pipes_over(plan, everything(plan))
    pipes.error = error
    stream = CoreStream(plan, plan.header(bytes(100)), ModelMemory(), reader.write_fd, pipes=pipes)
    stream.start()
    run(stream)
    with pytest.raises(type(error)):
        raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    reader.content()


def test_a_sink_that_goes_away_is_told_and_a_stuck_one_keeps_the_pipes(pipes_over) -> None:
    plan = sparse_plan()
    read_end, write_end = os.pipe()
    pipes = pipes_over(plan, everything(plan))
    stream = CoreStream(plan, plan.header(bytes(100)), ModelMemory(), write_end, pipes=pipes)
    stream.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while stream.spliced == 0 and time.monotonic() < deadline:  # until the sink's pipe is full
        select.select([stream.wake_fd], [], [], 0.1)
        stream.serve()
    assert not stream.close(0.05)
    assert pipes.leaked, "a thread may still use them"
    os.close(read_end)
    stream._write_thread.join(PATIENCE_SECONDS)
    assert stream.close(PATIENCE_SECONDS)
    os.close(write_end)


def test_a_sink_that_is_closed_is_an_error_of_the_sink(pipes_over) -> None:
    plan = sparse_plan()
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = CoreStream(
        plan, plan.header(bytes(100)), ModelMemory(), write_end, pipes=pipes_over(plan, [BASE, BASE + MIB])
    )
    stream.start()
    run(stream)
    with pytest.raises(SinkError):
        raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    os.close(write_end)


def test_the_end_is_not_held_up_by_a_request_that_nobody_serves(pipes_over) -> None:
    plan, reader = sparse_plan(), Reader()
    stream = CoreStream(
        plan, plan.header(bytes(100)), ModelMemory(), reader.write_fd, pipes=pipes_over(plan, everything(plan))
    )
    stream.start()
    assert select.select([stream.wake_fd], [], [], PATIENCE_SECONDS)[0]
    assert stream.close(PATIENCE_SECONDS)
    reader.content()


def filled(plan: DumpPlan, chunk: Chunk) -> bytes:
    """What comes of a chunk: only a direct one may span what was never touched."""
    data = bytearray(b"\xaa" * chunk.length)
    for index in range(0, len(chunk.ranges), 2):
        address, length, place = *chunk.ranges[index : index + 2], chunk.places[index]
        for page in range(address, address + length, PAGE):
            touched = is_read(plan, page)
            assert touched or chunk.direct
            at = place + page - address
            data[at : at + PAGE] = content(page, PAGE) if touched else bytes(PAGE)
    for offset, length in chunk.zeros:
        data[offset : offset + length] = bytes(length)
    return bytes(data)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_any_plan_is_cut_into_the_same_bytes(seed: int) -> None:
    """Random regions, holes and direct ranges: what a direct chunk spans is what the plan puts there."""
    chance = random.Random(seed)
    decided, runs, direct, at = [], [], [], BASE
    for _ in range(chance.randint(1, 5)):
        size = chance.randint(1, 600) * PAGE
        whole = chance.random() < 0.3
        decided.append((region(at, size), chance.choice((ALL, ALL, NONE)), not whole))
        if chance.random() < 0.8:
            direct += [at, at + size]
        position = at
        while position < at + size:
            end = min(position + chance.randint(1, 200) * PAGE, at + size)
            runs += [position, end]
            position = end + chance.randint(1, 60) * PAGE
        at += size + chance.choice((0, PAGE, MIB))
    plan = plan_of(decided, runs)
    ranges = without(zip(direct[::2], direct[1::2], strict=True), [(BASE + 9 * PAGE + 5, BASE + 10 * PAGE + 5)])
    sizes, pipe_size = (
        Sizes(chance.choice((MIB // 16, MIB)), ranges=chance.choice((2, 1024))),
        chance.choice((MIB // 4, 4 * MIB)),
    )
    pieces = []
    for chunk in chunks(plan, sizes, ranges, pipe_size):
        assert 0 < chunk.length <= (pipe_size if chunk.direct else sizes.chunk)
        data = filled(plan, chunk)
        if chunk.direct:
            for index in range(0, len(chunk.ranges), 2):
                address, length = chunk.ranges[index : index + 2]
                assert any(
                    low <= address and address + length <= high
                    for low, high in zip(ranges[::2], ranges[1::2], strict=True)
                )
            sent = chance.randint(0, chunk.length // PAGE - 1) * PAGE
            rest = list(rest_of(plan, chunk, sent, sizes))
            assert all(0 < one.length <= sizes.chunk and not one.direct for one in rest)
            data = data[:sent] + b"".join(filled(plan, one) for one in rest)
        pieces.append(data)
    assert plan.header(b"") + b"".join(pieces) == file_of(plan)


@pytest.mark.parametrize(
    ("release", "version"), [("6.18.44-fc", (6, 18)), ("5.4", (5, 4)), ("5.15.0-91-generic", (5, 15)), ("odd", (0, 0))]
)
def test_the_kernels_version_is_read_as_numbers(monkeypatch: pytest.MonkeyPatch, release: str, version) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=release))
    assert kernel_version() == version


@pytest.mark.parametrize("release", ["5.17.15", "5.9.0", "4.18.0-553.el8"])
def test_where_a_page_in_a_pipe_may_change_the_snapshot_is_asked_for_none(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(release=release))
    assert open_pipes(None, None, -1, 0, None) is None  # type: ignore[arg-type]


def test_pages_under_a_hole_are_taken_out() -> None:
    assert list(without([(0, 8 * PAGE)], [])) == [0, 8 * PAGE]
    assert list(without([(0, 2 * PAGE), (2 * PAGE, 3 * PAGE)], [])) == [0, 3 * PAGE]
    assert list(without([(0, 8 * PAGE)], [(PAGE + 1, PAGE + 2)])) == [0, PAGE, 2 * PAGE, 8 * PAGE]
    assert list(without([(0, PAGE), (4 * PAGE, 5 * PAGE)], [(0, 5 * PAGE)])) == []
    assert list(without([(PAGE, 4 * PAGE)], [(0, 2 * PAGE), (3 * PAGE, 9 * PAGE)])) == [2 * PAGE, 3 * PAGE]


class OwnCalls:
    """The snapshot's system calls, run in this process; a fill takes as long as it is told to."""

    def __init__(self, memory_fd: int, clock: list[float]) -> None:
        self.seconds = 0.0
        self.fds: list[int] = []
        self._memory_fd = memory_fd
        self._clock = clock

    def run(self, call: SystemCall, arguments: tuple[int, ...]) -> int:
        if call is SystemCall.PIPE2:
            ends = os.pipe2(arguments[1])
            self.fds += ends
            os.pwrite(self._memory_fd, struct.pack("<ii", *ends), arguments[0])
            return 0
        self._clock[0] += self.seconds
        return PAGE


@pytest.mark.parametrize(
    ("fills", "usable"),
    [([0.06] * 3, True), ([0.06] * 4, False), ([0.06] * 3 + [0.01], True), ([0.06, 0.06, 0.06, 0.01] * 5, True)],
)
def test_a_snapshot_that_gets_no_processor_for_long_is_read_instead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fills: list[float], usable: bool
) -> None:
    clock = [0.0]
    monkeypatch.setattr(splice.time, "monotonic", lambda: clock[0])
    memory = os.open(tmp_path / "mem", os.O_RDWR | os.O_CREAT)
    calls, pidfd = OwnCalls(memory, clock), os.pidfd_open(os.getpid())
    folder = SimpleNamespace(open=lambda name, flags: os.dup(memory), stat=lambda: None)
    pipes = splice.PagePipes(calls, folder, pidfd, PAGE, ELF64, wanted=(1 << 20,))  # type: ignore[arg-type]
    try:
        for seconds in fills:
            calls.seconds = seconds
            assert pipes.fill(0, array("Q", (BASE, PAGE))) == PAGE
        assert pipes.usable is usable
    finally:
        pipes.close()
        for fd in (*calls.fds, memory, pidfd):
            os.close(fd)
