"""One dump, watched from outside: the engine as a child process, its events, its CPU time and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WINDOW_SECONDS = 0.002
"""How far the engine's clock, guessed from when its events arrive, may be off."""


@dataclass(frozen=True)
class Engine:
    """Which engine is measured: a folder with corepipe_engine in it, and where its byte code goes."""

    folder: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        """Of a user who is no sudo's, with byte code kept as that of an installed engine is, whatever we are told."""
        dropped = ("SUDO_", "PYTHONDONTWRITEBYTECODE")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        return environment | {"PYTHONPATH": str(self.folder), "PYTHONPYCACHEPREFIX": str(self.cache)}

    def popen(self, arguments: Sequence[object], **options: Any) -> subprocess.Popen[bytes]:
        """Start corepipe in a session of its own."""
        words = [sys.executable, "-m", "corepipe_engine", *(str(argument) for argument in arguments)]
        settings = {"stdin": subprocess.DEVNULL, "env": self.environment(), "cwd": self.folder, **options}
        return subprocess.Popen(words, start_new_session=True, **settings)


@dataclass
class Dump:
    """What was seen of one dump. Times in CLOCK_MONOTONIC seconds, guessed to the better part of a millisecond."""

    status: int
    report: dict[str, Any]
    stopped: float = 0.0
    resumed: float = 0.0
    finished: float = 0.0
    stop_seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    stderr: str = ""

    @property
    def window(self) -> tuple[float, float]:
        """The time in which the target's gap must lie."""
        return self.stopped - _WINDOW_SECONDS, self.resumed + _WINDOW_SECONDS


def dump(engine: Engine, pid: int, *arguments: object, break_off: float | None = None, **options: Any) -> Dump:
    """Run corepipe. break_off: seconds after the target's resume at which the dump is interrupted, None for never."""
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as events, contextlib.ExitStack() as stack:
        try:
            process = engine.popen(
                (pid, "--events-fd", write_end, *arguments),
                pass_fds=(write_end,),
                stderr=subprocess.PIPE,
                **{"stdout": subprocess.DEVNULL, **options},
            )
        finally:
            os.close(write_end)
        stack.callback(_end, process)
        peak = stack.enter_context(_peak_memory(process.pid))
        result = _follow(process, events, break_off)
        assert process.stderr
        result.stderr = process.stderr.read().decode("utf-8", "replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = result.status = os.waitstatus_to_exitcode(status)
        result.cpu_seconds = usage.ru_utime + usage.ru_stime
        result.peak_bytes = peak[0]
    expected = (0,) if break_off is None else (0, 130)
    if result.status not in expected or not result.resumed:
        raise RuntimeError(f"corepipe {pid} ended with {result.status}: {result.stderr}")
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stderr:
        process.stderr.close()


def _follow(process: subprocess.Popen[bytes], events: Any, break_off: float | None) -> Dump:
    result = Dump(0, {})
    offset = float("inf")
    for line in events:
        arrived = time.monotonic()
        event = json.loads(line)
        if "at" in event:
            offset = min(offset, arrived - event["at"])
        if event["event"] == "stopped":
            result.stopped = event["at"]
        elif event["event"] == "resumed":
            result.resumed = event["at"]
            result.stop_seconds, result.steps = event["stop_seconds"], event["steps"]
            if break_off is not None:
                time.sleep(break_off)
                os.kill(process.pid, signal.SIGINT)  # send_signal() would take its exit status if it has ended
        elif event["event"] == "phasechanged" and event["phase"] == "finish":
            result.finished = event["at"]
        elif event["event"] == "finished":
            result.report = event["report"]
    for name in ("stopped", "resumed", "finished"):
        value = getattr(result, name)
        if value:
            setattr(result, name, value + offset)
    return result


@contextlib.contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Yield a list of one number, the VmHWM of a process so far; that of a child's rusage begins with its parent's."""
    found = [0]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        found[0] = max(found[0], int(line.split()[1]) << 10)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def to_record(value: Any) -> dict[str, Any]:
    """A dataclass as plain data."""
    return dataclasses.asdict(value)
