"""Fixtures of the tests that drive the user interface."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corepipe_tui.app import CorepipeApp, Settings
from corepipe_tui.runner import DumpRequest

from ..support.engine import REPOSITORY, environment
from .fakes import FakeEngine, FakeProcesses

TUI = "import sys; from corepipe_tui.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores go where nobody trips over them, a history of its own; no sudo, no NO_COLOR from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make_app() -> Callable[..., CorepipeApp]:
    """make_app(provider=..., engine=..., load=..., **settings): nothing in it is real unless asked for."""

    def make(provider: Any = None, engine: Any = None, load: Any = None, **settings: Any) -> CorepipeApp:
        settings.setdefault("refresh_seconds", 60.0)
        extra = {} if engine is None else {"start_engine": engine}
        extra |= {} if load is None else {"load_selection": load}
        return CorepipeApp(Settings(**settings), provider=provider or FakeProcesses(), **extra)

    return make


@pytest.fixture
def request_for() -> Callable[..., DumpRequest]:
    """request_for(pid, pipe): an order as the regions screen gives it."""

    def make(pid: int, pipe: str = "cat >/dev/null", **options: Any) -> DumpRequest:
        from corepipe_engine.options import DumpOptions

        return DumpRequest(pid, pipe, DumpOptions(**options))

    return make


@pytest.fixture
def run_tui(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """run_tui(*arguments) starts corepipe-tui without a terminal."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TUI, *(str(argument) for argument in arguments)]
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": tmp_path,
            "env": environment(),
            **options,
        }
        process = subprocess.Popen(command, **settings)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def python_sources(*folders: str) -> Sequence[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


__all__ = ["FakeEngine", "FakeProcesses", "python_sources"]
