"""What stands at the two ends of a stream in the pure tests: a reader of its pipe, and the thread that serves it."""

from __future__ import annotations

import os
import select
import threading
import time

from corepipe_engine.stream import CoreStream

PATIENCE_SECONDS = 60.0


class Reader:
    """Reads a pipe to its end in a thread."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self._received: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while data := os.read(self.read_fd, 65536):
            self._received.append(data)
        os.close(self.read_fd)

    def content(self) -> bytes:
        os.close(self.write_fd)
        self._thread.join(PATIENCE_SECONDS)
        return b"".join(self._received)


def run(stream: CoreStream) -> None:
    """What the caller's thread does meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not stream.done and stream.error is None:
        assert time.monotonic() < deadline, "the stream hangs"
        select.select([stream.wake_fd], [], [], PATIENCE_SECONDS)
        stream.serve()
