"""Control groups of a test's own, version 1 or 2, whichever this machine has mounted."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .waiting import eventually


class Cgroup:
    """A new, empty group. limit_file and usage_file: the controller's own, by version."""

    def __init__(self, folder: Path, controller: str, version: int) -> None:
        self.folder = folder
        names = {
            ("pids", 1): ("pids.max", "pids.current"),
            ("pids", 2): ("pids.max", "pids.current"),
            ("memory", 1): ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            ("memory", 2): ("memory.max", "memory.current"),
            ("cpu", 1): ("cpu.cfs_quota_us", "cpu.stat"),
            ("cpu", 2): ("cpu.max", "cpu.stat"),
        }
        limit, usage = names[controller, version]
        self.peak_file = folder / ("memory.max_usage_in_bytes" if version == 1 else "memory.peak")
        self._version = version
        self.limit_file, self.usage_file = folder / limit, folder / usage

    def add(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def peak(self) -> int:
        """The most that it has used so far (controller memory)."""
        return int(self.peak_file.read_text())

    @property
    def usage(self) -> int:
        return int(self.usage_file.read_text())

    def limit(self, value: int) -> None:
        self.limit_file.write_text(str(value))

    def limit_rate(self, share: float) -> None:
        """Of one processor (controller cpu)."""
        period = 100_000
        quota = int(share * period)
        self.limit_file.write_text(str(quota) if self._version == 1 else f"{quota} {period}")

    @property
    def times_throttled(self) -> int:
        """How often the group had to wait for its next share."""
        return int(dict(line.split() for line in self.usage_file.read_text().splitlines())["nr_throttled"])


def _mounted(controller: str) -> tuple[Path, int] | None:
    """Where a controller is to be had: (folder of the root, version)."""
    found = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            return Path(folder), 1
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                if controller in (Path(folder) / "cgroup.controllers").read_text().split():
                    found = Path(folder), 2
    return found


@contextlib.contextmanager
def new_cgroup(controller: str) -> Iterator[Cgroup | None]:
    """Make a group below the root; None where this machine grants none. What is in it at the end is moved back."""
    mounted = _mounted(controller)
    if mounted is None:
        yield None
        return
    root, version = mounted
    control, was_enabled = root / "cgroup.subtree_control", True
    folder = root / f"corepipe-test-{os.urandom(6).hex()}"
    try:
        if version == 2:
            was_enabled = controller in control.read_text().split()
            if not was_enabled:
                control.write_text(f"+{controller}")
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        yield Cgroup(folder, controller, version)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(pid)
        eventually("the group is empty", lambda: _removed(folder))
        if not was_enabled:
            with contextlib.suppress(OSError):
                control.write_text(f"-{controller}")


def _removed(folder: Path) -> bool:
    """rmdir fails with EBUSY while a process that was in it is still ending."""
    return subprocess.run(["rmdir", folder], stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.fixture
def cgroup_v2(tmp_path: Path) -> Iterator[Path]:
    """The root of cgroup v2, wherever this machine has it, or mounted for the test."""
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists():
            yield root
            return
    mount = tmp_path / "cgroup"
    mount.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@contextlib.contextmanager
def in_group(root: Path, pid: int) -> Iterator[Path]:
    """A group of cgroup v2 for a process, which is thawed and goes back at the end."""
    group = root / f"corepipe-test-{pid}"
    home = root / _group_of(pid)
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        with contextlib.suppress(OSError):
            (group / "cgroup.freeze").write_text("0")
        (home / "cgroup.procs").write_text(str(pid))
        eventually("the group is empty", lambda: _removed(group))


def _group_of(pid: int) -> str:
    """Path of a process's cgroup v2, without the leading slash."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:].lstrip("/")
    return ""
