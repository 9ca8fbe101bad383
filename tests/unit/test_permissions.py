"""permissions.py: why a process cannot be dumped, and what to type."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from corepipe_engine import permissions
from corepipe_engine.errors import CorepipeError, ExitCode
from corepipe_engine.naming import as_root
from corepipe_engine.permissions import explain_refusal, has_capability, refusal
from corepipe_engine.procfs import TaskStatus, parse_status

STATUS = parse_status(b"Name:\tserver\nState:\tS (sleeping)\nUid:\t1000\t1000\nVmSize:\t 8 kB\n")


def status(**fields: object) -> TaskStatus:
    return replace(STATUS, **fields)  # type: ignore[arg-type]


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "can_ptrace_all", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("fields", "code", "words", "hint"),
    [
        ({"state": "Z"}, ExitCode.NO_PROCESS, "zombie", ""),
        ({"state": "X"}, ExitCode.NO_PROCESS, "has ended", ""),
        ({"kernel_thread": True}, ExitCode.USAGE, "kernel thread", "ps -e"),
        ({"tracer_pid": 99}, ExitCode.NOT_PERMITTED, "traced by process 99", "ps -fp 99"),
        ({"uid": 0}, ExitCode.NOT_PERMITTED, "another user (uid 0)", as_root(7)),
    ],
)
def test_a_refusal_names_the_reason_and_the_next_step(
    fields: dict[str, object], code: ExitCode, words: str, hint: str
) -> None:
    error = refusal(7, status(**fields))
    assert isinstance(error, CorepipeError)
    assert error.exit_code is code
    assert words in error.message
    assert hint in error.hint


@pytest.mark.usefixtures("as_user")
def test_nothing_speaks_against_ones_own_process() -> None:
    assert refusal(7, status()) is None


def test_root_may_dump_the_processes_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "can_ptrace_all", lambda: True)
    assert refusal(7, status(uid=12345)) is None


def test_corepipe_does_not_dump_itself() -> None:
    error = refusal(os.getpid(), status())
    assert error is not None
    assert error.exit_code is ExitCode.USAGE
    assert "itself" in error.message


class FakeProcess:
    pid = 7

    def read(self, name: str) -> bytes:
        assert name == "status"
        return b"Name:\tserver\nState:\tS (sleeping)\nUid:\t1000\t1000\nVmSize:\t 8 kB\n"


@pytest.mark.parametrize(
    ("scope", "all_powerful", "words", "hint"),
    [
        (3, True, "ptrace_scope = 3", "reboot"),
        (3, False, "ptrace_scope = 3", "reboot"),
        (1, False, "ptrace_scope = 1", as_root(7)),
        (0, False, "not dumpable", as_root(7)),
        (0, True, "although we have CAP_SYS_PTRACE", "SYS_PTRACE"),
    ],
)
def test_the_rule_that_forbade_it_is_named(
    monkeypatch: pytest.MonkeyPatch, scope: int, all_powerful: bool, words: str, hint: str
) -> None:
    monkeypatch.setattr(permissions, "_yama_scope", lambda: scope)
    monkeypatch.setattr(permissions, "can_ptrace_all", lambda: all_powerful)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = explain_refusal(FakeProcess())  # type: ignore[arg-type]
    assert error.exit_code is ExitCode.NOT_PERMITTED
    assert words in error.message
    assert hint in error.hint


def test_yama_is_not_blamed_for_a_look_into_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permissions, "_yama_scope", lambda: 1)
    monkeypatch.setattr(permissions, "can_ptrace_all", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "not dumpable" in explain_refusal(FakeProcess(), attaching=False).message  # type: ignore[arg-type]


def test_capabilities_are_read_from_the_kernel() -> None:
    effective = parse_capabilities()
    assert [has_capability(number) for number in range(41)] == [bool(effective >> number & 1) for number in range(41)]


def parse_capabilities() -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return int(next(line for line in file if line.startswith("CapEff")).split()[1], 16)
