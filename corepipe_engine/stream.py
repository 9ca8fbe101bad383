"""The forward-only writer: a reader thread fills a few buffers, a writer thread empties them, the caller watches.

Nothing seeks; every byte is counted. The caller's thread stays free for the stop clock, signals and the sink's end.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import functools
import os
import queue
import select
import signal
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, cast

from .errors import CorepipeError, DumpFailedError
from .memory import Buffer, MemoryReader
from .plan import DumpPlan
from .sink import write_error
from .tags import TagReader, pieces

T = TypeVar("T")
BUFFER_BYTES = 1 << 20
BUFFERS = 4
_NOTHING: array[int] = array("Q")
_MAX_RANGES = 1024
"""Ranges in one buffer: as many as process_vm_readv takes in one call."""
_MIN_DIRECT = 128 << 10
"""Bytes in one piece from which on it pays to let the snapshot send its pages itself."""
_MAX_GAP = 1 << 20
"""Bytes of zeros that such a piece may have inside: the kernel makes page tables for them in the snapshot."""
_SPLICE_MOVE = 1
_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(slots=True)
class Chunk:
    """What goes into one buffer: length bytes, of which ranges (address, length) go to places (offset, length).

    direct: it may go by way of a pipe that the snapshot fills; its ranges then hold the gaps between reads as well.
    """

    length: int = 0
    ranges: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    zeros: list[tuple[int, int]] = field(default_factory=list)
    direct: bool = False

    def add(self, address: int, length: int, zeros: bool) -> None:
        """Append bytes to be read, or zeros."""
        if zeros:
            self.zeros.append((self.length, length))
        else:
            self.ranges.extend((address, length))
            self.places.extend((self.length, length))
        self.length += length


class _Piece(NamedTuple):
    """Bytes of one segment: to be read, or zeros; direct: of memory that the snapshot can send."""

    address: int
    length: int
    zeros: bool = False
    direct: bool = False


def chunks(plan: DumpPlan, size: int, direct: array[int] = _NOTHING) -> Iterator[Chunk]:
    """Yield the segment data of a plan, cut into chunks of size bytes at the most.

    direct: ranges (start, end, ...), ascending, that the snapshot can send itself.
    """
    chunk = Chunk()
    for piece in _long_pieces(plan, direct) if direct else _pieces(plan):
        if piece.direct is not chunk.direct and chunk.length:
            yield chunk
            chunk = Chunk()
        chunk.direct = piece.direct
        done = 0
        while done < piece.length:
            if chunk.length == size or len(chunk.ranges) >= 2 * _MAX_RANGES:
                yield chunk
                chunk = Chunk(direct=piece.direct)
            step = min(piece.length - done, size - chunk.length)
            chunk.add(piece.address + done, step, piece.zeros)
            done += step
    if chunk.length:
        yield chunk


def _pieces(plan: DumpPlan) -> Iterator[_Piece]:
    """Yield what is to be read and the zeros in between, in the order of the file."""
    reads, index = plan.reads, 0
    for start, file_size in zip(plan.starts, plan.file_sizes, strict=True):
        position, end = start, start + file_size
        while index < len(reads) and reads[index] < end:
            address, length = reads[index], reads[index + 1]
            if address > position:
                yield _Piece(position, address - position, zeros=True)
            yield _Piece(address, length)
            position = address + length
            index += 2
        if position < end:
            yield _Piece(position, end - position, zeros=True)


def _long_pieces(plan: DumpPlan, direct: array[int]) -> Iterator[_Piece]:
    """As _pieces; neighbours inside direct ranges become one direct piece where they are long enough together."""
    held: list[_Piece] = []
    held_bytes = 0
    for piece, inside in _cut(_pieces(plan), direct):
        if piece.zeros and piece.length > _MAX_GAP:
            inside = False
        if held and not (inside and held[-1].address + held[-1].length == piece.address):
            yield from held
            held, held_bytes = [], 0
        if not inside:
            yield piece
            continue
        held_bytes += piece.length
        if held_bytes < _MIN_DIRECT:
            held.append(piece)
        else:
            first = held[0] if held else piece
            held = [_Piece(first.address, held_bytes, direct=True)]
    yield from held


def _cut(pieces: Iterator[_Piece], ranges: array[int]) -> Iterator[tuple[_Piece, bool]]:
    """Yield the pieces, cut where ranges (start, end, ...) begin and end, and whether they lie inside one."""
    for piece in pieces:
        address, end = piece.address, piece.address + piece.length
        index = bisect.bisect_right(ranges, address)
        while address < end:
            border = min(ranges[index], end) if index < len(ranges) else end
            yield _Piece(address, border - address, piece.zeros), bool(index % 2)
            address, index = border, index + 1


def _to_be_read(plan: DumpPlan, chunk: Chunk, sent: int) -> Chunk:
    """Return what is left of a direct chunk behind its first bytes, with the gaps between the reads as zeros."""
    reads, rest = plan.reads, Chunk()
    for index in range(0, len(chunk.ranges), 2):
        begin, end = chunk.ranges[index], chunk.ranges[index] + chunk.ranges[index + 1]
        skipped = min(sent, end - begin)
        sent -= skipped
        begin += skipped
        at = bisect.bisect_right(range(0, len(reads), 2), begin, key=reads.__getitem__) - 1
        at = 2 * max(at, 0)
        while begin < end:
            while at < len(reads) and reads[at] + reads[at + 1] <= begin:
                at += 2
            start, stop = (reads[at], reads[at] + reads[at + 1]) if at < len(reads) else (end, end)
            if begin < start:
                border = min(start, end)
                rest.add(begin, border - begin, zeros=True)
            else:
                border = min(stop, end)
                rest.add(begin, border - begin, zeros=False)
            begin = border
    return rest


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
    ) -> None:
        self.written = self.spliced = 0
        self.done = False
        self.error: BaseException | None = None
        self._plan = plan
        self._header = header
        self._reader = reader
        self._fd = fd
        self._command = command
        self._buffers = [Buffer(BUFFER_BYTES) for _ in range(BUFFERS)]
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
        pipes = self._pipes
        try:
            for chunk in chunks(self._plan, BUFFER_BYTES, pipes.ranges if pipes is not None else _NOTHING):
                if chunk.direct:
                    sent = self._send_pages(chunk)
                    if sent == chunk.length:
                        continue
                    chunk = _to_be_read(self._plan, chunk, sent)
                buffer = self._free.get()
                if buffer is None or self._stop.is_set():
                    return
                for offset, length in chunk.zeros:
                    buffer.zero(offset, length)
                if chunk.ranges:
                    self._reader.read(chunk.ranges, buffer, chunk.places)
                self._full.put((buffer, chunk.length))
            self._read_tags()
        except BaseException as error:
            self._fail(error)
        finally:
            self._full.put(None)

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
        if pipes is None or not pipes.usable or chunk.length > pipes.size:
            return 0
        slot = self._empty.get()
        if slot is None or self._stop.is_set():
            return 0
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
            data = os.read(fd, min(length, BUFFER_BYTES))
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
