"""What a snapshot holds is what was there at the instant of the stop, also where a fork carries nothing over."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
from pathlib import Path

import pytest

from ..support.checks import assert_running, assert_target_untouched
from ..support.cores import PATTERN_START, PATTERN_STEP, Core, assert_well_formed, pattern
from ..support.engine import run_corepipe
from ..support.snapshots import streaming
from ..support.targets import Target
from ..support.waiting import eventually

pytestmark = pytest.mark.live
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))
PAGE = 4096
PRIVATE = ("private", "thp", "dontfork", "wipeonfork")
SHARED = ("shared", "memfd", "system_v", "shm_file")
EVERYTHING = "ff"
"""--filter: shared mappings of files that still have a name are left out otherwise."""


def content(target: Target, names: tuple[str, ...], name: str) -> bytes:
    """What the area of that name held before SIGUSR1."""
    return pattern(target.number(f"{name}_bytes"), names.index(name) << 32)


def inverted(data: bytes) -> bytes:
    """What it holds since."""
    number = int.from_bytes(data, "little")
    return (number ^ ((1 << 8 * len(data)) - 1)).to_bytes(len(data), "little")


def dump_while_it_changes(target: Target, folder: Path, *arguments: object) -> tuple[Core, dict]:
    """Change every area once the snapshot stands and only its beginning is read; return core and report."""
    before = target.fingerprint()
    report = folder / "report.json"
    with streaming(target.pid, "--filter", EVERYTHING, "--report", report, *arguments) as stream:
        os.kill(target.pid, signal.SIGUSR1)
        eventually("all areas are inverted", lambda: target.counter == 2 or target.process.poll() is not None)
        assert target.process.poll() is None
        core = stream.read_core(folder / "core")
    assert_well_formed(core)
    assert target.process.poll() is None
    assert target.fingerprint() == before
    return core, json.loads(report.read_text())


def test_memory_that_a_fork_does_not_carry_is_as_it_was_at_the_stop(spawn_target, tmp_path, shm_folder):
    names = (*PRIVATE, *SHARED)
    target = spawn_target("kinds", shm_folder, *names)
    core, report = dump_while_it_changes(target, tmp_path)
    for name in names:
        size = target.number(f"{name}_bytes")
        assert core.read(target.number(name), size) == content(target, names, name), name
    assert report["shared_live"] == []
    assert report["unreadable"] == []
    assert report["bytes_written"] == report["bytes_planned"] == core.size


@pytest.mark.tells("memory", "hugetlb pages, private", "snapshot")
def test_private_huge_pages_are_never_shared_with_a_copy(spawn_target, tmp_path, shm_folder, huge_pages, tell):
    """A write to such a page after a fork takes another one, and where there is none, the writer gets SIGBUS."""
    target = spawn_target("kinds", shm_folder, "private", "hugetlb")
    before = target.fingerprint()
    outcome = run_corepipe(target.pid, "--mode", "snapshot", check=1)
    assert "private huge pages (hugetlb)" in outcome.stderr
    run_corepipe(target.pid, output=tmp_path / "core")
    core = Core(tmp_path / "core")
    for name in ("private", "hugetlb"):
        wanted = content(target, ("private", "hugetlb"), name)
        assert core.read(target.number(name), target.number(f"{name}_bytes")) == wanted
    assert_running(target.pid)
    assert target.fingerprint() == before
    tell("falls back to buffer")


@pytest.mark.tells("memory", "hugetlb pages, shared", "snapshot")
def test_shared_huge_pages_are_as_they_were_at_the_stop(spawn_target, tmp_path, shm_folder, huge_pages):
    names = ("private", "hugetlb_shared")
    target = spawn_target("kinds", shm_folder, *names)
    core, report = dump_while_it_changes(target, tmp_path)
    for name in names:
        assert core.read(target.number(name), target.number(f"{name}_bytes")) == content(target, names, name), name
    assert report["unreadable"] == []


@pytest.mark.parametrize("shared", ["live", "frozen", "auto"])
def test_shared_memory_is_frozen_or_live_as_asked_for_and_the_report_names_what_is_live(
    spawn_target, tmp_path, shm_folder, shared
):
    names = ("private", "dontfork", *SHARED)
    target = spawn_target("kinds", shm_folder, *names)
    core, report = dump_while_it_changes(target, tmp_path, "--shared", shared)
    for name in names:
        wanted = content(target, names, name)
        if shared == "live" and name in SHARED:
            wanted = inverted(wanted)
        assert core.read(target.number(name), len(wanted)) == wanted, name
    live = dict(report["shared_live"])
    named = {target.number(name): target.number(f"{name}_bytes") for name in SHARED if shared == "live"}
    assert named.items() <= live.items()
    assert bool(live) == (shared == "live")


@pytest.mark.parametrize(("shared", "is_live"), [("auto", True), ("frozen", False)])
def test_shared_memory_beyond_256_mib_is_read_live_unless_it_must_be_frozen(
    spawn_target, tmp_path, shm_folder, shared, is_live
):
    target = spawn_target("kinds", shm_folder, "shared_large", "shared")
    before = target.fingerprint()
    start, size = target.number("shared_large"), target.number("shared_large_bytes")
    report = tmp_path / "report.json"
    arguments = ("--mode", "snapshot", "--shared", shared, "--report", report)
    run_corepipe(target.pid, *arguments, "--pipe", "cat >/dev/null")
    told = json.loads(report.read_text())
    live = dict(told["shared_live"])
    if is_live:
        assert live[start] == size
        assert target.number("shared") in live, "all shared memory is of one time"
    else:
        assert live == {}
        assert "copied set" in told["stop_steps"]
    assert told["bytes_written"] == told["bytes_planned"] > size
    assert target.fingerprint() == before


# --- invariants ----------------------------------------------------------------------------------------------------

AREA_BYTES = 1 << 30 if SOAK else 32 << 20
SNAPSHOTS = 200 if SOAK else 10


class Lockstep:
    """What targets/lockstep.c keeps, read from a core."""

    def __init__(self, target: Target, core: Core) -> None:
        area = target.number("area")
        segment = core.segment_at(area)
        offset = segment.offset + area - segment.address
        with core.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            words = memoryview(data)[offset : offset + AREA_BYTES].cast("Q")
            step = PAGE // 8
            self.first, self.last = words[1], words[(AREA_BYTES // PAGE - 1) * step + 1]
            self.stamps = words[::step].tolist()
            self.marks = words[2::step].tolist()
            words.release()
        self.locked = bool(struct.unpack("<i", core.read(target.number("mutex"), 4))[0])
        self.ahead, self.middle, self.behind = (
            int.from_bytes(core.read(target.number(name), 8), "little") for name in ("ahead", "middle", "behind")
        )
        counts = core.register("x12" if core.machine == "EM_AARCH64" else "r12")
        self.register = counts[core.thread_ids.index(target.number("counting"))]

    def assert_one_instant(self) -> None:
        """All that was written under the lock belongs to one step, or to two where somebody held the lock."""
        pages = len(self.stamps)
        done = self.last  # the last thing that is written in a step
        assert self.first == done or (self.locked and self.first == done + 1)
        expected = [done - (done - page) % pages for page in range(pages)]
        expected = [stamp if stamp > 0 else 0 for stamp in expected]
        next_page = (done + 1) % pages
        if self.first == done + 1 and self.stamps[next_page] == done + 1:
            expected[next_page] = done + 1
        assert self.stamps == expected, "a page is of another time than the others"
        mask = (1 << 64) - 1
        assert self.marks == [(page * PATTERN_STEP + PATTERN_START) & mask for page in range(pages)]
        # one thread, in the order register, shared, private, shared: no store of it may be missing or be too new
        assert self.register >= self.ahead >= self.middle >= self.behind >= self.register - 1


@pytest.mark.parametrize("shared", ["auto", "frozen"])
def test_a_snapshot_of_threads_that_write_at_full_speed_is_of_one_instant(spawn_target, tmp_path, shared):
    """Under a lock, over pages far apart; without one, over shared and private memory and a register."""
    target = spawn_target("lockstep", AREA_BYTES)
    before = target.fingerprint()
    steps = set()
    for _ in range(SNAPSHOTS if shared == "auto" else 3):
        run_corepipe(target.pid, "--mode", "snapshot", "--shared", shared, output=tmp_path / "core")
        core = Core(tmp_path / "core")
        assert_well_formed(core)
        found = Lockstep(target, core)
        found.assert_one_instant()
        steps.add((found.first, found.register))
    assert len(steps) == (SNAPSHOTS if shared == "auto" else 3), "the target wrote between any two snapshots"
    assert_target_untouched(target, before)
