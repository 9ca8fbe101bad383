"""What corepipe inherits or meets on its host changes neither the target's fate nor the truth of the exit status."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
import stat
import subprocess
import tempfile

import pytest

from ..support import proc
from ..support.checks import assert_target_untouched
from ..support.cores import Core, assert_well_formed
from ..support.engine import (
    REPOSITORY,
    assert_nothing_left,
    corepipe_started,
    end_session,
    engine_command,
    environment,
    run_corepipe,
    wait_frozen,
)
from ..support.waiting import eventually

pytestmark = pytest.mark.live
MODES = ("direct", "buffer", "snapshot")
STUCK = "sleep 1000"
"""A pipe command that takes no byte and does not end."""
NOBODY = pwd.getpwnam("nobody")
SUDO = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": str(NOBODY.pw_gid), "SUDO_USER": "nobody"}


# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
def test_ctrl_z_stops_corepipe_only_after_the_target_runs_again(spawn_target, number):
    target = spawn_target("nine")
    before = target.fingerprint()
    # a process group of its own in our session: in an orphaned one the kernel ignores these signals
    command = engine_command(target.pid, "--mode", "direct", "--pipe", STUCK)
    engine = subprocess.Popen(
        command, env=environment(), preexec_fn=os.setpgrp, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_frozen(target.pid, engine.pid)
        engine.send_signal(number)
        bit = 1 << (number - 1)
        eventually(
            "the signal has arrived",
            lambda: int(proc.status_field(engine.pid, "ShdPnd"), 16) & bit or "T" in engine_states(engine.pid),
        )
        assert "T" not in engine_states(engine.pid)
        engine.send_signal(signal.SIGTERM)
        eventually("corepipe is stopped", lambda: engine_states(engine.pid) == {"T"})
        assert_target_untouched(target, before)
        engine.send_signal(signal.SIGCONT)
        assert engine.wait(30) == 130
    finally:
        if engine.poll() is None:
            os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()


def engine_states(pid):
    return set(proc.thread_states(pid).values())


@pytest.mark.parametrize("mode", MODES)
def test_a_parent_that_ignores_sigchld_hides_no_failure_of_the_pipe_command(spawn_target, mode):
    target = spawn_target("nine")
    before = target.fingerprint()
    outcome = run_corepipe(
        target.pid, "--mode", mode, "--pipe", "cat >/dev/null; exit 3", check=5,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
    )  # fmt: skip
    assert "exit status 3" in outcome.stderr
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)


# --- the core alone at standard output -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "pipe"])
@pytest.mark.parametrize("other", ["stderr", "events"])
def test_nothing_but_the_core_may_go_where_the_core_goes(spawn_target, tmp_path, kind, other):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    read_end, write_end = os.pipe()
    if kind == "file":
        os.close(write_end)
        write_end = os.open(tmp_path / "core", os.O_WRONLY | os.O_CREAT)
    options = {"stdout": write_end, "stderr": write_end if other == "stderr" else subprocess.PIPE}
    arguments = ("--events-fd", 1) if other == "events" else ()
    with corepipe_started(target.pid, *arguments, **options) as engine:
        os.close(write_end)
        errors = engine.stderr.read() if engine.stderr else b""
        assert engine.wait(60) == 2
    if other == "stderr":
        with open(read_end if kind == "pipe" else tmp_path / "core", "rb", closefd=kind != "pipe") as stream:
            errors = stream.read()
    assert b"standard output takes the core, and" in errors
    assert b"\n  try: corepipe PID" in errors
    os.close(read_end)
    assert_target_untouched(target, before)


@pytest.mark.parametrize("arguments", [(), ("--events-fd", 1)])
def test_everything_may_go_to_dev_null(spawn_target, arguments):
    target = spawn_target("nine", 4096)
    with corepipe_started(
        target.pid, *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as engine:  # fmt: skip
        assert engine.wait(60) == 0


def test_events_may_share_a_pipe_with_messages_where_the_core_goes_to_a_command(spawn_target):
    target = spawn_target("nine", 4096)
    with corepipe_started(
        target.pid, "--events-fd", 1, "--pipe", "cat >/dev/null", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as engine:
        assert b'{"event":"finished"' in engine.stdout.read()
        assert engine.wait(60) == 0


# --- far ends that leave a part of the core ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("head -c 100 >/dev/null", "ended before it had taken the whole core, exit status 0"),
        ("head -c 100 >/dev/null; echo enough >&2; exit 3", "whole core, exit status 3: enough"),
        ("while ! [ -e {flag} ]; do sleep 0.01; done", "exit status 0"),
        ("exec </dev/null; exec sleep 1000", "closed the pipe before the end of the core"),
    ],
)
def test_a_command_that_leaves_the_end_of_the_core_in_the_pipe_is_status_5(spawn_target, tmp_path, mode, command, says):
    """The whole core fits into the pipe, so that no write fails."""
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    flag = tmp_path / "report.json"
    with events_pipe() as (stream, write_end), corepipe_started(
        target.pid, "--mode", mode, "--preset", "stacks", "--events-fd", write_end, "--pipe",
        command.format(flag=flag), pass_fds=(write_end,), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as engine:  # fmt: skip
        os.close(write_end)
        for line in stream:
            record = json.loads(line)
            if record["event"] == "planned":
                assert record["core_bytes"] < 1 << 20
            if record["event"] == "phasechanged" and record["phase"] == "finish":
                flag.touch()
        assert engine.wait(60) == 5
        assert says in engine.stderr.read().decode()
        assert_nothing_left(engine.pid)
    assert_target_untouched(target, before)


def test_a_command_may_take_the_core_in_several_programs(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    command = f"head -c 100 > {tmp_path}/first; cat > {tmp_path}/rest"
    report = tmp_path / "report.json"
    outcome = run_corepipe(target.pid, "--report", report, "--pipe", command)
    size = (tmp_path / "first").stat().st_size + (tmp_path / "rest").stat().st_size
    assert size == outcome.report(report)["bytes_written"]


def test_a_reader_of_standard_output_that_leaves_the_end_of_the_core_is_status_5(spawn_target):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    read_end, write_end = os.pipe()
    with events_pipe() as (stream, events_end), corepipe_started(
        target.pid, "--preset", "stacks", "--events-fd", events_end, pass_fds=(events_end,), stdout=write_end,
        stderr=subprocess.PIPE,
    ) as engine:  # fmt: skip
        os.close(write_end)
        os.close(events_end)
        assert any(json.loads(line).get("phase") == "finish" for line in stream)
        assert engine.poll() is None
        os.close(read_end)
        assert stream.read()
        assert engine.wait(60) == 5
        assert b"the reader of standard output closed the pipe before the end of the core" in engine.stderr.read()
    assert_target_untouched(target, before)


@pytest.mark.parametrize("arguments", [(), ("--pipe", STUCK)])
def test_waiting_for_the_end_of_the_core_to_be_read_can_be_interrupted(spawn_target, arguments):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    read_end, write_end = os.pipe()
    with events_pipe() as (stream, events_end), corepipe_started(
        target.pid, "--preset", "stacks", *arguments, "--events-fd", events_end, pass_fds=(events_end,),
        stdout=write_end, stderr=subprocess.DEVNULL,
    ) as engine:  # fmt: skip
        os.close(write_end)
        os.close(events_end)
        assert any(json.loads(line).get("phase") == "finish" for line in stream)
        engine.send_signal(signal.SIGINT)
        assert engine.wait(60) == 130
        assert_nothing_left(engine.pid)
    os.close(read_end)
    assert_target_untouched(target, before)


@contextlib.contextmanager
def events_pipe():
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as stream:
        yield stream, write_end


def test_the_target_runs_before_a_broken_pipe_is_explained(spawn_target):
    """The command that broke the pipe ends, and says why, only once nobody traces the target any more."""
    target = spawn_target("nine")
    before = target.fingerprint()
    command = (
        f"exec </dev/null; while ! grep -q '^TracerPid:.0' /proc/{target.pid}/status; do sleep 0.01; done; "
        "echo the target runs >&2; exit 7"
    )
    outcome = run_corepipe(target.pid, "--mode", "direct", "--pipe", command, check=5)
    assert "ended before it had taken the whole core, exit status 7: the target runs" in outcome.stderr
    assert_target_untouched(target, before)


def test_a_process_that_prints_for_ever_does_not_keep_corepipe_from_its_end(spawn_target):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    outcome = run_corepipe(
        target.pid, "-q", "--pipe", "(while :; do echo more; done >&2) & cat >/dev/null; exit 3", check=5
    )
    assert "took the whole core but failed, exit status 3" in outcome.stderr
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)


# --- limits of the host --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", range(6, 24))
def test_too_few_descriptors_are_told_in_words_and_the_target_runs(spawn_target, limit):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    outcome = run_corepipe(
        target.pid, "--mode", "direct", "--pipe", "cat >/dev/null", check=None,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )  # fmt: skip
    assert outcome.status in (0, 1, 5), outcome.stderr
    assert "Traceback" not in outcome.stderr
    if outcome.status == 1:
        assert "open no more files; the target runs\n  try: ulimit" in outcome.stderr or "Too many" in outcome.stderr
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)


def test_a_bug_is_one_line_an_event_and_in_the_report_and_with_v_a_traceback(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    (tmp_path / "sitecustomize.py").write_text(
        "import corepipe_engine.dump as dump\ndef broken(plan):\n    raise KeyError('broken')\ndump._planned = broken\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    report = tmp_path / "report.json"
    outcome = run_corepipe(target.pid, "--mode", "direct", "--report", report, check=1, extra_env=path)
    assert outcome.stderr.splitlines()[0] == "corepipe: internal error: KeyError: 'broken'; the target runs"
    told = outcome.report(report)
    assert told["exit_code"] == 1
    assert told["error"] == "internal error: KeyError: 'broken'; the target runs"
    assert "in broken" in told["traceback"]
    outcome = run_corepipe(target.pid, "-v", "--mode", "direct", check=None, extra_env=path)
    assert outcome.status == 1
    assert "in broken" in outcome.stderr
    assert_target_untouched(target, before)


def test_no_core_of_corepipe_itself_can_be_made(spawn_target):
    target = spawn_target("nine")
    with corepipe_started(
        target.pid, "--mode", "direct", "--pipe", STUCK, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)),
    ) as engine:  # fmt: skip
        wait_frozen(target.pid, engine.pid)
        assert resource.prlimit(engine.pid, resource.RLIMIT_CORE) == (0, 0)
        engine.send_signal(signal.SIGSEGV)
        _, status = os.waitpid(engine.pid, 0)
        assert os.WIFSIGNALED(status)
        assert not os.WCOREDUMP(status)
        end_session(engine.pid)


# --- under sudo ----------------------------------------------------------------------------------------------------


def test_under_sudo_the_command_can_open_its_standard_input_and_error(spawn_target, open_folder):
    target = spawn_target("nine", 4096)
    command = f"echo from inside >/dev/stderr; cat /dev/stdin > {open_folder}/core"
    outcome = run_corepipe(target.pid, "--pipe", command, extra_env=SUDO, cwd=open_folder)
    assert "from inside" in outcome.stderr
    assert_well_formed(Core(open_folder / "core"))


def test_under_sudo_it_is_told_who_runs_the_command(spawn_target, open_folder):
    target = spawn_target("nine", 4096)
    report = open_folder / "report.json"
    notice = "the pipe command runs as nobody, umask 077; --pipe-as-root turns that off"
    outcome = run_corepipe(target.pid, "--report", report, "--pipe", "cat >/dev/null", extra_env=SUDO, cwd="/")
    assert f"corepipe: {notice}\n" in outcome.stderr
    assert notice in outcome.report(report)["notices"]
    outcome = run_corepipe(target.pid, "--pipe-as-root", "--pipe", "cat >/dev/null", extra_env=SUDO, cwd="/")
    assert "runs as" not in outcome.stderr


@pytest.mark.parametrize("pipe", [(), ("--pipe", "cat >/dev/null")])
def test_under_sudo_the_report_belongs_to_the_invoking_user(spawn_target, open_folder, pipe):
    target = spawn_target("nine", 4096)
    report = open_folder / "report.json"
    run_corepipe(target.pid, *pipe, "--report", report, extra_env=SUDO, cwd=open_folder)
    found = report.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, NOBODY.pw_gid, 0o600)
    assert json.loads(report.read_text())["exit_code"] == 0
    assert os.listdir(open_folder) == ["report.json"]


def test_under_sudo_the_report_goes_only_where_the_invoking_user_may_write(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith(tempfile.gettempdir() + "/"):
            folder.chmod(0o755)
    report = tmp_path / "report.json"
    outcome = run_corepipe(target.pid, "--report", report, extra_env=SUDO, check=1)
    assert f"cannot write the report {report} as nobody: Permission denied\n  try: --pipe-as-root" in outcome.stderr
    report.write_text("root's")
    run_corepipe(target.pid, "--report", report, extra_env=SUDO, check=1)
    assert report.read_text() == "root's"
    run_corepipe(target.pid, "--pipe-as-root", "--report", report, extra_env=SUDO)
    assert json.loads(report.read_text())["pid"] == target.pid
    assert_target_untouched(target, before)
