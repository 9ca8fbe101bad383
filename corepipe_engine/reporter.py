"""Events on their way to people (standard error) and programs (`--events-fd`).

A thread of its own writes: a terminal held by Ctrl+S or a user interface that hangs must never hold up a frozen target.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time

from .events import (
    Event,
    Failed,
    Finished,
    ModeChosen,
    Notice,
    PhaseChanged,
    Planned,
    Progress,
    Resumed,
    SinkStderr,
    Stopped,
    to_json,
)

_CLOSE_SECONDS = 2.0
_BACKLOG = 64
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float) -> str:
    """Return a size for people: 1.5 GiB."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError


def format_rate(count: float, seconds: float) -> str:
    """Return bytes a second for people."""
    return f"{format_bytes(count / seconds)}/s" if seconds > 0 else "-"


def printable(text: str) -> str:
    """Return text of foreign origin that can do no harm on a terminal: control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


class Console:
    """Turns events into lines on a file descriptor, with a progress line where that is a terminal."""

    def __init__(self, fd: int, verbosity: int) -> None:
        self._fd = fd
        self._verbosity = verbosity
        self._terminal = os.isatty(fd)
        self._progress_shown = False
        self._stream_started = 0.0

    def show(self, event: Event) -> None:
        """Write what the event is worth at this verbosity: -1 only errors, 0 what matters, 1 everything."""
        if isinstance(event, Progress):
            self._progress(event)
            return
        text = self._text(event)
        if text:
            self._clear()
            self._write(text)

    def _text(self, event: Event) -> str:
        quiet, verbose = self._verbosity < 0, self._verbosity > 0
        if isinstance(event, SinkStderr):
            return printable(event.text)
        if isinstance(event, Failed):
            hint = f"  try: {printable(event.hint)}\n" if event.hint else ""
            return f"corepipe: {printable(event.message)}\n{hint}"
        if quiet:
            return ""
        if isinstance(event, Notice):
            return f"corepipe: {printable(event.text)}\n"
        if isinstance(event, ModeChosen):
            lines = [f"corepipe: {printable(line)}\n" for line in event.fallbacks]
            if verbose or event.fallbacks:
                lines.append(f"corepipe: mode {event.mode}: {event.why}\n")
            return "".join(lines)
        if isinstance(event, Finished) and event.exit_code in (0, 6):
            return summary(event.report)
        if not verbose:
            return ""
        if isinstance(event, Finished):
            return printable(str(event.report.get("traceback", "")))
        if isinstance(event, PhaseChanged):
            return f"corepipe: {event.at:8.3f} s  {event.phase}\n"
        if isinstance(event, Planned):
            size = format_bytes(event.core_bytes)
            return (
                f"corepipe: core of {event.core_bytes} bytes ({size}), {event.segments} segments, "
                f"{event.regions_included} of {event.regions} regions, {event.threads} threads\n"
            )
        if isinstance(event, Resumed):
            steps = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in event.steps.items())
            return f"corepipe: stopped for {event.stop_seconds:.4f} s (ms: {steps})\n"
        if isinstance(event, Stopped):
            return ""
        return ""

    def _progress(self, event: Progress) -> None:
        if not self._terminal or self._verbosity < 0:
            return
        self._stream_started = self._stream_started or event.at
        seconds = event.at - self._stream_started
        share = 100 * event.bytes_written // max(event.bytes_planned, 1)
        left = ""
        if event.bytes_written and seconds > 1:
            remaining = (event.bytes_planned - event.bytes_written) * seconds / event.bytes_written
            left = f", {remaining:.0f} s left"
        sizes = f"{format_bytes(event.bytes_written)} of {format_bytes(event.bytes_planned)}"
        self._write(f"\r\x1b[Kcorepipe: {share:3d} %  {sizes}, {format_rate(event.bytes_written, seconds)}{left}")
        self._progress_shown = True

    def _clear(self) -> None:
        if self._progress_shown:
            self._write("\r\x1b[K")
            self._progress_shown = False

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]


def summary(report: dict[str, object]) -> str:
    """Return the closing lines for a dump that reached its end."""
    written, seconds = int(str(report["bytes_written"])), float(str(report["stream_seconds"] or 0))
    lines = [
        f"corepipe: process {report['pid']} ({printable(str(report['comm']))}) stood still for "
        f"{float(str(report['stop_seconds'] or 0)):.3f} s ({report['mode']}); "
        f"{format_bytes(written)} in {seconds:.1f} s ({format_rate(written, seconds)}); "
        f"{report['regions_included']} of {report['regions']} regions, {report['threads']} threads\n"
    ]
    if report["sha256"]:
        lines.append(f"corepipe: SHA-256 of the core {report['sha256']}\n")
    unreadable = int(str(report["unreadable_bytes"]))
    if unreadable:
        lines.append(
            f"corepipe: {format_bytes(unreadable)} could not be read and are zeros in the core (see --report)\n"
        )
    live = report["shared_live"]
    if isinstance(live, (list, tuple)) and live:
        size = sum(int(length) for _, length in live)
        lines.append(f"corepipe: {format_bytes(size)} of shared memory were read while the target ran\n")
    return "".join(lines)


class Reporter:
    """Takes events from the dump and never makes it wait.

    events_fd: where JSON lines go, -1 for nowhere. reader_gone is set when nobody reads them any more.
    """

    def __init__(self, console: Console | None, events_fd: int = -1) -> None:
        self.started = time.monotonic()
        self.reader_gone = False
        self.events_fd = events_fd
        self._console = console
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        # A SIGCHLD that this thread took would be lost to the one that waits for the target's threads to stop; a
        # SIGTSTP, SIGTTIN or SIGTTOU would stop all of us, and the target would stand still until we go on.
        old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    def now(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.started

    def emit(self, event: Event) -> None:
        """Pass an event on; returns at once. Progress is dropped while the reader is behind."""
        if isinstance(event, Progress) and self._queue.qsize() > _BACKLOG:
            return
        self._queue.put(event)

    def close(self) -> None:
        """Wait a little until all is written; what a stuck reader did not take by then is lost."""
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            self._write_json(event)
            if self._console is not None:
                self._console.show(event)

    def _write_json(self, event: Event) -> None:
        if self.events_fd < 0 or self.reader_gone:
            return
        data = (to_json(event) + "\n").encode("ascii")
        try:
            while data:
                data = data[os.write(self.events_fd, data) :]
        except OSError:
            self.reader_gone = True
