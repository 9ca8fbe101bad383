"""corepipe-tui in a real terminal: tmux, keys sent, the screen captured."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import proc
from ..support.checks import assert_running
from ..support.cores import Core
from ..support.engine import assert_nothing_left, end_session, environment, wait_frozen
from ..support.waiting import eventually
from .conftest import TUI

pytestmark = [pytest.mark.live, pytest.mark.needs("tmux")]
_PROMPT = "#"  # of a shell that root runs


class Terminal:
    """One tmux server with one window, in which a shell waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tui").write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(TUI)} "$@"\n')
        (folder / "tui").chmod(0o755)
        self._socket = f"corepipe-{os.getpid()}-{os.urandom(4).hex()}"
        values = {**environment(), "TERM": "xterm-256color", "ENV": "", "LC_ALL": "C.UTF-8"}
        command = ["new-session", "-d", "-x", "120", "-y", "36", "-c", str(folder), "sh"]
        self._tmux(*command, env=values)
        self.wait(_PROMPT)

    def _tmux(self, *arguments: str, **options: object) -> str:
        command = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options).stdout  # type: ignore[call-overload,no-any-return]

    def close(self) -> None:
        self._tmux("kill-server")

    def run(self, command: str) -> None:
        self._tmux("send-keys", "-l", command)
        self._tmux("send-keys", "Enter")

    def keys(self, *names: str) -> None:
        self._tmux("send-keys", *names)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait(self, text: str) -> str:
        def look() -> str:
            seen = self.screen()
            return seen if text in seen else ""

        try:
            return eventually(f"{text!r} on the terminal", look)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    def tui_pid(self) -> int:
        """Pid of the corepipe-tui that runs in the window."""
        shell = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        return next(iter(eventually("corepipe-tui runs", lambda: proc.children(shell))))


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path)
    yield found
    found.close()


def test_pick_choose_dump_and_read_the_result(terminal, spawn_target, tmp_path):
    target = spawn_target("nine", 8 << 20)
    terminal.run("./tui; echo EXIT $?")
    terminal.wait("COMMAND")
    terminal.keys("/")
    terminal.wait("filter: words")
    terminal.keys("-l", f"{target.pid} nine")
    terminal.wait("1 of ")
    terminal.keys("Enter")
    terminal.wait("Regions")
    terminal.keys("Enter")
    terminal.wait(f"nine ({target.pid})")
    terminal.wait("regions · core")
    terminal.keys("d")
    seen = terminal.wait("the core is whole")
    assert "stood still" in seen
    assert "WHAT TO TYPE NEXT" in seen
    terminal.keys("q")
    seen = terminal.wait("EXIT 0")
    assert "stood still for" in seen
    subprocess.run(["zstd", "-qd", f"core.nine.{target.pid}.zst", "-o", "core"], cwd=tmp_path, check=True)
    assert len(Core(tmp_path / "core").thread_ids) == 9
    assert_running(target.pid)


@pytest.mark.parametrize(("pipe", "status"), [("zstd -q > core.zst", 0), ("cat >/dev/null; exit 3", 5)])
def test_straight_to_the_dump_ends_by_itself_with_the_exit_status(terminal, spawn_target, tmp_path, pipe, status):
    target = spawn_target("nine", 1 << 20)
    terminal.run(f"./tui --pid {target.pid} --pipe '{pipe}'; echo EXIT $?")
    seen = terminal.wait(f"EXIT {status}")
    assert ("done: " in seen) == (status == 0)
    if not status:
        assert (tmp_path / "core.zst").stat().st_size > 0
    assert_running(target.pid)


def test_ctrl_c_while_dumping_is_130_and_the_target_runs(terminal, spawn_target):
    target = spawn_target("nine", 8 << 20)
    terminal.run(f"./tui --pid {target.pid} --mode direct --pipe 'sleep 600'; echo EXIT $?")
    terminal.wait("target stands still")
    terminal.keys("C-c")
    terminal.wait("EXIT 130")
    assert_running(target.pid)


def test_a_user_interface_that_is_killed_leaves_the_target_running_and_no_engine(terminal, spawn_target):
    target = spawn_target("nine", 8 << 20)
    terminal.run(f"./tui --pid {target.pid} --mode direct --pipe 'sleep 600'; echo EXIT $?")
    terminal.wait("target stands still")
    tui = terminal.tui_pid()
    (engine,) = proc.children(tui)
    wait_frozen(target.pid, engine)
    try:
        os.kill(tui, signal.SIGKILL)
        assert_running(target.pid)
        assert_nothing_left(engine)
    finally:
        end_session(engine)


def test_the_terminal_that_is_closed_leaves_the_target_running_and_no_engine(spawn_target, tmp_path):
    target = spawn_target("nine", 8 << 20)
    terminal = Terminal(tmp_path)
    try:
        terminal.run(f"./tui --pid {target.pid} --mode direct --pipe 'sleep 600'")
        terminal.wait("target stands still")
        (engine,) = proc.children(terminal.tui_pid())
    finally:
        terminal.close()
    assert_running(target.pid)
    assert_nothing_left(engine)
