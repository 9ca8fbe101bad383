"""Where a snapshot can be had, where not and why, and that whoever meets one never notices."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
from pathlib import Path

import pytest

from ..support import proc
from ..support.cgroups import new_cgroup
from ..support.checks import assert_counter_moves, assert_running, assert_target_untouched
from ..support.cores import NT_PRPSINFO, Core, assert_well_formed, pattern
from ..support.dumps import AREA_BYTES, TABLE, assert_falls_back, assert_snapshot, dump
from ..support.engine import assert_nothing_left, run_corepipe
from ..support.machines import CALLS, HOST
from ..support.snapshots import never_seen_in, streaming, traced_by
from ..support.targets import Target, start_as_init, start_target
from ..support.waiting import eventually

pytestmark = pytest.mark.live
NOBODY = 65534
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))
CLONE, WAIT4, EXIT, SIGRETURN = (CALLS[name] for name in ("clone", "wait4", "exit", "rt_sigreturn"))
PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21
NO_PROCESS = r"no further process \(EAGAIN\): RLIMIT_NPROC, or pids\.max"


FALLS_BACK = "falls back to `buffer` and says why"


def in_snapshot(row: str):
    """Mark a test that tells of mode `snapshot` alone."""
    return pytest.mark.tells(TABLE, row, "snapshot")


def without_sys_admin() -> None:
    """Between fork and exec: root's next program has no CAP_SYS_ADMIN."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_CAPBSET_DROP")


# --- seccomp -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("allow",), ("errno", CLONE), ("errno", WAIT4)], ids=["allow", "errno-clone", "errno-wait4"]
)
@in_snapshot("under a seccomp filter")
def test_a_filter_that_kills_nobody_is_passed(spawn_target, tmp_path, arguments):
    target = spawn_target("confined", *arguments)
    for _ in range(3):
        assert_snapshot(target, tmp_path)
    assert proc.status_field(target.pid, "Seccomp") == "2"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("kill", CLONE), "seccomp filter forbids clone (KILL_PROCESS)"),
        (("thread", CLONE), "seccomp filter forbids clone (KILL_THREAD)"),
        (("trap", CLONE), "seccomp filter forbids clone (TRAP)"),
        (("kill", WAIT4), "seccomp filter forbids wait4 (KILL_PROCESS)"),
        (("errno", EXIT), "seccomp filter forbids exit (ERRNO)"),
        (("errno", SIGRETURN), "seccomp filter forbids sigreturn (ERRNO)"),
        (("strict",), "seccomp's strict mode"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
@in_snapshot("under a seccomp filter that kills on clone, or strict mode")
def test_a_filter_that_would_kill_or_bar_the_way_home_is_never_met(spawn_target, tmp_path, arguments, reason, tell):
    tell(FALLS_BACK)
    target = spawn_target("confined", *arguments)
    if arguments == ("strict",):
        eventually("strict mode", lambda: proc.status_field(target.pid, "Seccomp") == "1")
    assert_falls_back(target, tmp_path, re.escape(reason))


def test_without_cap_sys_admin_a_filter_is_not_looked_into(spawn_target, tmp_path):
    target = spawn_target("confined", "allow")
    assert_falls_back(target, tmp_path, "only CAP_SYS_ADMIN may look into it", preexec_fn=without_sys_admin)


def test_without_cap_sys_admin_a_target_without_filter_is_copied(spawn_target, tmp_path):
    assert_snapshot(spawn_target("odd"), tmp_path, preexec_fn=without_sys_admin)


# --- what the kernel grants ----------------------------------------------------------------------------------------


@in_snapshot("at its limit of processes (RLIMIT_NPROC)")
def test_rlimit_nproc(build_target, open_folder, tmp_path, tell):
    """Without CAP_SYS_ADMIN and CAP_SYS_RESOURCE, as a user other than root, the limit holds."""
    tell(FALLS_BACK)
    with start_target(
        [build_target("odd")], open_folder, state_mode=0o666, user=NOBODY, group=NOBODY, extra_groups=[],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)),
    ) as target:  # fmt: skip
        assert_falls_back(target, tmp_path, NO_PROCESS)


