"""corepipe-tui where there is no terminal: lines on standard error, nothing on standard output, the exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from ..support.checks import assert_running, assert_target_untouched
from ..support.cores import Core
from ..support.engine import wait_frozen
from ..support.waiting import eventually


def ended(process):
    output, errors = process.communicate(timeout=60)
    assert output == ""
    assert "\x1b" not in errors
    assert "Traceback" not in errors
    return process.returncode, errors


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.live
def test_a_dump_tells_its_story_in_lines_and_ends_with_0(run_tui, spawn_target, tmp_path):
    target = spawn_target("nine", 1 << 20)
    before = target.fingerprint()
    status, errors = ended(run_tui("--pid", target.pid, "--pipe", "cat > core.{comm}.{pid}"))
    assert status == 0, errors
    assert all(line.startswith("corepipe-tui: ") for line in errors.splitlines())
    for text in ("(nine)", "stands still", "runs again after", "100 %", "done: ", "stood still for"):
        assert text in errors
    assert len(Core(tmp_path / f"core.nine.{target.pid}").thread_ids) == 9
    assert_target_untouched(target, before)


@pytest.mark.live
def test_options_reach_the_engine(run_tui, spawn_target, tmp_path):
    target = spawn_target("nine", 8 << 20)
    arguments = ("--preset", "stacks", "--exclude", "stack", "--mode", "direct", "--report", tmp_path / "report.json")
    status, errors = ended(run_tui("--pid", target.pid, "--pipe", "cat >core", *arguments))
    assert status == 0, errors
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["mode"] == "direct"
    assert any("--exclude stack" in reason for reason in told["omitted"])
    assert told["bytes_written"] < 8 << 20


@pytest.mark.live
@pytest.mark.parametrize(
    ("pipe", "says"),
    [("exit 3", "exit status 3"), ("/no/such/program", "not found"), (r"printf '\033[2J' >&2; exit 1", r"\x1b[2J")],
)
def test_a_pipe_command_that_fails_is_status_5(run_tui, spawn_target, pipe, says):
    target = spawn_target("nine", 4096)
    status, errors = ended(run_tui("--pid", target.pid, "--pipe", pipe))
    assert status == 5
    assert says in errors
    assert_running(target.pid)


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_target_runs(run_tui, spawn_target, number):
    target = spawn_target("nine", 8 << 20)
    process = run_tui("--pid", target.pid, "--mode", "direct", "--pipe", "sleep 600")
    (engine,) = eventually("the engine", lambda: children(process.pid))
    wait_frozen(target.pid, engine)
    process.send_signal(number)
    status, errors = ended(process)
    assert status == 130
    assert "interrupted" in errors
    assert_running(target.pid)


def test_a_process_that_does_not_exist_is_status_4(run_tui):
    with subprocess.Popen(["true"]) as gone:
        pass
    status, errors = ended(run_tui("--pid", gone.pid, "--pipe", "cat > core"))
    assert status == 4
    assert str(gone.pid) in errors


def test_our_own_pid_is_a_usage_error(run_tui):
    status, errors = ended(run_tui("--pid", "0", "--pipe", "cat > core"))
    assert status == 2
    assert "try: " in errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "ssh -t"),
        (("--pid", "1"), "ssh -t"),
        (("--pid", "1", "--pipe", " "), "empty"),
        (("--pid", "x"), "not a process id"),
        (("--pid", "1", "--pipe", "cat", "--read-only"), "--read-only"),
        (("--exclude", "nonsense-kind"), "try: "),
        (("--no-such-option",), "corepipe-tui --help"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_status_2_with_a_hint(run_tui, arguments, says):
    status, errors = ended(run_tui(*arguments))
    assert status == 2
    assert says in errors


def test_help_and_version_go_to_standard_output(run_tui):
    for argument in ("--help", "--version"):
        process = run_tui(argument)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "corepipe-tui" in output
        assert errors == ""


@pytest.mark.live
def test_a_closed_standard_error_does_not_stop_the_dump(run_tui, spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = run_tui("--pid", target.pid, "--pipe", "cat > core", stderr=write_end)
    os.close(write_end)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(Core(tmp_path / "core").thread_ids) == 9
