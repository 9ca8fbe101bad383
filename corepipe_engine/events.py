"""Typed progress events and their JSON lines (`--events-fd`).

Every line is one object with "event" (the class's name in lower case) and the fields of the class. Times named `at`
are seconds since the command began (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from typing import Any


class Phase(str, enum.Enum):
    """Where the dump is."""

    PREPARE = "prepare"
    FREEZE = "freeze"
    SNAPSHOT = "snapshot"
    COPY = "copy"
    RESUME = "resume"
    STREAM = "stream"
    FINISH = "finish"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The target was found and may be dumped."""

    pid: int
    comm: str
    version: str


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    """A phase begins. From freeze to resume the target stands still."""

    phase: Phase
    at: float


@dataclass(frozen=True, slots=True)
class ModeChosen(Event):
    """The mode that is taken and why; fallbacks: one line for each better mode that was not possible."""

    mode: str
    why: str
    fallbacks: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """The layout is fixed: core_bytes is what will be written. Sizes in bytes."""

    core_bytes: int
    segments: int
    regions: int
    regions_included: int
    hole_bytes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """All threads are about to be stopped; the stop clock runs."""

    at: float


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """Every thread runs again. stop_seconds is the whole stop, steps its parts in seconds."""

    at: float
    stop_seconds: float
    steps: dict[str, float]


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Bytes that the sink has taken."""

    at: float
    bytes_written: int
    bytes_planned: int


@dataclass(frozen=True, slots=True)
class SinkStderr(Event):
    """Text that the pipe command printed on its standard error."""

    text: str


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the person should know, in one line."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The dump failed: the message, what to type next, and the exit status to come."""

    message: str
    hint: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The end, good or bad: exit status and the report as a dictionary (see report.py)."""

    exit_code: int
    report: dict[str, Any]


def to_json(event: Event) -> str:
    """Return the event as one line of JSON without the newline."""
    import json

    return json.dumps({"event": type(event).__name__.lower(), **asdict(event)}, separators=(",", ":"))


_CLASSES: dict[str, type[Event]] = {
    cls.__name__.lower(): cls
    for cls in (
        Started,
        PhaseChanged,
        ModeChosen,
        Planned,
        Stopped,
        Resumed,
        Progress,
        SinkStderr,
        Notice,
        Failed,
        Finished,
    )
}


def from_json(line: str | bytes) -> Event:
    """Return the event of a JSON line. ValueError for a line that is none."""
    import json

    try:
        record = json.loads(line)
        cls = _CLASSES[record.pop("event")]
        if "phase" in record:
            record["phase"] = Phase(record["phase"])
        return cls(**record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {line!r}") from error