@in_snapshot("in a cgroup at its limit of processes (pids.max)")
def test_pids_max(spawn_target, tmp_path, tell):
    tell(FALLS_BACK)
    target = spawn_target("odd")
    with new_cgroup("pids") as group:
        if group is None:
            pytest.skip("no pids controller to make a cgroup with")
        group.add(target.pid)
        group.limit(1)
        assert_falls_back(target, tmp_path, NO_PROCESS)
        group.limit(2)  # the helper is one more, the snapshot another
        assert_falls_back(target, tmp_path, NO_PROCESS)
        group.limit(3)
        assert_snapshot(target, tmp_path)


def meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


@contextlib.contextmanager
def no_overcommit():
    path = Path("/proc/sys/vm/overcommit_memory")
    old = path.read_text()
    try:
        path.write_text("2")
    except OSError as error:
        pytest.skip(f"vm.overcommit_memory cannot be set here: {error}")
    try:
        yield
    finally:
        path.write_text(old)


@pytest.mark.alone
@in_snapshot("overcommit forbidden, no room for a second one")
def test_overcommit_forbidden(spawn_target, tmp_path, tell):
    tell(FALLS_BACK)
    room = meminfo("CommitLimit") - meminfo("Committed_AS")
    if room < 1 << 30:
        pytest.skip("too little memory is left to be committed on this machine")
    target = spawn_target("odd", "commit", room * 3 // 5 // 4096 * 4096)  # once it fits, twice it does not
    with no_overcommit():
        assert_falls_back(target, tmp_path, r"no memory for a fork \(ENOMEM\); vm\.overcommit_memory may be 2")
    assert_snapshot(target, tmp_path)


@in_snapshot("in a cgroup whose memory is nearly used up")
def test_a_memory_cgroup_that_is_nearly_full(spawn_target, tmp_path, tell):
    tell(FALLS_BACK)
    target = spawn_target("odd")
    with new_cgroup("memory") as group:
        if group is None:
            pytest.skip("no memory controller to make a cgroup with")
        group.add(target.pid)
        group.limit(group.usage + (16 << 20))
        assert_falls_back(
            target, tmp_path, r"a snapshot may need 3\d\.\d+ MiB, and the target can get no more than 1\d\.\d+ MiB"
        )
        group.limit(group.usage + (128 << 20))
        assert_snapshot(target, tmp_path)


# --- what the target is --------------------------------------------------------------------------------------------


@in_snapshot("program: static, without a C library")
def test_a_program_without_a_c_library(build_target, tmp_path, tell):
    tell(FALLS_BACK)
    program = build_target("bare", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector")
    with start_target([program], tmp_path) as target:
        if HOST == "aarch64":  # the vDSO has all that it takes
            assert_snapshot(target, tmp_path)
        else:
            assert_falls_back(target, tmp_path, r"holds no system call that could be used \(no C library\)")


@pytest.mark.tells("memory", "served by userfaultfd", "snapshot")
@in_snapshot("uses userfaultfd")
def test_userfaultfd(spawn_target, tmp_path, tell):
    tell(FALLS_BACK)
    assert_falls_back(spawn_target("odd", "userfaultfd"), tmp_path, "the target uses userfaultfd")


@pytest.mark.tells("memory", "main stack in use down to its end", "snapshot")
@pytest.mark.parametrize(
    ("limit", "depth"), [(resource.RLIM_INFINITY, 4 << 20), (256 << 10, 200 << 10)], ids=["grown", "small-limit"]
)
@in_snapshot("main stack in use down to its end")
def test_a_main_stack_in_use_down_to_its_end(spawn_target, tmp_path, limit, depth, tell):
    tell(FALLS_BACK)
    target = spawn_target(
        "odd", "deep", depth, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (limit, limit))
    )
    core = assert_falls_back(target, tmp_path, "main stack is in use down to its end")
    frame = target.number("frame")
    assert set(core.read(frame, depth)[63::64]) == {0x5A}


@pytest.mark.tells("memory", "main stack in use down to its end", "direct")
def test_a_main_stack_in_use_down_to_its_end_is_whole_in_mode_direct(spawn_target, tmp_path):
    target = spawn_target("odd", "deep", 4 << 20)
    core, _, _ = dump(target, tmp_path, "--mode", "direct")
    assert set(core.read(target.number("frame"), 4 << 20)[63::64]) == {0x5A}


def test_a_main_thread_on_another_stack(spawn_target, tmp_path):
    target = spawn_target("checker", "altstack")
    for _ in range(5):
        assert_snapshot(target, tmp_path)


# --- who would inherit the snapshot --------------------------------------------------------------------------------


def assert_notices_nothing(target: Target, busy: bool) -> None:
    """Neither a SIGCHLD nor a child but those the target has of its own."""
    assert target.failures == 0
    assert set(target.signals) <= ({signal.SIGCHLD} if busy else set())
    assert_counter_moves(target)
    assert target.failures == 0


SIGCHLD_KINDS = ("handler", "default", "ignore", "signalfd")


@pytest.mark.needs("unshare")
@pytest.mark.parametrize("kind", SIGCHLD_KINDS)
@in_snapshot("pid 1 of a pid namespace, as in a container")
def test_pid_1_of_its_namespace_is_copied_and_has_no_child_to_notice(build_target, tmp_path, kind):
    with start_as_init([build_target("parent"), kind], tmp_path) as target:
        assert target.facts["seen_pid"] == "1"
        for _ in range(5):
            core = assert_snapshot(target, tmp_path)
            assert core.thread_ids == [1]
            assert core.note(NT_PRPSINFO).parsed["pr_pid"] == 1
            assert_notices_nothing(target, busy=False)


@pytest.mark.needs("unshare")
def test_pid_1_under_a_filter_that_forbids_wait4_keeps_no_zombie(build_target, tmp_path):
    """The filter is suspended in the second stop too, in which the target reaps the snapshot."""
    with start_as_init([build_target("confined"), "errno", str(WAIT4)], tmp_path) as target:
        for _ in range(2):
            assert_snapshot(target, tmp_path)
            assert not proc.children(target.pid)


@pytest.mark.parametrize("kind", SIGCHLD_KINDS)
@in_snapshot("a subreaper (systemd --user, docker-init)")
def test_a_subreaper_is_copied_to_ram_and_has_no_child_to_notice(spawn_target, tmp_path, kind, tell):
    tell(FALLS_BACK)
    target = spawn_target("parent", kind, "subreaper")
    assert_falls_back(target, tmp_path, "the target is a subreaper and would inherit the snapshot")
    for _ in range(4):
        run_corepipe(target.pid, output=tmp_path / "core")
        assert_notices_nothing(target, busy=False)
    assert not proc.children(target.pid)


@pytest.mark.needs("unshare")
@pytest.mark.parametrize("kind", ["handler", "signalfd"])
@pytest.mark.parametrize(("role", "dumps"), [("plain", 4), ("subreaper", 6), ("init", 12)])
def test_no_sigchld_of_the_targets_own_children_is_lost(build_target, tmp_path, kind, role, dumps):
    """Each child that ends must be told by a signal, or the target waits for ever. Signals of a kind do not queue."""
    command = [build_target("parent"), kind, "busy", *(["subreaper"] if role == "subreaper" else [])]
    start = start_as_init if role == "init" else start_target
    with start(command, tmp_path) as target:
        for _ in range(500 if SOAK else dumps):
            outcome = run_corepipe(target.pid, output=tmp_path / "core")
            assert_notices_nothing(target, busy=True)
            assert_running(target.pid)
            assert_nothing_left(outcome.pid)
        assert target.signals[signal.SIGCHLD] - target.counter in (0, 1), "one signal a child, and the next one's"
        assert Core(tmp_path / "core").read(target.number("area"), AREA_BYTES) == pattern(AREA_BYTES)


# --- while the snapshot is streamed --------------------------------------------------------------------------------


def test_a_snapshot_that_is_killed_ends_the_dump_with_status_1(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    with streaming(target.pid) as stream:
        assert (Path(f"/proc/{stream.snapshot}/oom_score_adj").read_text()) == "1000\n"
        os.kill(stream.snapshot, signal.SIGKILL)
        assert stream.engine.wait(60) == 1
        errors = stream.errors()
    assert "the snapshot was killed before it had been streamed" in errors
    assert "the target is untouched and runs" in errors
    assert "Traceback" not in errors
    assert_target_untouched(target, before)
    assert_nothing_left(stream.engine.pid)


def test_the_snapshot_dies_first_when_memory_runs_out(spawn_target, tmp_path):
    target = spawn_target("nine")
    adjustment = Path(f"/proc/{target.pid}/oom_score_adj")
    before = adjustment.read_text()
    with streaming(target.pid) as stream:
        assert Path(f"/proc/{stream.snapshot}/oom_score_adj").read_text() == "1000\n"
        assert adjustment.read_text() == before
        assert_well_formed(stream.read_core(tmp_path / "core"))
    assert adjustment.read_text() == before


def test_kill_9_of_corepipe_takes_the_snapshot_along_and_the_target_runs_all_the_time(spawn_target):
    target = spawn_target("nine")
    before = target.fingerprint()
    for _ in range(3):
        with streaming(target.pid) as stream:
            with never_seen_in(target.pid, "tTXZ"):
                stream.engine.kill()
                stream.engine.wait()
                assert_counter_moves(target)
            eventually("the snapshot is gone", lambda: not is_process(stream.snapshot))
        assert_target_untouched(target, before)


def test_kill_9_of_corepipe_takes_the_snapshot_along_though_the_targets_group_is_stopped(spawn_target):
    target = spawn_target("nine")
    with streaming(target.pid) as stream:
        eventually("the snapshot is in a group of its own", lambda: os.getpgid(stream.snapshot) == stream.snapshot)
        os.killpg(os.getpgid(target.pid), signal.SIGSTOP)
        stream.engine.kill()
        stream.engine.wait()
        eventually("the snapshot is gone", lambda: not is_process(stream.snapshot))
        os.killpg(os.getpgid(target.pid), signal.SIGCONT)
    assert_running(target.pid)
    assert_counter_moves(target)


def is_process(pid: int) -> bool:
    """Whether there is such a process that has not ended; who reaps it is not ours to say."""
    try:
        return proc.status_field(pid, "State")[0] not in "ZX"
    except (OSError, KeyError):
        return False


def test_a_snapshot_is_a_child_of_neither_the_target_nor_corepipe(spawn_target, tmp_path):
    target = spawn_target("nine")
    with streaming(target.pid) as stream:
        parent = int(proc.status_field(stream.snapshot, "PPid"))
        assert parent not in (target.pid, stream.engine.pid)
        eventually("it stands still", lambda: proc.status_field(stream.snapshot, "State")[0] == "t")
        assert traced_by(stream.engine.pid) == {stream.snapshot}
        assert not proc.children(target.pid)
        stream.read_core(tmp_path / "core")
        assert not is_process(stream.snapshot)


def test_a_target_obeys_signals_at_once_while_it_is_streamed(spawn_target, tmp_path):
    target = spawn_target("nine", 32 << 20, signals="default")
    with streaming(target.pid) as stream:
        target.stop()
        target.resume()
        assert_counter_moves(target)
        target.process.terminate()
        assert target.process.wait(60) == -signal.SIGTERM
        core = stream.read_core(tmp_path / "core")
    assert_well_formed(core)
    size = target.number("area_bytes")
    assert core.read(target.number("area"), size) == pattern(size)
    assert_nothing_left(stream.engine.pid)


def test_a_socket_that_the_target_closes_while_it_is_streamed_is_closed_for_its_peer(spawn_target, tmp_path):
    here, there = socket.socketpair()
    target = spawn_target("odd", "socket", 32 << 20, stdin=there)
    there.close()
    here.settimeout(60)
    with streaming(target.pid) as stream:
        os.kill(target.pid, signal.SIGUSR1)
        assert here.recv(1) == b"", "the peer hears of it though the snapshot stands"
        assert is_process(stream.snapshot)
        assert stream.engine.poll() is None
        core = stream.read_core(tmp_path / "core")
    here.close()
    assert core.read(target.number("area"), AREA_BYTES) == pattern(AREA_BYTES)
