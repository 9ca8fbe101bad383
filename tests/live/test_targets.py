"""Programs of every make, of every standing, and in every surrounding: the core is true and the target runs on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from ..support import proc
from ..support.cgroups import new_cgroup
from ..support.checks import assert_counter_moves
from ..support.cores import NT_FILE, NT_PRPSINFO, NT_PRSTATUS, Core
from ..support.crowd import assert_crowd, wait_asleep, wake
from ..support.dumps import TABLE, dump, in_both_modes
from ..support.engine import corepipe_started, run_corepipe
from ..support.machines import CALLS
from ..support.readers import run_gdb
from ..support.targets import Target, start_inside, start_target
from ..support.waiting import eventually

pytestmark = pytest.mark.live
NOBODY = 65534


def dump_crowd(target: Target, folder: Path, mode: str, threads: int = 4) -> Core:
    """Dump a crowd in that mode and no other, then wake it."""
    wait_asleep(target, threads)
    core, report, _ = dump(target, folder, "--mode", mode)
    assert report["mode"] == mode
    assert_crowd(core, target, threads)
    wake(target)
    return core


def mapped_paths(core: Core) -> list[str]:
    """NT_FILE's paths, in order."""
    return [path.decode() for path in core.note(NT_FILE).parsed["filename"]]


# --- threads -------------------------------------------------------------------------------------------------------


@in_both_modes("1,000 threads")
def test_a_thousand_threads_are_there_with_their_registers_and_their_own_memory(spawn_target, tmp_path, mode):
    dump_crowd(spawn_target("crowd", 1000, signals="default"), tmp_path, mode, 1000)


@in_both_modes("a thread in vfork (state D, cannot be stopped)")
def test_a_thread_that_waits_for_its_vfork_child_is_named_and_all_others_run_at_once(
    spawn_target, tmp_path, mode, tell
):
    tell("refused, with its name and where it waits; all run on")
    target = spawn_target("vfork", stdin=subprocess.PIPE, signals="default")
    eventually("there is a child", lambda: proc.children(target.pid))
    (child,) = proc.children(target.pid)
    eventually("the child reads", lambda: Path(f"/proc/{child}/syscall").read_text().startswith(f"{CALLS['read']} "))
    eventually("a thread is in state D", lambda: "D" in proc.thread_states(target.pid).values())
    (waiting,) = (tid for tid, state in proc.thread_states(target.pid).items() if state == "D")
    place = Path(f"/proc/{target.pid}/task/{waiting}/wchan").read_text()
    outcome = run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core", check=1)
    where = re.escape(place) if place not in ("", "0") else "an unknown kernel function"
    said = rf"thread {waiting} \('in vfork'\) is in uninterruptible sleep \(state D\) in {where}; all threads run again"
    assert re.search(said, outcome.stderr)
    assert f"sudo cat /proc/{target.pid}/task/{waiting}/stack" in outcome.stderr
    assert (tmp_path / "core").stat().st_size == 0
    assert not proc.tracers(target.pid), "the thread in the kernel is let go too"
    assert not set(proc.thread_states(target.pid).values()) & {"t", "T"}
    assert_counter_moves(target)
    target.process.stdin.close()  # the child ends, the thread goes on and finds its status
    eventually("the thread has ended", lambda: proc.tids(target.pid) == [target.pid])
    assert target.failures == 0
    dump(target, tmp_path, "--mode", mode)


@in_both_modes("a vfork child, which shares its parent's memory")
def test_a_process_that_shares_its_memory_with_its_parent_is_dumped(spawn_target, tmp_path, mode):
    target = spawn_target("vfork", stdin=subprocess.PIPE, signals="default")
    eventually("there is a child", lambda: proc.children(target.pid))
    (child,) = proc.children(target.pid)
    eventually("it reads", lambda: Path(f"/proc/{child}/syscall").read_text().startswith(f"{CALLS['read']} "))
    for _ in range(3):
        run_corepipe(child, "--mode", mode, output=tmp_path / "core")
        core = Core(tmp_path / "core")
        assert core.thread_ids == [child]
        assert core.holds(target.number("area"))
        assert not proc.tracers(child)
        assert not proc.children(child)
        assert_counter_moves(target)
    target.process.stdin.close()
    eventually("the parent's thread has ended", lambda: proc.tids(target.pid) == [target.pid])
    assert target.failures == 0


