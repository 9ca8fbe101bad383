"""sink.py: a shell command or a descriptor; its end is told truly, and an abort never looks like the end of a core."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import time
from pathlib import Path

import pytest

from corepipe_engine import sink as sink_module
from corepipe_engine.errors import SinkError, UsageError
from corepipe_engine.sink import (
    CommandSink,
    FdSink,
    Invoker,
    check_syntax,
    describe_status,
    sudo_invoker,
    write_error,
)

PATIENCE_SECONDS = 60.0
needs_bash = pytest.mark.skipif(not shutil.which("bash", path="/bin:/usr/bin"), reason="no bash: no pipefail")


def finish(sink: CommandSink) -> int:
    """Close the pipe and return the status; everything the command printed is taken."""
    sink.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not sink.poll() or sink.stderr_fd >= 0:
        sink.take_stderr()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert sink.status is not None
    return sink.status


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_command_gets_the_bytes_and_then_the_end(tmp_path: Path) -> None:
    sink = CommandSink(f"cat | cat > '{tmp_path}/core'", None)
    os.write(sink.fd, b"core")
    assert finish(sink) == 0
    assert (tmp_path / "core").read_bytes() == b"core"
    assert sink.fd == -1
    sink.close()


def test_what_a_command_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    finish(CommandSink(f"cat > '{tmp_path}/core'", None))
    assert stat.S_IMODE((tmp_path / "core").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("exit 3", 3, "exit status 3"),
        ("cat > /dev/null; exit 255", 255, "exit status 255"),
        ("kill -9 $$", 137, "killed by SIGKILL"),
        ("kill -TERM $$", 143, "killed by SIGTERM"),
        ("corepipe-test-no-such-command", 127, "command not found (status 127)"),
        ("/dev/null", 126, "not executable (status 126)"),
        ("true", 0, "exit status 0"),
    ],
)
def test_the_end_of_a_command_is_told_as_the_shell_tells_it(command: str, status: int, words: str) -> None:
    sink = CommandSink(command, None)
    assert finish(sink) == status
    assert describe_status(status) == words


@needs_bash
def test_a_first_stage_that_fails_is_not_hidden_by_the_last() -> None:
    assert finish(CommandSink("(exit 9) | cat > /dev/null", None)) == 9


def test_the_tail_of_what_a_command_prints_is_kept() -> None:
    sink = CommandSink("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; echo 'the end' >&2", None)
    finish(sink)
    tail = sink.stderr_tail()
    assert tail.endswith("line 2999\nthe end\n")
    assert len(tail) <= 8192
    assert sink.take_stderr() == ""


def test_bytes_that_are_no_text_do_not_break_the_tail() -> None:
    sink = CommandSink(r"printf '\377\376 bad' >&2", None)
    finish(sink)
    assert sink.stderr_tail().endswith(" bad")


@pytest.mark.parametrize("command", ["", "   ", "\n", "cat > 'core", "cat |", "if true", "cat > a\0b", "(("])
def test_what_the_shell_cannot_parse_is_refused_before_anything_runs(command: str) -> None:
    with pytest.raises(UsageError):
        CommandSink(command, None)


def test_checking_a_command_runs_nothing_of_it(tmp_path: Path) -> None:
    check_syntax(f"touch '{tmp_path}/made'")
    with pytest.raises(UsageError, match="cannot parse"):
        check_syntax(f"touch '{tmp_path}/made'; $(touch '{tmp_path}/made'; (")
    assert list(tmp_path.iterdir()) == []


def test_an_abort_ends_every_stage(tmp_path: Path) -> None:
    """Two stages that would note the end of a whole core, and a third below a shell of its own."""
    command = (
        f"(echo > '{tmp_path}/first'; cat && echo > '{tmp_path}/whole1') | "
        f"sh -c 'echo > {tmp_path}/second; cat > {tmp_path}/core && echo > {tmp_path}/whole2'"
    )
    sink = CommandSink(command, None)
    os.write(sink.fd, b"half a core")
    wait_for(tmp_path / "first")
    wait_for(tmp_path / "second")
    sink.abort()
    assert sink.poll()
    assert sink.status != 0
    assert not list(tmp_path.glob("whole*"))
    sink.abort()


def test_a_stage_that_ignores_the_polite_signal_is_ended_before_the_pipe_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "_KILL_GRACE_SECONDS", 0.2)
    stubborn = f'trap "" TERM; echo $$ > {tmp_path}/pid; cat > {tmp_path}/core; echo > {tmp_path}/whole'
    sink = CommandSink(f"sh -c '{stubborn}' | cat", None)
    os.write(sink.fd, b"half a core")
    wait_for(tmp_path / "core")
    sink.abort()
    pid = int((tmp_path / "pid").read_text())
    assert not (tmp_path / "whole").exists()
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] in "ZX"


def test_an_abort_after_the_end_changes_nothing() -> None:
    sink = CommandSink("true", None)
    assert finish(sink) == 0
    sink.abort()
    assert sink.status == 0


# --- who the command runs as ---------------------------------------------------------------------------------------


def somebody() -> pwd.struct_passwd:
    return next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)


def test_under_sudo_the_invoking_user_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = somebody()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(entry.pw_uid))
    invoker = sudo_invoker()
    assert invoker is not None
    assert (invoker.uid, invoker.gid, invoker.name, invoker.home) == (
        entry.pw_uid,
        entry.pw_gid,
        entry.pw_name,
        entry.pw_dir,
    )
    assert entry.pw_gid in invoker.groups


@pytest.mark.parametrize(("euid", "sudo_uid"), [(0, None), (0, "0"), (0, ""), (1000, "1001")])
def test_without_sudo_there_is_nobody_to_become(
    monkeypatch: pytest.MonkeyPatch, euid: int, sudo_uid: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.delenv("SUDO_UID", raising=False)
    if sudo_uid is not None:
        monkeypatch.setenv("SUDO_UID", sudo_uid)
    assert sudo_invoker() is None


@pytest.mark.parametrize("text", ["root", "-1", "4294967290", "99999999999999999999", "1;id"])
def test_a_sudo_uid_that_is_no_user_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", text)
    with pytest.raises(UsageError) as caught:
        sudo_invoker()
    assert caught.value.hint == "--pipe-as-root"


def test_the_command_sees_the_home_of_its_user_and_nothing_of_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HOME", "/root")
    environment = sink_module._environment(Invoker(1000, 1000, "ada", "/home/ada", ()))
    assert (environment["HOME"], environment["USER"], environment["LOGNAME"]) == ("/home/ada", "ada", "ada")
    assert not [name for name in environment if name.startswith("SUDO_")]
    assert environment["PATH"] == os.environ["PATH"]
    assert sink_module._environment(None)["HOME"] == "/root"


# --- descriptors ---------------------------------------------------------------------------------------------------


def test_a_terminal_is_refused() -> None:
    main_fd, terminal = os.openpty()
    with pytest.raises(UsageError, match="terminal"):
        FdSink(terminal)
    os.close(main_fd)
    os.close(terminal)


def test_a_descriptor_is_closed_once() -> None:
    read_fd, write_fd = os.pipe()
    sink = FdSink(write_fd)
    assert (sink.fd, sink.command, sink.status, sink.stderr_fd) == (write_fd, "", None, -1)
    sink.close()
    assert os.read(read_fd, 1) == b""
    sink.close()
    sink.abort()
    assert sink.poll()
    assert sink.take_stderr() == sink.stderr_tail() == ""
    os.close(read_fd)


def test_a_write_error_that_comes_with_the_close_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    read_fd, write_fd = os.pipe()
    sink = FdSink(write_fd)
    close = os.close

    def failing_close(fd: int) -> None:
        close(fd)
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing_close)
        with pytest.raises(SinkError, match="quota"):
            sink.close()
    os.close(read_fd)


@pytest.mark.parametrize(
    ("number", "command", "words"),
    [
        (errno.EPIPE, "", "the reader of standard output closed the pipe"),
        (errno.EPIPE, "zstd", "the pipe command closed the pipe"),
        (errno.ENOSPC, "", "no space left"),
        (errno.EIO, "", os.strerror(errno.EIO)),
    ],
)
def test_a_failed_write_is_told_in_words(number: int, command: str, words: str) -> None:
    assert words in write_error(OSError(number, os.strerror(number)), command).message


@pytest.mark.parametrize(
    ("status", "words"), [(128, "exit status 128"), (130, "killed by SIGINT"), (129 + 100, "exit status 229")]
)
def test_statuses_in_words(status: int, words: str) -> None:
    assert describe_status(status) == words


# --- the end of the stream -----------------------------------------------------------------------------------------


def test_a_pipe_is_drained_once_all_is_read_and_broken_if_the_reader_leaves_some() -> None:
    read_fd, write_fd = os.pipe()
    sink = FdSink(write_fd)
    assert sink.drained()
    os.write(write_fd, b"core")
    assert not sink.drained()
    os.read(read_fd, 3)
    assert not sink.drained()
    os.close(read_fd)
    with pytest.raises(SinkError, match="the reader of standard output closed the pipe"):
        sink.drained()
    sink.close()


def test_a_reader_that_leaves_after_the_last_byte_has_the_whole_core() -> None:
    read_fd, write_fd = os.pipe()
    sink = FdSink(write_fd)
    os.write(write_fd, b"core")
    os.read(read_fd, 4)
    os.close(read_fd)
    assert sink.drained()
    sink.close()


def test_a_file_is_always_drained(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "core", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"core")
    sink = FdSink(fd)
    os.lseek(fd, 0, os.SEEK_SET)
    assert sink.drained()
    sink.close()


def test_a_command_that_ends_well_with_bytes_left_in_the_pipe_has_not_taken_them(tmp_path: Path) -> None:
    sink = CommandSink(f"until [ -e '{tmp_path}/end' ]; do sleep 0.01; done", None)
    os.write(sink.fd, b"core")
    assert not sink.drained()
    (tmp_path / "end").touch()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not sink.poll():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    with pytest.raises(SinkError, match="the pipe command closed the pipe"):
        sink.drained()
    sink.close()


# --- shells --------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_bash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_SHELL_FOLDERS", "/no/such/folder")


@needs_bash
def test_without_bash_a_sh_that_knows_pipefail_is_used_with_it(
    without_bash: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sh").symlink_to(str(shutil.which("bash", path="/bin:/usr/bin")))
    monkeypatch.setattr(sink_module, "_SH", str(tmp_path / "sh"))
    assert finish(CommandSink("(exit 9) | cat > /dev/null", None)) == 9


def test_without_bash_a_sh_that_does_not_know_pipefail_runs_the_command(
    without_bash: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = tmp_path / "sh"
    shell.write_text('#!/bin/sh\n[ "$1" != -o ] || exit 2\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    monkeypatch.setattr(sink_module, "_SH", str(shell))
    assert finish(CommandSink("(exit 9) | cat > /dev/null", None)) == 0
    assert finish(CommandSink("exit 4", None)) == 4
