"""Processes that cannot be dumped and command lines that make no sense: said plainly, with the next step."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import proc
from ..support.checks import assert_counter_moves, assert_running, assert_target_untouched
from ..support.cores import Core, assert_well_formed
from ..support.dumps import in_both_modes, tells_of_both_modes
from ..support.engine import REPOSITORY, Outcome, environment, run_corepipe
from ..support.targets import start_target
from ..support.waiting import eventually

pytestmark = pytest.mark.live
NOBODY = 65534
SHARED_FILES = "shares the target's open files"
UNDER_A_FILTER = """
import ctypes, os, struct, sys
allow = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(allow)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.executable, [sys.executable, "-m", "corepipe_engine", *sys.argv[1:]])
"""
"""Runs corepipe as a container does: under a seccomp filter (one that allows everything)."""


def refused(*arguments: object, status: int, says: str, hint: bool = True, **options: object) -> Outcome:
    """Run corepipe, which must fail with that status and message, name a next step and write no byte of a core."""
    outcome = run_corepipe(*arguments, check=status, **options)
    assert says in outcome.stderr
    assert outcome.stderr.startswith("corepipe: ")
    assert ("\n  try: " in outcome.stderr) == hint, outcome.stderr
    return outcome


def free_pid() -> int:
    """A pid that no process has: of a child that has been reaped."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("extra", [(), ("--plan",), ("--pipe", "cat >/dev/null")])
def test_a_process_that_does_not_exist_is_status_4(tmp_path, extra):
    refused(free_pid(), *extra, status=4, says="does not exist", output=tmp_path / "core")
    assert (tmp_path / "core").stat().st_size == 0


def test_a_pipe_command_is_not_even_started_for_a_process_that_does_not_exist(tmp_path):
    refused(free_pid(), "--pipe", f"touch {tmp_path}/started", status=4, says="does not exist")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("word", ["abc", "0", "-1", "1e3", "", "99999999999", "12 13"])
def test_what_is_no_pid_is_a_usage_error(word):
    outcome = run_corepipe("--pid=" + word, check=2)
    assert "is not a process id" in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("1", "2"), ("1", "--pid", "2"), ("1", "--mode", "fork"), ("1", "--max-stop", "0"), ("1", "--max-stop", "x"),
     ("1", "--filter", "zz"), ("1", "--include", "nonsense"), ("1", "--exclude", "20-10"), ("1", "--preset", "tiny"),
     ("1", "--no-such-option"), ("1", "--events-fd", "77"), ("1", "--pipe", ""), ("1", "--pipe", "cat |"),
     ("1", "--pipe", "cat 'x")],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense_is_status_2_and_touches_nothing(spawn_target, arguments):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    words = [str(target.pid) if word == "1" else word for word in arguments]
    outcome = run_corepipe(*words, check=2)
    assert outcome.stderr.startswith("corepipe: ")
    assert_target_untouched(target, before)


def is_kernel_thread(pid: int) -> bool:
    try:
        return proc.status_field(pid, "Kthread") == "1"
    except (OSError, KeyError):
        return False


@tells_of_both_modes("a kernel thread")
def test_a_kernel_thread_is_status_2(tmp_path, tell):
    tell("refused, with the reason")
    pid = next((pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_kernel_thread(pid)), None)
    if pid is None:
        pytest.skip("no kernel thread can be seen here")
    refused(pid, status=2, says="is a kernel thread", output=tmp_path / "core")


@tells_of_both_modes("a zombie")
def test_a_zombie_is_status_4(tmp_path, tell):
    tell("refused, with the reason")
    process = subprocess.Popen(["true"])
    try:
        eventually("the child is a zombie", lambda: proc.status_field(process.pid, "State")[0] == "Z")
        refused(process.pid, status=4, says="zombie", hint=False, output=tmp_path / "core")
    finally:
        process.wait()


def test_its_own_pid_is_status_2(tmp_path):
    script = f"import sys, os; from corepipe_engine.__main__ import main; sys.exit(main([str(os.getpid())]))"  # noqa: F541
    with (tmp_path / "core").open("wb") as output:
        result = subprocess.run(
            [sys.executable, "-c", script], stdout=output, stderr=subprocess.PIPE, env=environment(), check=False
        )
    assert result.returncode == 2
    assert b"corepipe cannot dump itself" in result.stderr


@tells_of_both_modes("the id of a thread instead of a process")
def test_the_id_of_a_thread_is_told_from_that_of_a_process(spawn_target, tmp_path, tell):
    tell("refused, names the process")
    target = spawn_target("nine", 4096)
    thread = proc.tids(target.pid)[-1]
    said = f"{thread} is a thread of process {target.pid}, not a process\n  try: corepipe {target.pid} > core"
    refused(thread, status=4, says=said, output=tmp_path / "core")


