"""corepipe-tui in a real terminal: tmux, keys sent, the screen captured."""

from __future__ import annotations

import os
import re
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
from ..support.targets import start_target
from ..support.waiting import eventually
from .conftest import TUI

pytestmark = [pytest.mark.live, pytest.mark.needs("tmux")]
NOBODY = 65534
AS_NOBODY = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --bounding-set=-all,+dac_read_search \
 --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"
"""Runs what follows as a user without rights but one: to find our Python, wherever that lies."""


class Terminal:
    """One tmux server with one window, in which a shell waits."""

    def __init__(self, folder: Path, shell: str = "sh", prompt: str = "#") -> None:
        self.folder = folder
        (folder / "tui").write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(TUI)} "$@"\n')
        (folder / "tui").chmod(0o755)
        self._socket = f"corepipe-{os.getpid()}-{os.urandom(4).hex()}"
        values = {
            **environment(),
            "TERM": "xterm-256color",
            "ENV": "",
            "LC_ALL": "C.UTF-8",
            "XDG_STATE_HOME": f"{folder}/state",
        }
        command = ["new-session", "-d", "-x", "120", "-y", "36", "-c", str(folder), shell]
        self._tmux(*command, env=values)
        try:
            self.wait(prompt)
        except AssertionError:
            self.close()
            raise

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

    def status(self) -> str:
        """Wait until the shell has the terminal again; return the exit status of what ran last."""
        eventually(
            "the shell is back", lambda: self._tmux("display-message", "-p", "#{pane_current_command}") == "sh\n"
        )
        self.run("echo STATUS $?.")
        found = eventually("its status", lambda: re.search(r"STATUS (\d+)\.", self.screen()))
        return found[1]

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

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


def test_a_user_without_rights_dumps_his_own_process_and_is_told_why_not_that_of_another(
    spawn_target, build_target, open_folder
):
    """The whole way without root; what the kernel forbids is said with its rule and the command that leads on."""
    other = spawn_target("nine", 1 << 20)
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    terminal = Terminal(open_folder, shell=f"{AS_NOBODY} sh", prompt="$")
    try:
        with start_target([build_target("nine")], open_folder, signals="default", state_mode=0o666, **user) as own:
            terminal.run("./tui; echo EXIT $?")
            terminal.wait("COMMAND")
            terminal.keys("/")
            terminal.wait("filter: words")
            terminal.keys("-l", f"{other.pid} nine")
            terminal.wait(f"✗ process {other.pid} belongs to another user (uid 0)")
            assert re.search(r"try: sudo \S", terminal.screen())
            terminal.keys("Enter")
            terminal.wait("Regions")
            terminal.keys("Enter")
            terminal.wait("cannot be dumped")
            terminal.keys("/", "C-u")
            terminal.wait("filter: words")
            terminal.keys("-l", f"{own.pid} nine")
            terminal.wait(f"{own.pid} nine  ")
            terminal.keys("Enter")
            terminal.wait("Regions")
            terminal.keys("Enter")
            terminal.wait("regions · core")
            terminal.keys("d")
            seen = terminal.wait("the core is whole")
            assert "snapshot: the target stands still for one fork" in seen
            terminal.keys("q")
            terminal.wait("EXIT 0")
            kept = open_folder / f"core.nine.{own.pid}.zst"
            assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (NOBODY, 0o600)
            subprocess.run(["zstd", "-qd", kept.name, "-o", "core"], cwd=open_folder, check=True)
            assert len(Core(open_folder / "core").thread_ids) == 9
            assert_running(own.pid)
    finally:
        terminal.close()


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
        tui = terminal.tui_pid()
        (engine,) = proc.children(tui)
    finally:
        terminal.close()
    assert_running(target.pid)
    assert_nothing_left(engine)
    eventually("the user interface has ended as well", lambda: not os.path.exists(f"/proc/{tui}"))


