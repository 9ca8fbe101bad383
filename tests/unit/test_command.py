"""__main__.py, command.py, interrupts.py, showplan.py: the command line as a person meets it."""

from __future__ import annotations

import json
import os
import platform
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine import __version__
from corepipe_engine.__main__ import main
from corepipe_engine.command import make_parser, parse_pid
from corepipe_engine.errors import CorepipeError, ExitCode, InterruptedDumpError, UsageError
from corepipe_engine.inspection import inspect_process
from corepipe_engine.interrupts import Interrupts
from corepipe_engine.options import DumpOptions
from corepipe_engine.procfs import ProcessHandle
from corepipe_engine.showplan import _lines, plan_record

ROOT = Path(__file__).resolve().parents[2]
NO_SUCH_PID = str((1 << 22) - 1)


def corepipe(*arguments: str, stdout: int = subprocess.DEVNULL, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with the standard library alone, as on a host where nothing can be installed."""
    code = text or "from corepipe_engine.__main__ import run; run()"
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which process"),
        (["abc"], "is not a process id"),
        (["0"], "is not a process id"),
        (["-1"], ""),
        (["4194305"], "is not a process id"),
        (["9" * 5000], "is not a process id"),
        (["\u0663"], "is not a process id"),
        (["1", "2"], "unrecognized"),
        (["1", "--pid", "2"], "two processes"),
        (["1", "--mode", "fork"], "invalid choice"),
        (["1", "--filter", "fff"], "is not a coredump_filter"),
        (["1", "--max-stop", "0"], "above 0"),
        (["1", "--include", "what"], "names no region"),
        (["1", "--events-fd", "x"], "invalid int"),
        (["1", "--events-fd", "987"], "not an open file descriptor"),
        (["1", "--pi", "cat"], "unrecognized"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_2_and_a_hint(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("corepipe: ")
    assert words in err
    assert "Traceback" not in err
    if words != "not an open file descriptor":
        assert "\n  try: " in err


@given(st.text(max_size=12))
def test_any_text_is_a_process_id_or_a_usage_error(text: str) -> None:
    try:
        assert 0 < parse_pid(text) <= 1 << 22
    except UsageError as error:
        assert error.hint  # noqa: PT017


def test_the_version_is_told() -> None:
    result = corepipe("--version", stdout=subprocess.PIPE)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"corepipe {__version__}\n", "")


def test_the_help_names_every_option_and_exit_status() -> None:
    text = make_parser().format_help()
    for option in [
        "--pid",
        "--pipe",
        "--plan",
        "--json",
        "--preset",
        "--filter",
        "--include",
        "--exclude",
        "--holes",
        "--mode",
        "--max-stop",
        "--shared",
        "--report",
        "--events-fd",
        "--strict",
        "--pipe-as-root",
        "--quiet",
        "--verbose",
        "--version",
    ]:
        assert option in text
    for code in ExitCode:
        assert re.search(rf"\b{int(code)} ", text)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([NO_SUCH_PID], ExitCode.NO_PROCESS),
        ([NO_SUCH_PID, "--pipe", "cat > /dev/null"], ExitCode.NO_PROCESS),
        ([NO_SUCH_PID, "--plan"], ExitCode.NO_PROCESS),
    ],
)
def test_a_process_that_is_not_there_ends_with_4(arguments: list[str], code: ExitCode) -> None:
    result = corepipe(*arguments)
    assert result.returncode == code
    assert result.stderr.startswith("corepipe: process ")
    assert "Traceback" not in result.stderr


def test_corepipe_refuses_its_own_pid() -> None:
    code = "import os, sys; from corepipe_engine.__main__ import main; sys.exit(main([str(os.getpid())]))"
    result = corepipe(text=code)
    assert result.returncode == ExitCode.USAGE
    assert "itself" in result.stderr


def test_a_terminal_gets_no_core() -> None:
    main_fd, terminal = os.openpty()
    result = corepipe("1", stdout=terminal)
    os.close(terminal)
    os.close(main_fd)
    assert result.returncode == ExitCode.USAGE
    assert "terminal" in result.stderr


@pytest.mark.parametrize("error", list(CorepipeError.__subclasses__()))
def test_every_error_has_an_exit_status_of_the_table(error: type[CorepipeError]) -> None:
    assert ExitCode(error("message").exit_code) is not ExitCode.DONE


# --- interrupts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    numbers = (signal.SIGINT, signal.SIGQUIT)  # a shell's background job ignores them
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        with Interrupts() as caught:
            yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_becomes_a_reason_and_wakes_the_loop(interrupts: Interrupts, number: signal.Signals) -> None:
    interrupts.check()
    assert not select.select([interrupts.fd], [], [], 0)[0]
    os.kill(os.getpid(), number)
    assert select.select([interrupts.fd], [], [], 60)[0]
    with pytest.raises(InterruptedDumpError, match=f"by {number.name}") as caught:
        interrupts.check()
    assert caught.value.exit_code is ExitCode.INTERRUPTED
    interrupts.drain()
    assert not select.select([interrupts.fd], [], [], 0)[0]
    interrupts.request("later")
    assert interrupts.reason == f"by {number.name}"


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """nohup corepipe ... & outlives its terminal."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
    finally:
        signal.signal(signal.SIGHUP, old)


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]
    with Interrupts() as interrupts:
        fd = interrupts.fd
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the engine knows x86-64 alone so far")
def test_the_plan_of_a_process_adds_up() -> None:
    handle = ProcessHandle(os.getpid())
    try:
        inspection = inspect_process(handle, DumpOptions())
    finally:
        handle.close()
    record = json.loads(json.dumps(plan_record(inspection)))
    assert record["pid"] == os.getpid()
    assert record["core_bytes"] == inspection.plan.total_bytes
    headers = inspection.plan.total_bytes - inspection.plan.data_bytes
    assert record["core_bytes"] == headers + sum(entry["file_bytes"] for entry in record["regions"])
    assert all(entry["reason"] for entry in record["regions"])
    assert all(entry["included"] or not entry["file_bytes"] for entry in record["regions"])
    lines = list(_lines(inspection))
    assert len(lines) == len(record["regions"]) + 4
    assert str(record["core_bytes"]) in lines[-2]
