"""The processes of this host as rows of a list. Sampling walks /proc and belongs into a worker thread."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import psutil

from corepipe_engine.errors import CorepipeError
from corepipe_engine.inspection import rough_estimate
from corepipe_engine.permissions import refusal
from corepipe_engine.procfs import ProcDir, TaskStat

from .sanitize import clean

_PATIENCE_SECONDS = 0.2
"""A first list that takes longer is shown in parts."""
_TICKS = os.sysconf("SC_CLK_TCK")
_CONTAINER_ID = re.compile(r"(?:^|[/:-])([0-9a-f]{12})[0-9a-f]{52}(?:\.scope|/|$)")
_CONTAINER_NAME = re.compile(
    r"/(?:lxc\.payload[./]|lxc/|machine\.slice/(?:machine-|systemd-nspawn@))([^/]+?)(?:\.scope|\.service)?(?:/|$)"
)
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk sleep",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "I": "idle",
    "X": "dead",
}


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process. All text is clean; sizes in bytes, times in seconds; started is seconds since the epoch.

    core_bytes and stop_seconds are rough estimates. refusal and hint tell why it cannot be dumped, empty if it can.
    cpu_percent is of one processor since the sample before.
    """

    pid: int
    ppid: int
    user: str
    name: str
    command: str
    state: str
    threads: int
    rss: int
    swap: int
    core_bytes: int
    stop_seconds: float
    cpu_percent: float
    cpu_seconds: float
    started: float
    container: str = ""
    kernel: bool = False
    refusal: str = ""
    hint: str = ""

    @property
    def state_word(self) -> str:
        """State in a word."""
        return _STATES.get(self.state, self.state)


class ProcessProvider(Protocol):
    """Where the list comes from; tests bring their own."""

    def sample(self, partly: Callable[[list[ProcessRow]], None] | None = None) -> list[ProcessRow]:
        """Return all processes now. Called in a worker thread, one call at a time.

        partly, if given, may be called with a part of them when reading them all takes long.
        """

    def details(self, pid: int) -> ProcessDetails:
        """Return details of one process. Called in a worker thread. Errors: CorepipeError."""


@dataclass(slots=True)
class _Known:
    """What does not change while a process lives, but for exec, which changes comm."""

    comm: bytes
    start_ticks: int
    user: str
    command: str
    started: float
    container: str
    cpu_ticks: int = 0
    sampled: float = 0.0