def test_a_suspended_user_interface_holds_up_nothing_and_comes_back(terminal, spawn_target, tmp_path):
    """Ctrl+Z in the middle of a dump: the dump goes on, the target runs; fg shows how it ended."""
    target = spawn_target("nine", 8 << 20)
    terminal.run(f"./tui --pid {target.pid}")
    terminal.wait("regions · core")
    tui = terminal.tui_pid()
    terminal.keys("p", "C-u")
    terminal.wait("the pipe command is empty")
    terminal.keys("-l", "until [ -e go ]; do sleep 0.05; done; cat > core")
    terminal.wait("done; cat > core")
    terminal.keys("Enter")
    terminal.wait("resumed after")
    terminal.keys("C-z")
    eventually("it is stopped", lambda: proc.status_field(tui, "State").startswith("T"))
    assert_running(target.pid)
    (tmp_path / "go").touch()
    eventually("the core is whole", lambda: not _engines(tui))
    assert len(Core(tmp_path / "core").thread_ids) == 9
    terminal.run("fg")
    terminal.wait("the core is whole")
    terminal.keys("q")
    assert terminal.status() == "0"
    assert_running(target.pid)


def _engines(tui: int) -> list[int]:
    """The engines of a user interface that still run."""
    return [pid for pid in proc.children(tui) if proc.status_field(pid, "State")[0] not in "ZX"]


@pytest.mark.needs("javac", "zstd", "gdb")
def test_a_jvm_is_picked_dumped_into_zstd_and_read_with_the_command_that_is_shown(terminal, jvm, tmp_path):
    before = set(proc.tids(jvm.pid))
    terminal.run("./tui; echo EXIT $?")
    terminal.wait("COMMAND")
    terminal.keys("/")
    terminal.wait("filter: words")
    terminal.keys("-l", f"{jvm.pid} java")
    terminal.wait("1 of ")
    terminal.keys("Enter")
    terminal.wait("Regions")
    terminal.keys("Enter")
    terminal.wait("regions · core")
    terminal.keys("g", "Home")
    shown = terminal.wait("▸ ")
    assert "anon" in shown
    terminal.keys("g", "3")
    terminal.wait("preset java")
    terminal.keys("End", "Space")  # the last regions cannot be switched; that is said, and does no harm
    terminal.keys("d")
    terminal.wait("the core is whole")
    terminal.resize(220, 50)
    seen = terminal.wait("gdb ")
    line = next(line.strip() for line in seen.splitlines() if "gdb " in line)
    unpack, _, gdb = line.partition(" && ")
    assert unpack == f"zstd -dc core.java.{jvm.pid}.zst > core.java.{jvm.pid}"
    terminal.keys("q")
    terminal.wait("EXIT 0")
    read = gdb.replace("gdb ", "gdb -nx -batch -ex 'info threads' ", 1)
    reading = subprocess.run(["bash", "-c", f"{unpack} && {read}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert reading.returncode == 0
    assert reading.stdout.count("LWP ") >= len(before), reading.stdout
    assert_running(jvm.pid)


@pytest.fixture
def jvm(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A JVM that has said that it is ready."""
    (tmp_path / "Held.java").write_text(
        "public class Held { public static void main(String[] words) throws Exception {"
        ' byte[] data = new byte[1 << 20]; System.out.println("ready"); Thread.sleep(600_000 + data[0]); } }'
    )
    subprocess.run(["javac", "Held.java"], cwd=tmp_path, check=True)
    command = ["java", "-Xmx64m", "-XX:-UsePerfData", "Held"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_an_engine_that_is_killed_is_told_and_the_target_runs(terminal, spawn_target):
    target = spawn_target("nine", 8 << 20)
    terminal.run(f"./tui --pid {target.pid} --mode direct")
    terminal.wait("regions · core")
    tui = terminal.tui_pid()
    terminal.keys("p", "C-u")
    terminal.wait("the pipe command is empty")
    terminal.keys("-l", "exec sleep 600")
    terminal.wait("exec sleep 600")
    terminal.keys("Enter")
    terminal.wait("target stands still")
    (engine,) = _engines(tui)
    wait_frozen(target.pid, engine)
    try:
        os.kill(engine, signal.SIGKILL)
        terminal.wait("the engine was killed by SIGKILL; the kernel let the target go, it runs")
        assert_running(target.pid)
    finally:
        end_session(engine)
    terminal.keys("q")
    assert terminal.status() == "1"
