"""How much memory may still be taken: by this process, and by a target.

Sources: proc_meminfo(5); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from .procfs import ProcDir, mem_available

_UNLIMITED: Final = 1 << 62
_V1_UNLIMITED: Final = 1 << 60
V1_ROOT: Final = "/sys/fs/cgroup/memory"
V2_ROOTS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
"""Where systemd mounts cgroup v2: alone, and beside v1."""


def own_memory_limit() -> int:
    """Return how many bytes this process may still take: MemAvailable, or less by its cgroups."""
    limit = mem_available()
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return min(limit, cgroups_room(file.read()))
    except OSError:
        return limit


def target_memory_limit(process: ProcDir) -> int:
    """Return how many bytes the target may still take: MemAvailable, or less by its cgroups. Errors as ProcDir.read."""
    return min(mem_available(), cgroups_room(process.read("cgroup").decode("utf-8", "surrogateescape")))


def prefer_as_victim(pid: int | None = None) -> None:
    """Make a process, ourselves by default, the first that the kernel kills when memory runs out."""
    with contextlib.suppress(OSError), open(f"/proc/{pid or 'self'}/oom_score_adj", "wb") as file:
        file.write(b"1000")


def is_frozen(process: ProcDir) -> bool:
    """Return whether the target's cgroup (v2) is frozen: its threads would not run a call. Errors as ProcDir.read."""
    for line in process.read("cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in V2_ROOTS if not controllers else ():
            with (
                contextlib.suppress(OSError, ValueError),
                open(os.path.join(_levels(root, path)[0], "cgroup.events"), "rb") as file,
            ):
                if b"frozen 1" in file.read().splitlines():
                    return True
    return False


def dies_as_a_whole(process: ProcDir) -> bool:
    """Return whether the kernel kills all of the target's cgroup (v2), not one process, when it runs out of memory.

    Errors as ProcDir.read.
    """
    for line in process.read("cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in V2_ROOTS if not controllers else ():
            for folder in _levels(root, path):
                with contextlib.suppress(OSError, ValueError):
                    if _number(f"{folder}/memory.oom.group"):
                        return True
    return False


def cgroups_room(membership: str) -> int:
    """Return the bytes that all memory cgroups in a /proc/PID/cgroup file leave; very large without a limit."""
    room = _UNLIMITED
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for root in V2_ROOTS:
                room = min(room, _room_v2(root, path))
        elif "memory" in controllers.split(","):
            room = min(room, _room_v1(V1_ROOT, path))
    return room


def _levels(root: str, path: str) -> list[str]:
    """Return the folder of a cgroup and those of all above it; a path with `..` is outside of what we can see."""
    names = [name for name in path.split("/") if name]
    if ".." in names:
        names = []
    return [os.path.join(root, *names[:depth]) for depth in range(len(names), -1, -1)]


def _room_v2(root: str, path: str) -> int:
    room = _UNLIMITED
    for folder in _levels(root, path):
        with contextlib.suppress(OSError, ValueError):  # "max" is a ValueError: no limit here
            maximum = min(_limit(f"{folder}/memory.max"), _limit(f"{folder}/memory.high"))
            current = _number(f"{folder}/memory.current")
            room = min(room, max(maximum - current + _statistic(folder, b"inactive_file "), 0))
    return room


def _room_v1(root: str, path: str) -> int:
    room = _UNLIMITED
    for folder in _levels(root, path):
        with contextlib.suppress(OSError, ValueError):
            maximum = _number(f"{folder}/memory.limit_in_bytes")
            if maximum < _V1_UNLIMITED:
                current = _number(f"{folder}/memory.usage_in_bytes")
                room = min(room, max(maximum - current + _statistic(folder, b"total_inactive_file "), 0))
    return room


def _limit(path: str) -> int:
    """A limit of cgroup v2; very large for "max", or where there is no such file."""
    try:
        return _number(path)
    except (OSError, ValueError):
        return _UNLIMITED


def _number(path: str) -> int:
    with open(path, "rb") as file:
        return int(file.read())


def _statistic(folder: str, name: bytes) -> int:
    """Bytes of clean page cache that the kernel can drop."""
    with open(f"{folder}/memory.stat", "rb") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1])
    return 0