class HostProcesses:
    """The processes of this host: psutil finds them and their owners, /proc/PID/status and stat tell the rest."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def sample(self, partly: Callable[[list[ProcessRow]], None] | None = None) -> list[ProcessRow]:
        """See ProcessProvider.sample. A process that ends meanwhile is left out."""
        rows: list[ProcessRow] = []
        pids = psutil.pids()
        due = time.monotonic() + _PATIENCE_SECONDS
        for pid in pids:
            with contextlib.suppress(CorepipeError, psutil.Error, OSError, ValueError):
                rows.append(self._row(pid))
            if partly is not None and time.monotonic() > due:
                partly(list(rows))
                due = time.monotonic() + 3 * _PATIENCE_SECONDS
        for gone in self._known.keys() - set(pids):
            del self._known[gone]
        return rows

    def details(self, pid: int) -> ProcessDetails:
        """See ProcessProvider.details."""
        return read_details(pid)

    def _row(self, pid: int) -> ProcessRow:
        folder = ProcDir(pid)
        try:
            stat, status = folder.stat(), folder.status()
            known = self._look_up(folder, stat)
        finally:
            folder.close()
        now, ticks = time.monotonic(), stat.utime_ticks + stat.stime_ticks
        elapsed = now - known.sampled
        cpu = 100.0 * (ticks - known.cpu_ticks) / _TICKS / elapsed if known.sampled and elapsed > 0 else 0.0
        known.cpu_ticks, known.sampled = ticks, now
        error = refusal(pid, status)
        core_bytes, stop_seconds = rough_estimate(status) if error is None else (0, 0.0)
        return ProcessRow(
            pid=pid,
            ppid=stat.ppid,
            user=known.user,
            name=clean(stat.comm),
            command=known.command,
            state=stat.state,
            threads=status.threads,
            rss=status.vm_rss,
            swap=status.vm_swap,
            core_bytes=core_bytes,
            stop_seconds=stop_seconds,
            cpu_percent=cpu,
            cpu_seconds=ticks / _TICKS,
            started=known.started,
            container=known.container,
            kernel=status.kernel_thread,
            refusal=clean(error.message) if error else "",
            hint=clean(error.hint) if error else "",
        )

    def _look_up(self, folder: ProcDir, stat: TaskStat) -> _Known:
        known = self._known.get(stat.pid)
        if known is not None and known.start_ticks == stat.start_time_ticks and known.comm == stat.comm:
            return known
        process = psutil.Process(stat.pid)
        command = folder.read("cmdline").rstrip(b"\0").replace(b"\0", b" ")
        known = _Known(
            comm=stat.comm,
            start_ticks=stat.start_time_ticks,
            user=clean(process.username()),
            command=clean(command) if command else f"[{clean(stat.comm)}]",
            started=process.create_time(),
            container=container_of(folder.read("cgroup").decode("utf-8", "replace")),
        )
        self._known[stat.pid] = known
        return known


def container_of(cgroups: str) -> str:
    """Return the short id or the name of the container that a /proc/PID/cgroup file speaks of, empty for none."""
    for line in cgroups.splitlines():
        path = line.split(":", 2)[-1]
        match = _CONTAINER_ID.search(path) or _CONTAINER_NAME.search(path)
        if match:
            return clean(match[1])
    return ""


@dataclass(frozen=True, slots=True)
class ProcessDetails:
    """What the details panel adds to a row; texts are clean."""

    exe: str
    cwd: str
    cgroup: str
    memory: tuple[tuple[str, int], ...]
    seccomp: bool
    tracer: str = ""


def read_details(pid: int) -> ProcessDetails:
    """Return details of one process. Errors: CorepipeError. Belongs into a worker thread."""
    folder = ProcDir(pid)
    try:
        status = folder.status()
        file_backed = max(status.vm_rss - status.rss_anonymous - status.rss_shmem, 0)
        cgroup = folder.read("cgroup").decode("utf-8", "replace").strip().splitlines()
        return ProcessDetails(
            exe=clean(folder.readlink("exe")),
            cwd=clean(folder.readlink("cwd")),
            cgroup=clean(cgroup[-1].split(":", 2)[-1]) if cgroup else "",
            memory=(
                ("anonymous", status.rss_anonymous),
                ("shared", status.rss_shmem),
                ("files", file_backed),
                ("swap", status.vm_swap),
                ("page tables", status.vm_pte),
            ),
            seccomp=status.seccomp != 0,
            tracer=_name_of(status.tracer_pid) if status.tracer_pid else "",
        )
    finally:
        folder.close()


def _name_of(pid: int) -> str:
    """Return a process as "gdb (4711)"; the number alone if it is not to be seen."""
    try:
        folder = ProcDir(pid)
        try:
            return f"{clean(folder.stat().comm)} ({pid})"
        finally:
            folder.close()
    except CorepipeError:
        return str(pid)


SORT_KEYS: dict[str, tuple[Callable[[ProcessRow], object], bool]] = {
    "pid": (lambda row: row.pid, False),
    "user": (lambda row: row.user, False),
    "rss": (lambda row: row.rss, True),
    "swap": (lambda row: row.swap, True),
    "core": (lambda row: row.core_bytes, True),
    "stop": (lambda row: row.stop_seconds, True),
    "threads": (lambda row: row.threads, True),
    "cpu": (lambda row: row.cpu_percent, True),
    "state": (lambda row: row.state, False),
    "uptime": (lambda row: -row.started, True),
    "time": (lambda row: row.cpu_seconds, True),
    "container": (lambda row: row.container, True),
    "command": (lambda row: row.command, False),
}
"""Column -> (what it sorts by, descending at first)."""


def matches(row: ProcessRow, words: Iterable[tuple[bool, str]]) -> bool:
    """Return whether a row holds every word, and none of the inverted ones (True, word); words are in lower case."""
    text = f"{row.pid} {row.user} {row.name} {row.container} {row.command}".lower()
    return all((word in text) is not inverted for inverted, word in words)


def as_tree(rows: Iterable[ProcessRow]) -> list[tuple[ProcessRow, str]]:
    """Return rows in tree order with the lines that draw the tree; the order among siblings is that of rows."""
    rows = list(rows)
    present = {row.pid for row in rows}
    children: dict[int, list[ProcessRow]] = {}
    for row in rows:
        children.setdefault(row.ppid if row.ppid in present and row.ppid != row.pid else -1, []).append(row)
    result: list[tuple[ProcessRow, str]] = []
    stack = [(row, "", "", "") for row in reversed(children.get(-1, []))]
    while stack:
        row, before, branch, below = stack.pop()
        result.append((row, before + branch))
        kids = children.get(row.pid, [])
        for index in range(len(kids) - 1, -1, -1):
            last = index == len(kids) - 1
            stack.append((kids[index], before + below, "└─ " if last else "├─ ", "   " if last else "│  "))
    return result
