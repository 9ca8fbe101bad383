"""stream.py: forward-only, exact to the byte, and it always ends."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from array import array
from collections.abc import Callable, Iterator

import pytest

from corepipe_engine.chunks import SIZES
from corepipe_engine.errors import DumpFailedError, ExitCode, NoSuchProcessError, SinkError
from corepipe_engine.memory import Buffer, MemoryReader
from corepipe_engine.plan import DumpPlan
from corepipe_engine.stream import CoreStream, raise_error

from .model import ALL, BASE, NONE, PAGE, ModelMemory, file_of, many_regions, plan_of, region

MIB = 1 << 20
PATIENCE_SECONDS = 60.0


def sample_plan(data_bytes: int = 9 * MIB) -> DumpPlan:
    half = data_bytes // 2 // PAGE * PAGE
    decided = [
        (region(BASE, half), ALL, False),
        (region(BASE + half, PAGE), NONE, False),
        (region(BASE + 2 * half, data_bytes - half), ALL, True),
    ]
    start = BASE + 2 * half
    return plan_of(decided, [start + PAGE, start + 2 * PAGE, start + 5 * PAGE, start + data_bytes - half], 100)


class Pipe:
    """A pipe whose reading end can be left alone, read by a thread, or closed."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.received: list[bytes] = []
        self._thread: threading.Thread | None = None

    def read_in_background(self, size: int = 65536) -> None:
        def run() -> None:
            while data := os.read(self.read_fd, size):
                self.received.append(data)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def content(self) -> bytes:
        self.close_write()
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)
        return b"".join(self.received)

    def close_write(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close_read(self) -> None:
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = -1

    def fill(self) -> None:
        """Leave no room, so that the next write blocks."""
        os.set_blocking(self.write_fd, False)
        try:
            while True:
                os.write(self.write_fd, bytes(4096))
        except BlockingIOError:
            pass
        os.set_blocking(self.write_fd, True)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    both = Pipe()
    yield both
    both.close_write()
    if both._thread is not None:
        both._thread.join(PATIENCE_SECONDS)
    both.close_read()


def stream_of(plan: DumpPlan, fd: int, reader: MemoryReader | None = None, command: str = "") -> CoreStream:
    return CoreStream(plan, plan.header(bytes(plan.notes_bytes)), reader or ModelMemory(), fd, command)


def until_done(stream: CoreStream) -> None:
    assert select.select([stream.wake_fd], [], [], PATIENCE_SECONDS)[0], "the stream never woke its caller"
    assert stream.done or stream.error is not None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not stream.done:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("size", [PAGE, MIB - PAGE, MIB, MIB + PAGE, 9 * MIB])
def test_a_pipe_gets_the_planned_bytes_and_no_others(pipe: Pipe, size: int) -> None:
    plan = sample_plan(max(size, 8 * PAGE))
    pipe.read_in_background()
    stream = stream_of(plan, pipe.write_fd)
    stream.start()
    until_done(stream)
    raise_error(stream)
    assert stream.written == plan.total_bytes
    assert pipe.content() == file_of(plan)
    assert stream.close(PATIENCE_SECONDS)


def test_a_reader_of_odd_sizes_and_a_nonblocking_pipe_change_nothing(pipe: Pipe) -> None:
    plan = sample_plan(MIB)
    os.set_blocking(pipe.write_fd, False)
    pipe.read_in_background(777)
    stream = stream_of(plan, pipe.write_fd)
    stream.start()
    until_done(stream)
    raise_error(stream)
    assert pipe.content() == file_of(plan)
    assert stream.close(PATIENCE_SECONDS)


def test_a_core_with_the_extended_count_ends_with_its_section_header(pipe: Pipe) -> None:
    plan = plan_of([(mapped, ALL if i == 7 else NONE, False) for i, mapped in enumerate(many_regions())])
    pipe.read_in_background()
    stream = stream_of(plan, pipe.write_fd)
    stream.start()
    until_done(stream)
    raise_error(stream)
    assert pipe.content() == file_of(plan)
    assert stream.close(PATIENCE_SECONDS)


def test_a_plan_without_data_is_a_header_alone(pipe: Pipe) -> None:
    plan = plan_of([], notes_bytes=4)
    pipe.read_in_background()
    stream = stream_of(plan, pipe.write_fd)
    stream.start()
    until_done(stream)
    raise_error(stream)
    assert len(pipe.content()) == plan.total_bytes == PAGE
    assert stream.close(PATIENCE_SECONDS)


@pytest.mark.parametrize(("command", "who"), [("", "reader of standard output"), ("zstd", "the pipe command")])
def test_a_far_end_that_closes_is_a_sink_error(pipe: Pipe, command: str, who: str) -> None:
    pipe.close_read()
    stream = stream_of(sample_plan(), pipe.write_fd, command=command)
    stream.start()
    until_done(stream)
    with pytest.raises(SinkError, match=who) as caught:
        raise_error(stream)
    assert caught.value.exit_code is ExitCode.SINK_FAILED
    assert stream.written == 0
    assert stream.close(PATIENCE_SECONDS)


def test_a_far_end_that_closes_in_the_middle_leaves_an_exact_count(pipe: Pipe) -> None:
    stream = stream_of(sample_plan(), pipe.write_fd)
    stream.start()
    taken = 0
    while taken < 2 * MIB:
        taken += len(os.read(pipe.read_fd, 65536))
    pipe.close_read()
    until_done(stream)
    with pytest.raises(SinkError):
        raise_error(stream)
    assert taken <= stream.written < sample_plan().total_bytes
    assert stream.close(PATIENCE_SECONDS)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told_as_such() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    stream = stream_of(sample_plan(), fd)
    stream.start()
    until_done(stream)
    with pytest.raises(SinkError, match="no space left"):
        raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)
    os.close(fd)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (NoSuchProcessError("process 7 ended"), NoSuchProcessError),
        (MemoryError(), MemoryError),
        (LookupError("0x7 was not copied"), DumpFailedError),
        (OSError(errno.EIO, "Input/output error"), DumpFailedError),
        (KeyboardInterrupt(), DumpFailedError),
    ],
)
@pytest.mark.parametrize("fail_at", [BASE + 1, BASE + 3 * MIB])
def test_memory_that_cannot_be_read_ends_the_stream_with_the_reason(
    pipe: Pipe, error: BaseException, raised: type[BaseException], fail_at: int
) -> None:
    plan = sample_plan()
    pipe.read_in_background()
    stream = stream_of(plan, pipe.write_fd, ModelMemory(fail_at, error))
    stream.start()
    until_done(stream)
    with pytest.raises(raised):
        raise_error(stream)
    content = pipe.content()
    assert len(content) == stream.written < plan.total_bytes
    assert content == file_of(plan)[: len(content)]  # what went out is right
    assert stream.close(PATIENCE_SECONDS)


