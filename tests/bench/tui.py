"""How quick the user interface is, in a real terminal, beside an empty Textual application: `tests/bench/run tui`.

A key's time is from the byte written to the terminal until the first byte of the new picture comes back.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from ..support.engine import environment
from . import machine

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BEGIN, END = "<!-- bench-tui:begin -->", "<!-- bench-tui:end -->"
PATIENCE_SECONDS = 120.0
KEYS = 40
_ESCAPES = re.compile(rb"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|.)")


class Terminal:
    """An application on a terminal of 120 x 36; all it has written is kept with its time."""

    def __init__(self, kind: str, count: int, folder: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        read_end, write_end = os.pipe()
        values = {**environment(), "TERM": "xterm-256color", "COLORTERM": "truecolor", "XDG_STATE_HOME": folder}
        command = f"exec {sys.executable} -m tests.bench.tui_apps {kind} {count} 3>&{write_end}"
        self.process = subprocess.Popen(
            ["bash", "-c", command],
            stdin=slave, stdout=slave, stderr=slave, pass_fds=(write_end,), cwd=REPOSITORY, env=values,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        os.close(write_end)
        self.seen = b""
        self.started = 0.0
        with os.fdopen(read_end, "rb") as clock:
            self.started = float(clock.readline())

    def read(self, seconds: float) -> float:
        """Take what comes within that time; return when it came, 0 if nothing did."""
        if not select.select([self.master], [], [], seconds)[0]:
            return 0.0
        at = time.monotonic()
        self.seen += os.read(self.master, 1 << 20)
        return at

    def quiet(self, seconds: float = 0.3) -> None:
        """Wait until nothing has come for that time; the details of the cursor's row come last."""
        until = time.monotonic() + 5.0
        while time.monotonic() < until and self.read(seconds):
            pass

    def send(self, keys: str) -> float:
        """Type; return when."""
        self.seen = b""
        at = time.monotonic()
        os.write(self.master, keys.encode())
        return at

    def until(self, text: str) -> float:
        """Return when a text was first on the terminal, escape sequences left out."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            at = self.read(1.0)
            if at and text.encode() in _ESCAPES.sub(b"", self.seen):
                return at
        raise TimeoutError(f"{text!r} does not come; seen: {_ESCAPES.sub(b'', self.seen)[-2000:]!r}")

    def key(self, keys: str, text: str = "") -> float:
        """Return the seconds from keys to what they bring; without a text, to whatever comes first."""
        at = self.send(keys)
        if text:
            return self.until(text) - at
        deadline = at + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            came = self.read(1.0)
            if came:
                return came - at
        raise TimeoutError(f"nothing comes after {keys!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@contextlib.contextmanager
def terminal(kind: str, count: int = 0) -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory() as folder:
        found = Terminal(kind, count, folder)
        try:
            yield found
        finally:
            found.close()


def _keys(found: Terminal, key: str = "j", pause: float = 0.05) -> dict[str, float]:
    """Return median and 95th percentile of a key's time in seconds."""
    times = []
    for _ in range(KEYS):
        times.append(found.key(key))
        end = time.monotonic() + pause
        while time.monotonic() < end:
            found.read(0.01)
    return {"median": statistics.median(times), "p95": statistics.quantiles(times, n=20)[-1]}


def _empty() -> dict[str, object]:
    with terminal("empty") as found:
        paint = found.until("empty and ready") - found.started
        found.quiet()
        return {"first": paint, "key": _keys(found)}


def _processes(kind: str, count: int, whole: str) -> dict[str, object]:
    with terminal(kind, count) as found:
        picture = found.until("COMMAND") - found.started
        rows = found.until("processes") - found.started
        complete = found.until(whole) - found.started if whole else rows
        found.quiet()
        keys = _keys(found)
        found.key("/", "filter")
        found.quiet()
        letters = statistics.median(found.key(letter, " of ") for letter in "499")
        return {"first": picture, "rows": rows, "all": complete, "key": keys, "filter": letters}