@pytest.mark.needs("gdb")
@tells_of_both_modes("traced by a debugger already")
def test_a_process_traced_by_another_is_status_3_and_stays_with_its_tracer(spawn_target, tmp_path, tell):
    tell("refused, names the debugger")
    target = spawn_target("nine", 4096)
    gdb = subprocess.Popen(
        ["gdb", "-nx", "-q", "-iex", "set debuginfod enabled off", "-p", str(target.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually("gdb has attached", lambda: gdb.pid in proc.tracers(target.pid))
        refused(target.pid, status=3, says=f"is traced by process {gdb.pid}", output=tmp_path / "core")
        assert proc.tracers(target.pid) == {gdb.pid}
    finally:
        gdb.communicate(b"detach\nquit\n")
    assert_running(target.pid)


@pytest.fixture
def engine_for_everybody(open_folder) -> Path:
    """A copy of the engine that every user may read."""
    shutil.copytree(
        REPOSITORY / "corepipe_engine", open_folder / "corepipe_engine", ignore=shutil.ignore_patterns("__pycache__")
    )
    subprocess.run(["chmod", "-R", "a+rX", str(open_folder)], check=True)
    return open_folder


def as_nobody(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python that every user may run")
    with (folder / "core").open("wb") as output:
        return subprocess.run(
            [python, "-m", "corepipe_engine", *(str(argument) for argument in arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            check=False,
        )


def plan_as_root(errors: str, folder: Path) -> None:
    """The command that was shown as the next step is one that can be typed as it stands; we are root already."""
    hint = errors.partition("\n  try: sudo ")[2].splitlines()[0]
    subprocess.run(f"{hint} --plan --json", shell=True, stdout=subprocess.DEVNULL, cwd=folder, check=True)


@tells_of_both_modes("of another user, without root")
def test_a_process_of_another_user_is_status_3_and_the_hint_is_sudo(spawn_target, engine_for_everybody, tell):
    tell("refused, the hint is sudo")
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    for extra in ((), ("--plan",), ("--mode", "direct")):
        result = as_nobody(engine_for_everybody, target.pid, *extra)
        assert result.returncode == 3, result.stderr
        assert "belongs to another user (uid 0)" in result.stderr
        plan_as_root(result.stderr, engine_for_everybody)
    assert (engine_for_everybody / "core").stat().st_size == 0
    assert_target_untouched(target, before)


@in_both_modes("one's own, without root")
def test_a_user_dumps_his_own_process_without_root(build_target, engine_for_everybody, mode):
    with start_target(
        [build_target("nine")], engine_for_everybody, signals="default", user=NOBODY, group=NOBODY, extra_groups=[],
        state_mode=0o666,
    ) as target:  # fmt: skip
        # a program that changed its user is not dumpable until it executes another; this one was started by execve
        result = as_nobody(engine_for_everybody, target.pid, "--mode", mode, "-v")
        assert result.returncode == 0, result.stderr
        assert SHARED_FILES not in result.stderr
        core = Core(engine_for_everybody / "core")
        assert_well_formed(core)
        assert len(core.thread_ids) == 9
        assert_running(target.pid)


def test_the_snapshot_lets_go_of_the_files_of_a_target_although_corepipe_has_a_seccomp_filter(spawn_target):
    """Under a filter nobody may look into those of others: that the target has none is known all the same."""
    target = spawn_target("nine", 4096)
    command = [
        sys.executable,
        "-c",
        UNDER_A_FILTER,
        str(target.pid),
        "--mode",
        "snapshot",
        "-v",
        "--pipe",
        "cat >/dev/null",
    ]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=REPOSITORY, check=False)
    assert result.returncode == 0, result.stderr
    assert "mode snapshot" in result.stderr
    assert SHARED_FILES not in result.stderr
    assert_running(target.pid)


@tells_of_both_modes("one's own and not dumpable, without root")
def test_a_user_is_told_why_his_own_process_cannot_be_dumped(build_target, engine_for_everybody, tell):
    tell("refused, with the reason")
    with start_target(
        [build_target("odd"), "undumpable"], engine_for_everybody, user=NOBODY, group=NOBODY, extra_groups=[],
        state_mode=0o666,
    ) as target:  # fmt: skip
        before = target.signals
        result = as_nobody(engine_for_everybody, target.pid)
        assert result.returncode == 3
        assert f"process {target.pid} is not dumpable (setuid, capabilities, or prctl" in result.stderr
        plan_as_root(result.stderr, engine_for_everybody)
        assert_counter_moves(target)
        assert target.signals == before


def test_a_terminal_as_standard_output_is_refused_before_the_target_is_touched(spawn_target):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    ours, theirs = pty.openpty()
    try:
        refused(target.pid, status=2, says="standard output is a terminal", stdout=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert_target_untouched(target, before)


def test_a_closed_standard_output_is_refused(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    command = f"exec {sys.executable} -m corepipe_engine {target.pid} >&-"
    result = subprocess.run(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "standard output is closed" in result.stderr
    assert_target_untouched(target, before)


@pytest.mark.parametrize("mode", ["direct", "buffer"])
def test_a_target_that_is_killed_in_the_middle_ends_the_dump_and_leaves_no_zombie_of_ours(spawn_target, tmp_path, mode):
    from ..support.engine import assert_nothing_left, corepipe_started, wait_frozen

    target = spawn_target("nine")
    with corepipe_started(
        target.pid, "--mode", mode, "--pipe", "sleep 1000", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as engine:
        if mode == "direct":
            wait_frozen(target.pid, engine.pid)
        else:
            eventually("the pipe command has started", lambda: len(proc.in_session(engine.pid)) > 1)
        os.kill(target.pid, signal.SIGKILL)
        if mode == "buffer":  # it may have been copied before: then only the stuck pipe holds the dump up
            engine.send_signal(signal.SIGTERM)
            assert engine.wait(30) in (4, 130)
        else:
            assert engine.wait(30) == 4
            said = engine.stderr.read().decode()
            assert f"process {target.pid} " in said
            assert "ended" in said or "killed" in said or "no live thread left" in said
        assert_nothing_left(engine.pid)
    assert target.process.wait(30) == -signal.SIGKILL
