"""Far ends that fail: the exit status is 5, the message says why, the target runs, and no process is left."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from ..support.checks import assert_still_stopped, assert_target_untouched
from ..support.cores import Core, assert_well_formed
from ..support.engine import (
    ENGINE_SECONDS,
    assert_nothing_left,
    corepipe_started,
    engine_command,
    environment,
    run_corepipe,
)

pytestmark = pytest.mark.live
MODES = ("direct", "buffer", "snapshot")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/no/such/compressor -T0 > core", "command not found (status 127)"),
        ("exit 3", "exit status 3"),
        ("echo no disk here >&2; exit 3", "exit status 3: no disk here"),
        ("head -c 1000 >/dev/null", "ended before it had taken the whole core"),
        ("head -c 5000000 >/dev/null; echo link lost >&2; exit 7", "exit status 7: link lost"),
        ("head -c 5000000 >/dev/null; kill -9 $$", "killed by SIGKILL"),
        ("cat >/dev/null; exit 1", "took the whole core but failed, exit status 1"),
        ("cat > /dev/full", "exit status 1"),
        ("cat > /no/such/folder/core", "No such file or directory"),
        ("false | cat >/dev/null", "exit status 1"),
        ("exec </dev/null; exec sleep 1000", "closed the pipe before the end of the core"),
    ],
)
def test_a_pipe_command_that_fails_is_status_5_and_harms_nobody(spawn_target, tmp_path, mode, command, says):
    target = spawn_target("nine")
    before = target.fingerprint()
    report = tmp_path / "report.json"

    outcome = run_corepipe(target.pid, "--mode", mode, "--report", report, "--pipe", command, check=5, cwd=tmp_path,
                           stdout=subprocess.DEVNULL)  # fmt: skip

    assert says in outcome.stderr
    assert "\n  try: " in outcome.stderr or "see what it printed" in outcome.stderr
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)
    told = outcome.report(report)
    assert told["exit_code"] == 5
    assert told["error"] in outcome.stderr.replace("corepipe: ", "")
    assert told["sink_command"] == command


@pytest.mark.parametrize("mode", MODES)
def test_a_full_disk_at_standard_output_is_status_5(spawn_target, mode):
    target = spawn_target("nine")
    before = target.fingerprint()
    with open("/dev/full", "wb") as full:
        outcome = run_corepipe(target.pid, "--mode", mode, check=5, stdout=full)
    assert "no space left where the core is written" in outcome.stderr
    assert "\n  try: df -h" in outcome.stderr
    assert_target_untouched(target, before)


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_of_standard_output_that_goes_away_is_status_5(spawn_target, mode):
    target = spawn_target("nine")
    before = target.fingerprint()
    with corepipe_started(target.pid, "--mode", mode, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as engine:
        with subprocess.Popen(["head", "-c", "1000"], stdin=engine.stdout, stdout=subprocess.DEVNULL) as head:
            engine.stdout.close()
            assert head.wait() == 0
        assert engine.wait(60) == 5
        assert b"the reader of standard output closed the pipe" in engine.stderr.read()
        assert_nothing_left(engine.pid)
    assert_target_untouched(target, before)


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_target_stays_stopped_when_the_pipe_fails(spawn_target, mode):
    target = spawn_target("nine")
    target.stop()
    before = target.fingerprint()
    run_corepipe(target.pid, "--mode", mode, "--pipe", "head -c 3000000 >/dev/null", check=5)
    assert_still_stopped(target, before)
    target.resume()


def test_a_reader_that_is_slow_and_takes_odd_amounts_gets_the_whole_core(spawn_target, tmp_path):
    target = spawn_target("nine", 8 << 20)
    target.stop()
    run_corepipe(target.pid, "--mode", "buffer", output=tmp_path / "core")
    with corepipe_started(target.pid, "--mode", "buffer", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as engine:
        got = b"".join(iter(lambda: os.read(engine.stdout.fileno(), 4093), b""))
        assert engine.wait(60) == 0
    want = (tmp_path / "core").read_bytes()
    assert len(got) == len(want)
    assert got == want
    target.resume()


def test_a_standard_output_that_does_not_block_gets_the_whole_core(spawn_target, tmp_path):
    target = spawn_target("nine", 8 << 20)
    target.stop()
    run_corepipe(target.pid, "--mode", "buffer", output=tmp_path / "core")
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with corepipe_started(target.pid, "--mode", "buffer", stdout=write_end, stderr=subprocess.DEVNULL) as engine:
        os.close(write_end)
        with open(read_end, "rb") as stream:
            got = stream.read()
        assert engine.wait(60) == 0
    assert got == (tmp_path / "core").read_bytes()
    target.resume()


def test_what_the_pipe_command_prints_reaches_standard_error_without_control_characters(spawn_target):
    target = spawn_target("nine", 4096)
    outcome = run_corepipe(target.pid, "--pipe", r"printf '\033[31mred\007\n' >&2; cat >/dev/null")
    assert "\033" not in outcome.stderr
    assert "\007" not in outcome.stderr
    assert r"\x1b[31mred\x07" in outcome.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_pipe_command_reaches_its_end_although_our_standard_descriptors_are_closed(spawn_target, tmp_path, closed):
    target = spawn_target("nine", 4096)
    before = target.fingerprint()
    command = shlex.join(engine_command(target.pid, "--pipe", f"cat > {tmp_path}/core"))
    result = subprocess.run(
        ["sh", "-c", f"exec {command} {closed}"], env=environment(), timeout=ENGINE_SECONDS, check=False
    )
    assert result.returncode == 0
    assert_well_formed(Core(tmp_path / "core"))
    assert_target_untouched(target, before)
