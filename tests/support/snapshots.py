"""A snapshot that is being streamed into a pipe which the test reads when it likes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import proc
from .cores import Core
from .engine import ENGINE_SECONDS, corepipe_started
from .waiting import eventually


def traced_by(tracer: int) -> set[int]:
    """Pids of all processes whose first thread that process traces."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, KeyError):
                if int(proc.status_field(int(name), "TracerPid")) == tracer:
                    found.add(int(name))
    return found


@dataclass
class Streaming:
    """The engine at work. snapshot: pid of the copy. Nobody has read anything yet."""

    engine: subprocess.Popen[bytes]
    snapshot: int
    read_end: int

    def read_core(self, path: Path, begin: bytes = b"") -> Core:
        """Read the rest of the stream, of which begin was read already; the engine must end well."""
        with path.open("wb") as file:
            file.write(begin)
            while piece := os.read(self.read_end, 1 << 20):
                file.write(piece)
        assert self.engine.wait(ENGINE_SECONDS) == 0, self.errors()
        return Core(path)

    def errors(self) -> str:
        """What the engine printed; it has ended."""
        self.engine.wait(ENGINE_SECONDS)
        assert self.engine.stderr is not None
        return self.engine.stderr.read().decode("utf-8", "replace")


@contextlib.contextmanager
def streaming(pid: int, *arguments: object) -> Iterator[Streaming]:
    """Start a snapshot of a process with a core of many MiB; the process runs again when the body begins."""
    read_end, write_end = os.pipe()
    try:
        with corepipe_started(
            pid, "-q", "--mode", "snapshot", *arguments, stdout=write_end, stderr=subprocess.PIPE
        ) as engine:
            os.close(write_end)

            def snapshot() -> set[int]:
                assert engine.poll() is None, engine.stderr.read().decode()
                return traced_by(engine.pid) - {pid}

            eventually("there is a snapshot", snapshot)
            eventually("the target runs again", lambda: not proc.tracers(pid))
            (copy,) = snapshot()
            yield Streaming(engine, copy, read_end)
    finally:
        os.close(read_end)


@contextlib.contextmanager
def never_seen_in(pid: int, states: str) -> Iterator[None]:
    """Look at all threads of a process again and again; at the end none was ever in one of these states."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.update(proc.thread_states(pid).values())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not seen & set(states), f"a thread of {pid} was in state {seen & set(states)}"
