"""What corepipe inherits or meets on its host changes neither the target's fate nor the truth of the exit status."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from ..support import proc
from ..support.checks import assert_target_untouched
from ..support.engine import assert_nothing_left, engine_command, environment, run_corepipe, wait_frozen
from ..support.waiting import eventually

pytestmark = pytest.mark.live
MODES = ("direct", "buffer")
STUCK = "sleep 1000"
"""A pipe command that takes no byte and does not end."""


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