def _regions(count: int) -> dict[str, object]:
    with terminal("regions", count) as found:
        picture = found.until("pipe") - found.started
        listed = found.until(f"{count:,} regions") - found.started
        found.quiet()
        keys = _keys(found)
        toggle = _keys(found, " ")
        none, everything = found.key("n", f"0 of {count:,}"), found.key("a", f"{count:,} of {count:,}")
        found.quiet()
        found.key("/", "filter")
        found.quiet()
        letters = [found.key(letter, " shown") for letter in "6400"]
        found_one = statistics.median(letters)
        found.key("\x1b", f"{count:,} of")
        found.quiet()
        grouped = found.key("g", "anon")
        return {
            "first": picture, "list": listed, "key": keys, "toggle": toggle, "none": none, "all": everything,
            "filter": found_one, "group": grouped,
        }  # fmt: skip


@contextlib.contextmanager
def crowd(wanted: int) -> Iterator[int]:
    """As many sleeping processes as the machine bears; yields how many."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "crowd"
        subprocess.run(["gcc", "-O1", "-o", program, Path(__file__).with_name("crowd.c")], check=True)
        process = subprocess.Popen([program, str(wanted)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().split()[1])
        finally:
            process.communicate()


def measure(count: int, regions: int) -> dict[str, object]:
    record: dict[str, object] = {"machine": machine.describe(), "count": count, "regions_count": regions}
    record["empty"] = _empty()
    record["processes"] = _processes("processes", count, f"{count:,} of {count:,} processes")
    record["regions"] = _regions(regions)
    if shutil.which("gcc"):
        with crowd(count) as made:
            record["real_count"] = made
            record["real"] = _processes("real", 0, "")
    return record


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def table(record: dict[str, object]) -> str:
    """Return the figures as a table."""
    empty, processes, regions = (record[name] for name in ("empty", "processes", "regions"))
    assert isinstance(empty, dict)
    assert isinstance(processes, dict)
    assert isinstance(regions, dict)
    described = record["machine"]
    assert isinstance(described, dict)

    def keys(part: dict[str, dict[str, float]], name: str = "key") -> str:
        return f"{_ms(part[name]['median'])} ({_ms(part[name]['p95'])})"

    lines = [
        f"The user interface in a terminal of 120 x 36, milliseconds; {described['CPU']}, {described['cores']} cores, "
        f"load {described['load before']} before the run; made by `tests/bench/run tui`. A key: from the byte sent "
        "to the first byte of the new picture, median (95th percentile).",
        "",
        "| | first picture | list there | key to picture | a letter of the filter | toggle one | all out, all in |",
        "|---|---:|---:|---:|---:|---:|---:|",
        f"| an empty Textual application | {_ms(empty['first'])} | - | {keys(empty)} | - | - | - |",
        f"| {record['count']:,} processes (made up), refreshed every 2 s | {_ms(processes['first'])} "
        f"| {_ms(processes['all'])} | {keys(processes)} | {_ms(processes['filter'])} | - | - |",
    ]
    real = record.get("real")
    if isinstance(real, dict):
        lines.append(
            f"| the processes of this host and {record['real_count']:,} that sleep | {_ms(real['first'])} "
            f"| {_ms(real['rows'])} | {keys(real)} | {_ms(real['filter'])} | - | - |"
        )
    lines.append(
        f"| {record['regions_count']:,} regions | {_ms(regions['first'])} | {_ms(regions['list'])} | {keys(regions)} "
        f"| {_ms(regions['filter'])} | {keys(regions, 'toggle')} | {_ms(regions['none'])}, {_ms(regions['all'])} |"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/bench/run tui", allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=5000)
    parser.add_argument("--regions", type=int, default=65_000)
    parser.add_argument("--json", action="store_true", help="all figures, in seconds")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    record = measure(options.processes, options.regions)
    print(json.dumps(record, indent=1) if options.json else table(record))
    if options.readme:
        from .__main__ import put_between

        put_between(REPOSITORY / "README.md", BEGIN, END, table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
