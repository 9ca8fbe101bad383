"""The forward-only writer: a reader thread fills a few buffers, a writer thread empties them, the caller watches.

Nothing seeks; every byte is counted. The caller's thread stays free for the stop clock, signals and the sink's end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import CorepipeError, DumpFailedError
from .memory import Buffer, MemoryReader
from .plan import DumpPlan
from .sink import write_error

BUFFER_BYTES = 1 << 20
BUFFERS = 4
_MAX_RANGES = 1024
"""Ranges in one buffer: as many as process_vm_readv takes in one call."""


@dataclass(slots=True)
class Chunk:
    """What goes into one buffer: length bytes, of which ranges (address, length) go to places (offset, length)."""

    length: int = 0
    ranges: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    zeros: list[tuple[int, int]] = field(default_factory=list)


def chunks(plan: DumpPlan, size: int) -> Iterator[Chunk]:
    """Yield the segment data of a plan, cut into chunks of size bytes at the most."""
    chunk = Chunk()
    for address, length in _pieces(plan):
        done = 0
        while done < length:
            if chunk.length == size or len(chunk.ranges) >= 2 * _MAX_RANGES:
                yield chunk
                chunk = Chunk()
            step = min(length - done, size - chunk.length)
            if address is None:
                chunk.zeros.append((chunk.length, step))
            else:
                chunk.ranges.extend((address + done, step))
                chunk.places.extend((chunk.length, step))
            chunk.length += step
            done += step
    if chunk.length:
        yield chunk


def _pieces(plan: DumpPlan) -> Iterator[tuple[int | None, int]]:
    """Yield (address, length) to read and (None, length) of zeros, in the order of the file."""
    reads, index = plan.reads, 0
    for start, file_size in zip(plan.starts, plan.file_sizes, strict=True):
        position, end = start, start + file_size
        while index < len(reads) and reads[index] < end:
            address, length = reads[index], reads[index + 1]
            if address > position:
                yield None, address - position
            yield address, length
            position = address + length
            index += 2
        if position < end:
            yield None, end - position


class CoreStream:
    """One core on its way: start(), then wait on wake_fd and look at written, done and error until one of these is set.

    written: bytes that the sink has taken. error: what went wrong; the writer may then still be stuck in the sink, and
    done come later. The buffers and both threads are given back by close(), which may be called at any time; a writer
    that is stuck in the sink is then left to it.
    """

    def __init__(self, plan: DumpPlan, header: bytes, reader: MemoryReader, fd: int, command: str = "") -> None:
        self.written = 0
        self.done = False
        self.error: BaseException | None = None
        self._plan = plan
        self._header = header
        self._reader = reader
        self._fd = fd
        self._command = command
        self._buffers = [Buffer(BUFFER_BYTES) for _ in range(BUFFERS)]
        self._free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[Buffer, int] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.wake_fd, self._wake_write = os.pipe()
        for buffer in self._buffers:
            self._free.put(buffer)
        self._read_thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._write_thread = threading.Thread(target=self._write, name="writer", daemon=True)

    def start(self) -> None:
        """Start reading and writing."""
        self._write_thread.start()
        self._read_thread.start()

    def cancel(self) -> None:
        """Ask both threads to end; a writer inside a blocked write ends when its pipe breaks."""
        self._stop.set()
        self._free.put(None)
        self._full.put(None)

    def close(self, seconds: float = 0.0) -> bool:
        """End the threads; False when one is stuck and keeps its buffers until this process ends."""
        self.cancel()
        for thread in (self._read_thread, self._write_thread):
            if thread.ident is not None:
                thread.join(seconds)
        if self._read_thread.is_alive() or self._write_thread.is_alive():
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
        try:
            for chunk in chunks(self._plan, BUFFER_BYTES):
                buffer = self._free.get()
                if buffer is None or self._stop.is_set():
                    return
                for offset, length in chunk.zeros:
                    buffer.zero(offset, length)
                if chunk.ranges:
                    self._reader.read(chunk.ranges, buffer, chunk.places)
                self._full.put((buffer, chunk.length))
        except BaseException as error:
            self._fail(error)
        finally:
            self._full.put(None)

    def _write(self) -> None:
        try:
            self._write_bytes(memoryview(self._header))
            while (item := self._full.get()) is not None:
                if self._stop.is_set():
                    return
                buffer, length = item
                self._write_bytes(buffer.view[:length])
                self._free.put(buffer)
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
            self._wake()

    def _write_bytes(self, view: memoryview) -> None:
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