def test_a_core_of_another_size_than_planned_is_a_failure(pipe: Pipe) -> None:
    plan = sample_plan(MIB)
    pipe.read_in_background()
    stream = CoreStream(plan, plan.header(bytes(100))[:-1], ModelMemory(), pipe.write_fd)
    stream.start()
    until_done(stream)
    with pytest.raises(DumpFailedError, match="bytes where"):
        raise_error(stream)
    assert stream.close(PATIENCE_SECONDS)


def test_a_stuck_sink_neither_holds_up_the_caller_nor_loses_its_buffers(pipe: Pipe) -> None:
    pipe.fill()
    stream = stream_of(sample_plan(), pipe.write_fd)
    stream.start()
    stream.cancel()
    assert not stream.close(0.0)  # the writer sits in write(2) and keeps its buffers
    assert stream.written == 0
    pipe.close_read()
    until_done(stream)
    assert stream.close(PATIENCE_SECONDS)
    assert stream.error is None  # cancelled, not failed


def test_a_stuck_reader_of_memory_is_left_and_then_collected(pipe: Pipe) -> None:
    release, entered = threading.Event(), threading.Event()

    class Stuck(ModelMemory):
        def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
            entered.set()
            release.wait(PATIENCE_SECONDS)
            super().read(ranges, buffer, places)

    pipe.read_in_background()
    stream = stream_of(sample_plan(), pipe.write_fd, Stuck())
    stream.start()
    assert entered.wait(PATIENCE_SECONDS)
    assert not stream.close(0.0)
    release.set()
    assert stream.close(PATIENCE_SECONDS)


@pytest.mark.parametrize("before", [lambda stream: None, CoreStream.start, CoreStream.cancel])
def test_close_may_come_at_any_time_and_twice(pipe: Pipe, before: Callable[[CoreStream], None]) -> None:
    pipe.read_in_background()
    stream = stream_of(sample_plan(), pipe.write_fd)
    before(stream)
    assert stream.close(PATIENCE_SECONDS)
    assert stream.close(PATIENCE_SECONDS)


def test_memory_that_cannot_be_read_is_told_though_the_sink_is_stuck(pipe: Pipe) -> None:
    """The target may stand still meanwhile: it must not wait for the pipe."""
    pipe.fill()
    stream = stream_of(sample_plan(), pipe.write_fd, ModelMemory(BASE + 1, NoSuchProcessError("process 7 ended")))
    stream.start()
    assert select.select([stream.wake_fd], [], [], PATIENCE_SECONDS)[0]
    assert not stream.done
    with pytest.raises(NoSuchProcessError):
        raise_error(stream)
    assert not stream.close(0.0)
    pipe.close_read()
    assert stream.close(PATIENCE_SECONDS)
    assert isinstance(stream.error, NoSuchProcessError)


def test_the_reader_runs_ahead_by_the_buffers_and_no_more(pipe: Pipe) -> None:
    """Backpressure: a slow pipe must not make the whole core pile up in memory."""
    pipe.fill()
    calls, all_taken = [], threading.Event()

    class Counting(ModelMemory):
        def read(self, ranges: array[int], buffer: Buffer, places: array[int]) -> None:
            super().read(ranges, buffer, places)
            calls.append(buffer)
            if len(calls) == SIZES.buffers:
                all_taken.set()

    stream = stream_of(sample_plan(40 * MIB), pipe.write_fd, Counting())
    stream.start()
    assert all_taken.wait(PATIENCE_SECONDS)
    assert len(calls) == SIZES.buffers
    assert len({id(buffer) for buffer in calls}) == SIZES.buffers
    pipe.close_read()
    until_done(stream)
    assert stream.close(PATIENCE_SECONDS)