# --- how the program was made --------------------------------------------------------------------------------------

MAKES = {
    "position-independent": (None, ()),
    "not position-independent": (None, ("-no-pie",)),
    "static": (None, ("-static",)),
    "static, position-independent": (None, ("-static-pie",)),
    "stripped": (None, ("-s",)),
    "musl": ("musl-gcc", ()),
    "musl, static": ("musl-gcc", ("-static",)),
}


def makes():
    """Every make in both modes; a compiler that is not there skips its own rows alone."""
    cells = []
    for name, (compiler, flags) in MAKES.items():
        needs = [pytest.mark.needs(compiler)] if compiler else []
        for mode in ("direct", "snapshot"):
            marks = [pytest.mark.tells(TABLE, f"program: {name}", mode), *needs]
            cells.append(pytest.param(compiler, flags, mode, marks=marks, id=f"{name}-{mode}"))
    return pytest.mark.parametrize(("compiler", "flags", "mode"), cells)


@makes()
def test_a_program_of_any_make_is_dumped_and_gdb_finds_its_way_in_the_core(
    build_target, tmp_path, compiler, flags, mode
):
    program = build_target("crowd", *flags, compiler=compiler)
    stacks = tmp_path / "stacks"
    with start_target([program, "4"], tmp_path, signals="default") as target:
        run_corepipe(target.pid, "--mode", mode, "--preset", "stacks", output=stacks)
        core = dump_crowd(target, tmp_path, mode)
    assert str(program) in mapped_paths(core)
    if mode == "snapshot" and shutil.which("gdb"):
        where = "known_value" if "-s" not in flags else f"*(unsigned long *){target.number('known_value')}"
        reading = run_gdb(program, stacks, f"print/x {where}", "thread apply all bt")
        assert "= 0x5eed5eed5eed5eed" in reading.out
        assert reading.out.count("\nThread ") == 4
        if "-s" not in flags and compiler is None:  # musl's own frames have no tables to unwind with
            assert reading.out.count(" sleep_in_read (argument=") == 3
            assert " main (count=" in reading.out


# --- whose it is ---------------------------------------------------------------------------------------------------


@in_both_modes("not dumpable (prctl PR_SET_DUMPABLE 0), as root")
def test_root_dumps_a_process_that_is_not_dumpable(build_target, open_folder, tmp_path, mode):
    options = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "state_mode": 0o666}
    with start_target([build_target("odd"), "undumpable"], open_folder, **options) as target:
        assert Path(f"/proc/{target.pid}/mem").stat().st_uid == 0, "the mark of a process that is not dumpable"
        core, report, _ = dump(target, tmp_path, "--mode", mode)
        assert report["mode"] == mode
        assert core.note(NT_PRPSINFO).parsed["pr_uid"] == NOBODY


@in_both_modes("setuid program, as root")
def test_root_dumps_a_setuid_program(build_target, open_folder, tmp_path, mode):
    program = open_folder / "odd"
    shutil.copy(build_target("odd"), program)
    program.chmod(0o4755)
    if os.statvfs(open_folder).f_flag & os.ST_NOSUID:
        pytest.skip("the folder for temporary files is mounted nosuid")
    options = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "state_mode": 0o666}
    with start_target([program], open_folder, **options) as target:
        assert proc.status_field(target.pid, "Uid").split() == [str(NOBODY), "0", "0", "0"]
        core, report, _ = dump(target, tmp_path, "--mode", mode)
        assert report["mode"] == mode
        assert core.note(NT_PRPSINFO).parsed["pr_uid"] == NOBODY


# --- where it runs -------------------------------------------------------------------------------------------------


def assert_pids_as_seen_inside(core: Core, pid: int, ppid: int) -> None:
    """Both notes tell the target's own numbers, and no process of the outside."""
    info = core.note(NT_PRPSINFO).parsed
    assert (info["pr_pid"], info["pr_ppid"]) == (pid, ppid)
    for tid, note in zip(core.thread_ids, core.notes_of(NT_PRSTATUS), strict=True):
        seen = struct.unpack_from("<4i", note.data, 32)
        assert seen == (tid, ppid, info["pr_pgrp"], info["pr_sid"])
        assert tid < 50
    assert core.thread_ids[0] == pid


