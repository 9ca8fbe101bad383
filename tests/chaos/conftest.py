"""The engine at hand, and a target that checks itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..support.engine import environment
from ..support.targets import Target
from .support import Driver, new_driver


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with new_driver(tmp_path) as driver:
        yield driver


@pytest.fixture
def start_tui(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """start_tui(*arguments) starts corepipe-tui without a terminal, in a session of its own."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: object) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", "from corepipe_tui.cli import main; raise SystemExit(main())"]
            process = subprocess.Popen(
                [*command, *map(str, arguments)], env=environment({"XDG_STATE_HOME": str(tmp_path)}), cwd=tmp_path,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def steady(spawn_target: Callable[..., Target]) -> Target:
    """Twenty threads; every signal is counted."""
    return spawn_target("chaos", "steady")
