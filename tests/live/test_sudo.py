"""Under sudo the pipe command belongs to the person who called it: a core holds secrets."""

from __future__ import annotations

import pwd
import stat

import pytest

from ..support.cores import Core, assert_well_formed
from ..support.engine import run_corepipe

pytestmark = pytest.mark.live
NOBODY = pwd.getpwnam("nobody")
SUDO = {
    "SUDO_UID": str(NOBODY.pw_uid),
    "SUDO_GID": str(NOBODY.pw_gid),
    "SUDO_USER": "nobody",
    "SUDO_COMMAND": "/usr/bin/corepipe",
}


def test_the_pipe_command_runs_as_the_invoking_user_and_its_file_is_his_alone(spawn_target, open_folder):
    target = spawn_target("nine", 4096)
    report = open_folder / "report.json"
    command = f"cat > {open_folder}/core; id -u > {open_folder}/id; id -G >> {open_folder}/id; env > {open_folder}/env"
    outcome = run_corepipe(target.pid, "--report", report, "--pipe", command, extra_env=SUDO, cwd=open_folder)
    core = (open_folder / "core").stat()
    assert core.st_uid == NOBODY.pw_uid
    assert core.st_gid == NOBODY.pw_gid
    assert stat.S_IMODE(core.st_mode) == 0o600
    assert_well_formed(Core(open_folder / "core"))
    assert (open_folder / "id").read_text().split() == [str(NOBODY.pw_uid), str(NOBODY.pw_gid)]
    environment = dict(line.split("=", 1) for line in (open_folder / "env").read_text().splitlines() if "=" in line)
    assert environment["HOME"] == NOBODY.pw_dir
    assert environment["USER"] == "nobody"
    assert "SUDO_UID" not in environment
    assert outcome.report(report)["sink_user"] == "nobody"


def test_the_pipe_command_holds_no_descriptor_that_leads_back_to_the_target(spawn_target, open_folder):
    target = spawn_target("nine", 4096)
    command = f"ls -l /proc/self/fd > {open_folder}/fds; cat >/dev/null"
    run_corepipe(target.pid, "--pipe", command, extra_env=SUDO, cwd=open_folder)
    listing = (open_folder / "fds").read_text()
    assert f"/proc/{target.pid}" not in listing
    assert "pidfd" not in listing


def test_pipe_as_root_keeps_the_pipe_command_root(spawn_target, open_folder):
    target = spawn_target("nine", 4096)
    run_corepipe(target.pid, "--pipe-as-root", "--pipe", f"cat > {open_folder}/core", extra_env=SUDO, cwd=open_folder)
    core = (open_folder / "core").stat()
    assert core.st_uid == 0
    assert stat.S_IMODE(core.st_mode) == 0o600


def test_what_the_invoking_user_may_not_write_the_pipe_command_may_not_either(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    tmp_path.chmod(0o700)
    outcome = run_corepipe(target.pid, "--pipe", f"cat > {tmp_path}/core", extra_env=SUDO, check=5, cwd="/")
    assert "Permission denied" in outcome.stderr
    assert not (tmp_path / "core").exists()


def test_a_sudo_uid_that_is_nobodys_is_status_2(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    environment = {**SUDO, "SUDO_UID": "4123456"}
    outcome = run_corepipe(target.pid, "--pipe", f"cat > {tmp_path}/core", extra_env=environment, check=2)
    assert "SUDO_UID=4123456 is no user of this host" in outcome.stderr
    assert "try: --pipe-as-root" in outcome.stderr


def test_a_new_core_of_root_is_not_readable_by_others_either(spawn_target, open_folder):
    target = spawn_target("nine", 4096)
    run_corepipe(target.pid, "--pipe", f"cat > {open_folder}/core")
    assert stat.S_IMODE((open_folder / "core").stat().st_mode) == 0o600
