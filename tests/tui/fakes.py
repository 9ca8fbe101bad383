"""A list of processes and an engine that exist only in the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from corepipe_engine.errors import NoSuchProcessError
from corepipe_engine.events import (
    Event,
    Failed,
    Finished,
    ModeChosen,
    Phase,
    PhaseChanged,
    Planned,
    Progress,
    Resumed,
    Started,
    Stopped,
)
from corepipe_engine.report import Report
from corepipe_tui.processes import ProcessDetails, ProcessRow
from corepipe_tui.runner import DumpRequest, Ended
from corepipe_tui.sanitize import clean

FIRST_PID = 5_000_001
"""Above what the kernel allows: no such process can exist."""

HOSTILE = (
    b"[/tmp]",
    b"[heap]",
    b"[bold red]x[/]",
    b"\x1b[2J\x1b]0;owned\x07",
    b"two\nlines\r\ttab",
    b"A" * 100_000,
    "\u202egnp.exe\u202c\u200b".encode(),
    b"\xff\xfe\x80bad",
    b"'; touch /tmp/owned; echo '",
)


def row(index: int, **fields: object) -> ProcessRow:
    """A row; what is not given follows from the index. Texts are cleaned as the real provider does."""
    values: dict[str, object] = {
        "pid": FIRST_PID + index,
        "ppid": 1,
        "user": "root",
        "name": f"name{index}",
        "command": f"/usr/bin/name{index} --serve",
        "state": "S",
        "threads": 1 + index,
        "rss": (1000 - index) << 20,
        "swap": 0,
        "core_bytes": (900 - index) << 20,
        "stop_seconds": 0.01,
        "cpu_percent": float(index * 7 % 50),
        "cpu_seconds": float(index * 13 % 70),
        "started": time.time() - 3600 - index,
    }
    values.update(fields)
    for name in ("name", "command", "user"):
        values[name] = clean(values[name])  # type: ignore[arg-type]
    return ProcessRow(**values)  # type: ignore[arg-type]


class FakeProcesses:
    """A ProcessProvider; rows may be changed at any time."""

    def __init__(self, rows: Sequence[ProcessRow] = ()) -> None:
        self.rows = list(rows) or [row(index) for index in range(8)]
        self.samples = 0
        self.known_details: dict[int, ProcessDetails] = {}

    def sample(self, partly: Callable[[list[ProcessRow]], None] | None = None) -> list[ProcessRow]:
        self.samples += 1
        return list(self.rows)

    def details(self, pid: int) -> ProcessDetails:
        if pid in self.known_details:
            return self.known_details[pid]
        raise NoSuchProcessError(f"process {pid} does not exist")


def report(**fields: object) -> dict[str, object]:
    """A report of a dump that went well, but for what is given."""
    values: dict[str, object] = {
        "pid": FIRST_PID,
        "comm": "victim",
        "exit_code": 0,
        "mode": "snapshot",
        "mode_why": "copy-on-write",
        "stop_seconds": 0.058,
        "stop_steps": {"attach": 0.002, "fork": 0.050},
        "stream_seconds": 2.0,
        "threads": 9,
        "bytes_planned": 1 << 20,
        "bytes_written": 1 << 20,
        "segments": 12,
        "regions": 20,
        "regions_included": 12,
        "holes_bytes": 4096,
        "omitted": {"never touched": (5, 1 << 30), "MADV_DONTDUMP": (1, 4096)},
        "sink_status": 0,
    }
    values.update(fields)
    return Report(version="0", **values).to_dict()  # type: ignore[arg-type]


class Gate:
    """A place in a script where the engine waits until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def wait(self, seconds: float) -> bool:
        return self._open.wait(seconds)


def good_dump(gate_stopped: Gate | None = None, gate_streaming: Gate | None = None) -> list[object]:
    """The events of a dump that goes well."""
    script: list[object] = [
        Started(FIRST_PID, "victim", "0"),
        PhaseChanged(Phase.PREPARE, 0.001),
        ModeChosen("snapshot", "copy-on-write", []),
        PhaseChanged(Phase.FREEZE, 0.010),
        Stopped(0.010),
        PhaseChanged(Phase.SNAPSHOT, 0.020),
        gate_stopped,
        PhaseChanged(Phase.RESUME, 0.067),
        Resumed(0.068, 0.058, {"attach": 0.002, "fork": 0.050}),
        Planned(1 << 20, 12, 20, 12, 4096, 9),
        PhaseChanged(Phase.STREAM, 0.070),
        Progress(0.070, 0, 1 << 20),
        Progress(1.070, 1 << 19, 1 << 20),
        gate_streaming,
        Progress(2.070, 1 << 20, 1 << 20),
        PhaseChanged(Phase.FINISH, 2.080),
        Finished(0, report()),
        Ended(0),
    ]
    return [item for item in script if item is not None]


def interrupted() -> list[object]:
    """What an engine says that was asked to end while the target stands still."""
    return [
        Resumed(0.4, 0.4, {}),
        Failed("interrupted by SIGINT; the target runs, the core is not whole", "", 130),
        Finished(130, report(exit_code=130, bytes_written=512, sink_status=None)),
        Ended(130),
    ]


class FakeEngine:
    """What CorepipeApp(start_engine=...) takes: replays a script from a thread of its own."""

    def __init__(self, script: Sequence[object], on_abort: Sequence[object] | None = None) -> None:
        self.script = list(script)
        self.on_abort = interrupted() if on_abort is None else list(on_abort)
        self.requests: list[DumpRequest] = []
        self.aborts = 0
        self.kills = 0
        self._deliver: Callable[[Event | Ended], None] = lambda item: None
        self._aborted = threading.Event()
        self._killed = threading.Event()

    def __call__(self, request: DumpRequest, on_item: Callable[[Event | Ended], None]) -> FakeEngine:
        self.requests.append(request)
        self._deliver = on_item
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def abort(self) -> None:
        self.aborts += 1
        self._aborted.set()

    def kill(self) -> None:
        self.kills += 1
        self._killed.set()

    def _run(self) -> None:
        for item in self.script:
            if isinstance(item, Gate):
                while not item.wait(0.002):
                    if self._aborted.is_set():
                        self._end_early()
                        return
            else:
                self._deliver(item)  # type: ignore[arg-type]

    def _end_early(self) -> None:
        """Without a last word for an abort, only kill() ends it."""
        for item in self.on_abort:
            self._deliver(item)  # type: ignore[arg-type]
        if not self.on_abort:
            self._killed.wait(30)
            self._deliver(Ended(137, "SIGKILL", "", forced=True))
