"""The engine as its users meet it: a child process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import proc
from .waiting import SLOWNESS, eventually

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ENGINE_SECONDS = 120.0 * SLOWNESS
"""A dump that takes longer hangs."""


@dataclass(frozen=True)
class Outcome:
    """How a run of corepipe ended."""

    status: int
    stderr: str
    pid: int

    def report(self, path: Path) -> dict[str, Any]:
        return json.loads(path.read_text())


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test run's environment with the engine on Python's path and no trace of sudo."""
    values = {key: value for key, value in os.environ.items() if not key.startswith("SUDO_")}
    values["PYTHONPATH"] = str(REPOSITORY)
    values["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**values, **(extra or {})}


def engine_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "corepipe_engine", *(str(argument) for argument in arguments)]


@contextlib.contextmanager
def corepipe_started(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start corepipe in a session of its own; at the end of the with statement it is killed if it still runs."""
    settings = {"stdin": subprocess.DEVNULL, "env": environment(), "cwd": REPOSITORY, **options}
    process = subprocess.Popen(engine_command(*arguments), start_new_session=True, **settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def run_corepipe(
    *arguments: object,
    output: Path | None = None,
    check: int | None = 0,
    extra_env: Mapping[str, str] | None = None,
    **options: Any,
) -> Outcome:
    """Run corepipe to its end. output: where its standard output goes; check: the exit status it must have."""
    with contextlib.ExitStack() as stack:
        if output is not None:
            options["stdout"] = stack.enter_context(output.open("wb"))
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("env", environment(extra_env))
        process = stack.enter_context(corepipe_started(*arguments, stderr=subprocess.PIPE, **options))
        _, errors = process.communicate(timeout=ENGINE_SECONDS)
        outcome = Outcome(process.returncode, errors.decode("utf-8", "replace"), process.pid)
    if check is not None:
        assert outcome.status == check, f"exit status {outcome.status}, not {check}: {outcome.stderr}"
        assert "Traceback" not in outcome.stderr, outcome.stderr
    return outcome


def wait_frozen(pid: int, tracer: int) -> None:
    """Return when every thread of the process is held by that tracer."""

    def held() -> bool:
        states = proc.thread_states(pid)
        return proc.tracers(pid) == {tracer} and set(states.values()) == {"t"}

    eventually(f"process {pid} is held by {tracer}", held)


def assert_nothing_left(session: int) -> None:
    """No process of the engine's session (the engine, its pipe command and all its stages) is left."""
    eventually(f"no process of session {session} is left", lambda: not proc.in_session(session))


def end_session(session: int) -> None:
    """Kill what a killed engine left behind on purpose of a test: the stages of its pipe command."""
    for pid in proc.in_session(session):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
