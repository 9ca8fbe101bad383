"""The forward-only writer: a reader thread fills a few buffers, a writer thread empties them, the caller watches.

Nothing seeks; every byte is counted. The caller's thread stays free for the stop clock, signals and the sink's end.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import queue
import select
import signal
import threading
from array import array
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from .chunks import NOTHING, SIZES, Chunk, Sizes, chunks, rest_of
from .errors import CorepipeError, DumpFailedError
from .memory import Buffer, MemoryReader
from .plan import DumpPlan
from .sink import write_error
from .tags import TagReader, pieces

T = TypeVar("T")
_SPLICE_MOVE = 1
_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Pipes(Protocol):
    """Pipes that are filled with ranges of memory without copying it; fill() belongs to one thread."""

    fds: list[int]
    size: int
    ranges: array[int]
    usable: bool

    def fill(self, slot: int, ranges: array[int]) -> int:
        """Put ranges (address, length, ...) into an empty pipe; return how many bytes, up to a page that cannot be."""

    def leak(self) -> None:
        """Keep the pipes open until this process ends."""


class Digest(Protocol):
    """As hashlib makes them."""

    def update(self, data: memoryview, /) -> None:
        """Take bytes in."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


class _Ended(Exception):  # noqa: N818 - no error
    """The stream is to end before its time."""


