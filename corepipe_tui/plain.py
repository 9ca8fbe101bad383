"""A dump without a terminal: plain lines on standard error, no escape sequence, nothing on standard output."""

from __future__ import annotations

import queue
import signal
import sys
import time
from types import FrameType

from corepipe_engine.errors import CorepipeError
from corepipe_engine.events import (
    Event,
    ModeChosen,
    Notice,
    Planned,
    Progress,
    Resumed,
    SinkStderr,
    Started,
    Stopped,
)
from corepipe_engine.procfs import ProcDir

from . import format as fmt
from .runner import DumpRequest, Ended, EngineRun, Outcome
from .sanitize import clean

_LINE_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def comm_of(pid: int) -> str:
    """Return the name of a process for {comm}; empty if there is none: the engine says so then."""
    try:
        folder = ProcDir(pid)
        try:
            return folder.stat().comm.decode("utf-8", "replace")
        finally:
            folder.close()
    except CorepipeError:
        return ""


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"corepipe-tui: {text}\n")
        sys.stderr.flush()
    except OSError:
        pass


def run_plain(request: DumpRequest) -> int:
    """Make the dump, telling about it line by line, and return its exit status."""
    items: queue.SimpleQueue[Event | Ended] = queue.SimpleQueue()
    outcome = Outcome()
    engine = EngineRun(request, items.put)

    def forward(number: int, frame: FrameType | None) -> None:
        engine.abort()

    old = {number: signal.signal(number, forward) for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    try:
        teller = _Teller()
        while True:
            item = items.get()
            outcome.take(item)
            if isinstance(item, Ended):
                break
            teller.tell(item)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    tell_end(outcome)
    return outcome.exit_code


class _Teller:
    """Turns events into lines; of the progress no more than one a second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._began: float | None = None
        self._rest = ""

    def tell(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, SinkStderr):
            self._sink(event.text)
        else:
            text = _words(event)
            if text:
                _say(text)

    def _progress(self, event: Progress) -> None:
        if self._began is None:
            self._began = event.at
        now = time.monotonic()
        done = event.bytes_written == event.bytes_planned
        if now - self._last < _LINE_SECONDS and not done:
            return
        self._last = now
        share = 100 * event.bytes_written // max(event.bytes_planned, 1)
        sizes = f"{fmt.exact_size(event.bytes_written)} of {fmt.exact_size(event.bytes_planned)}"
        _say(f"{share:3d} %  {sizes}  {fmt.rate(event.bytes_written, event.at - self._began)}")

    def _sink(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).replace("\r", "\n").split("\n")
        for line in lines:
            if line:
                _say(f"pipe: {clean(line)}")


def _words(event: Event) -> str:
    if isinstance(event, Started):
        return f"process {event.pid} ({clean(event.comm)})"
    if isinstance(event, Stopped):
        return "the target stands still"
    if isinstance(event, Resumed):
        return f"the target runs again after {event.stop_seconds:.3f} s"
    if isinstance(event, ModeChosen):
        return clean("; ".join([*event.fallbacks, f"mode {event.mode}: {event.why}"]))
    if isinstance(event, Planned):
        return f"core of {fmt.count(event.core_bytes)} bytes, {event.regions_included} of {event.regions} regions"
    if isinstance(event, Notice):
        return clean(event.text)
    return ""


def tell_end(outcome: Outcome) -> None:
    """Say in a line or two how a dump ended."""
    if outcome.error:
        _say(clean(outcome.error))
        if outcome.hint:
            _say(f"  try: {clean(outcome.hint)}")
        return
    report = outcome.report
    seconds = float(str(report.get("stop_seconds") or 0))
    written = int(str(report.get("bytes_written") or 0))
    _say(
        f"done: {fmt.count(written)} bytes ({fmt.exact_size(written)}); "
        f"{clean(str(report.get('comm', '')))} stood still for {seconds:.3f} s (mode {report.get('mode')})"
    )
    unreadable = int(str(report.get("unreadable_bytes") or 0))
    if unreadable:
        _say(f"{fmt.exact_size(unreadable)} could not be read and are zeros in the core")