ENTER = 'mount -t tmpfs none "$1" && cp "$2" "$1/inside" && p=$1/inside && shift 2 && '
"""What sh does before it runs a program that is only there in the mount namespace."""
NAMESPACES = "--user --map-root-user --pid --fork --kill-child --mount-proc --mount --net --ipc --uts"


def dump_in_namespaces(program: Path, folder: Path, output: Path, mode: str, run: str, depth: int) -> tuple[Core, int]:
    """Dump a crowd that a user other than root started in namespaces of its own; return (core, pid as seen there)."""
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    if subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL, check=False, **nobody).returncode:
        pytest.skip("an unprivileged user gets no user namespace here")
    place = folder / "place"
    place.mkdir()
    place.chmod(0o777)
    wrapper = ["unshare", *NAMESPACES.split(), "sh", "-c", ENTER + run, "sh", place, program]
    with start_inside(wrapper, ["4"], folder, depth, signals="default", state_mode=0o666, **nobody) as target:
        assert os.readlink(f"/proc/{target.pid}/ns/user") != os.readlink("/proc/self/ns/user")
        core = dump_crowd(target, output, mode)
        info = core.note(NT_PRPSINFO).parsed
        assert (info["pr_uid"], info["pr_gid"]) == (0, 0), "root of its own namespace"
        assert f"{place}/inside" in mapped_paths(core)
        assert not (place / "inside").exists()
        return core, target.number("seen_pid")


@pytest.mark.needs("unshare")
@in_both_modes("in other user, pid, mount, network, IPC and UTS namespaces")
def test_in_namespaces_of_its_own_pids_users_and_paths_are_as_the_target_sees_them(
    build_target, open_folder, tmp_path, mode
):
    core, seen = dump_in_namespaces(build_target("crowd"), open_folder, tmp_path, mode, '"$p" "$@"; true', 2)
    assert seen > 1
    assert_pids_as_seen_inside(core, seen, 1)


@pytest.mark.needs("unshare")
@in_both_modes("pid 1 in such namespaces, as in a rootless container")
def test_pid_1_of_a_rootless_container_is_dumped(build_target, open_folder, tmp_path, mode):
    core, seen = dump_in_namespaces(build_target("crowd"), open_folder, tmp_path, mode, 'exec "$p" "$@"', 1)
    assert seen == 1
    assert_pids_as_seen_inside(core, 1, 0)


@in_both_modes("in a chroot")
def test_in_a_chroot_paths_are_as_the_target_sees_them(build_target, tmp_path, mode):
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(build_target("crowd", "-static"), root / "crowd")
    inside = root / str(root).lstrip("/")  # the way to the state page is the same inside as outside
    inside.parent.mkdir(parents=True)
    inside.symlink_to("/")
    with start_target(["chroot", root, "/crowd", "4"], root, signals="default") as target:
        core = dump_crowd(target, tmp_path, mode)
        paths = mapped_paths(core)
        assert "/crowd" in paths
        assert not [path for path in paths if path.startswith(str(root))]


@in_both_modes("in a cgroup that gives it little of a processor")
def test_a_target_whose_cgroup_throttles_it_is_waited_for(spawn_target, tmp_path, mode):
    target = spawn_target("spin", 4)
    with new_cgroup("cpu") as group:
        if group is None:
            pytest.skip("no cpu controller to make a cgroup with")
        group.add(target.pid)
        group.limit_rate(0.05)
        for _ in range(3):
            core, report, _ = dump(target, tmp_path, "--mode", mode)
            assert report["mode"] == mode
            assert len(core.thread_ids) == 4
        assert group.times_throttled > 0


# --- how it stands -------------------------------------------------------------------------------------------------


@in_both_modes("continued (SIGCONT) while it stands still")
def test_a_target_that_is_continued_while_it_stands_still_runs_afterwards(spawn_target, mode):
    target = spawn_target("nine", signals="default")
    target.stop()
    read_end, write_end = os.pipe()
    with corepipe_started(target.pid, "-q", "--mode", mode, stdout=write_end, stderr=subprocess.PIPE) as engine:
        os.close(write_end)
        os.read(read_end, 1)
        os.kill(target.pid, signal.SIGCONT)
        while os.read(read_end, 1 << 20):
            pass
        assert engine.wait(60) == 0, engine.stderr.read()
    os.close(read_end)
    eventually("it runs", lambda: "T" not in proc.thread_states(target.pid).values())
    assert_counter_moves(target)