class CoreStream:
    """One core on its way: start(), then wait on wake_fd, call serve(), look at done and error until one is set.

    written: bytes that the sink has taken; spliced: those of them that were not copied on the way. error: what went
    wrong; the writer may then still be stuck in the sink, and done come later. The buffers and both threads are given
    back by close(), which may be called at any time; a writer that is stuck in the sink is then left to it.
    """

    def __init__(
        self,
        plan: DumpPlan,
        header: bytes | bytearray,
        reader: MemoryReader,
        fd: int,
        command: str = "",
        pipes: Pipes | None = None,
        digest: Digest | None = None,
        tags: TagReader | None = None,
        sizes: Sizes = SIZES,
    ) -> None:
        self.written = self.spliced = 0
        self.done = False
        self.error: BaseException | None = None
        self._plan = plan
        self._header = header
        self._reader = reader
        self._fd = fd
        self._command = command
        self._sizes = sizes
        self._buffers = [Buffer(sizes.chunk) for _ in range(sizes.buffers)]
        self._pipes = pipes if digest is None else None  # what is to be counted in must come by
        self._digest = digest
        self._tags = tags
        self._can_splice = True
        self._free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[Buffer | int, int] | None] = queue.SimpleQueue()
        self._empty: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._wanted: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.wake_fd, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for buffer in self._buffers:
            self._free.put(buffer)
        for slot in range(len(self._pipes.fds) if self._pipes is not None else 0):
            self._empty.put(slot)
        self._read_thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._write_thread = threading.Thread(target=self._write, name="writer", daemon=True)

    def start(self) -> None:
        """Start reading and writing. The threads leave SIGCHLD to the caller's, who waits for the snapshot by it."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            self._write_thread.start()
            self._read_thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def cancel(self) -> None:
        """Ask both threads to end; a writer inside a blocked write ends when its pipe breaks."""
        self._stop.set()
        self._free.put(None)
        self._full.put(None)
        self._empty.put(None)
        self._answers.put(None)

    def serve(self) -> bool:
        """Do what the stream asks of the caller's thread, once wake_fd is readable; False if that is nothing."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake_fd, 64):
                pass
        try:
            wanted = self._wanted.get_nowait()
        except queue.Empty:
            return False
        try:
            self._answers.put(wanted())
        except BaseException as error:
            self._answers.put(error)
        return True

    def _ask(self, what: Callable[[], T]) -> T | None:
        """Have something done by the thread that traces; None when the stream is cancelled."""
        self._wanted.put(what)
        self._wake()
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return cast("T | None", answer)

    def close(self, seconds: float = 0.0) -> bool:
        """End the threads; False when one is stuck and keeps its buffers until this process ends."""
        self.cancel()
        for thread in (self._read_thread, self._write_thread):
            if thread.ident is not None:
                thread.join(seconds)
        if self._read_thread.is_alive() or self._write_thread.is_alive():
            if self._pipes is not None:
                self._pipes.leak()
            return False
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()
        for fd in (self.wake_fd, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self.wake_fd = self._wake_write = -1
        return True

    def _fail(self, error: BaseException) -> None:
        first = self.error is None and not self._stop.is_set()
        if first:
            self.error = error
        self._stop.set()
        if first:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _read(self) -> None:
        direct, pipe_size = (self._pipes.ranges, self._pipes.size) if self._pipes is not None else (NOTHING, 0)
        try:
            for chunk in chunks(self._plan, self._sizes, direct, pipe_size):
                sent = self._send_pages(chunk) if chunk.direct else 0
                if sent < chunk.length:
                    for piece in rest_of(self._plan, chunk, sent, self._sizes) if chunk.direct else (chunk,):
                        self._read_chunk(piece)
            self._read_tags()
        except _Ended:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            self._full.put(None)

    def _read_chunk(self, chunk: Chunk) -> None:
        buffer = self._free.get()
        if buffer is None or self._stop.is_set():
            raise _Ended
        for offset, length in chunk.zeros:
            buffer.zero(offset, length)
        if chunk.ranges:
            self._reader.read(chunk.ranges, buffer, chunk.places)
        self._full.put((buffer, chunk.length))

    def _read_tags(self) -> None:
        tags = self._tags
        if tags is None:
            return
        for address, length in pieces(self._plan.tagged):
            data = self._ask(functools.partial(tags.read, address, length))
            buffer = self._free.get()
            if data is None or buffer is None or self._stop.is_set():
                return
            buffer.view[: len(data)] = data
            self._full.put((buffer, len(data)))

    def _send_pages(self, chunk: Chunk) -> int:
        """Have a chunk put into a pipe by the thread that may; return how many bytes went that way."""
        pipes = self._pipes
        if pipes is None or not pipes.usable:
            return 0
        slot = self._empty.get()
        if slot is None or self._stop.is_set():
            raise _Ended
        sent = self._ask(functools.partial(pipes.fill, slot, chunk.ranges))
        if not sent:
            self._empty.put(slot)
            return 0
        self._full.put((slot, sent))
        return sent

    def _write(self) -> None:
        try:
            self._write_bytes(memoryview(self._header))
            self._header = b""
            while (item := self._full.get()) is not None:
                if self._stop.is_set():
                    return
                source, length = item
                if isinstance(source, int):
                    self._pass_on(source, length)
                    self._empty.put(source)
                else:
                    self._write_bytes(source.view[:length])
                    self._free.put(source)
            if not self._stop.is_set():
                self._write_bytes(memoryview(self._plan.trailer()))
                if self.written != self._plan.total_bytes:
                    raise DumpFailedError(f"wrote {self.written} bytes where {self._plan.total_bytes} were planned")
        except OSError as error:
            self._fail(write_error(error, self._command))
        except BaseException as error:
            self._fail(error)
        finally:
            self.done = True
            self._free.put(None)
            self._empty.put(None)
            self._wake()

    def _pass_on(self, slot: int, length: int) -> None:
        """Move what a pipe holds into the sink, by copying it where the sink takes it in no other way (O_APPEND)."""
        assert self._pipes is not None
        fd = self._pipes.fds[slot]
        while length and self._can_splice:
            try:
                count = os.splice(fd, self._fd, length, flags=_SPLICE_MOVE)
            except BlockingIOError:
                select.select([], [self._fd], [])
                continue
            except OSError as error:
                if error.errno not in _NO_SPLICE:
                    raise
                self._can_splice = False
                break
            if not count:
                raise DumpFailedError("the snapshot's pipe ended before its time", "try again")
            self.written += count
            self.spliced += count
            length -= count
        while length:
            data = os.read(fd, min(length, self._sizes.chunk))
            if not data:
                raise DumpFailedError("the snapshot's pipe ended before its time", "try again")
            self._write_bytes(memoryview(data))
            length -= len(data)

    def _write_bytes(self, view: memoryview) -> None:
        if self._digest is not None:
            self._digest.update(view)
        while view:
            try:
                count = os.write(self._fd, view)
            except BlockingIOError:  # somebody made our standard output non-blocking
                select.select([], [self._fd], [])
                continue
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                raise
            self.written += count
            view = view[count:]


def raise_error(stream: CoreStream) -> None:
    """Raise what went wrong in the stream, if anything did."""
    error = stream.error
    if error is None:
        return
    if isinstance(error, (CorepipeError, MemoryError)):
        raise error
    raise DumpFailedError(f"the stream broke: {type(error).__name__}: {error}") from error
