"""What /proc tells about a process, read independently of the engine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def status_field(pid: int, name: str, tid: int | None = None) -> str:
    """Value of a line of /proc/PID/status."""
    path = f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise KeyError(name)


def tids(pid: int) -> list[int]:
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def thread_states(pid: int) -> dict[int, str]:
    """State letter of every thread that is still there when it is looked at."""
    states = {}
    for tid in tids(pid):
        try:
            states[tid] = status_field(pid, "State", tid)[0]
        except (OSError, KeyError):
            continue
    return states


def tracers(pid: int) -> set[int]:
    """Pids of all that trace a thread of the process."""
    found = set()
    for tid in tids(pid):
        try:
            found.add(int(status_field(pid, "TracerPid", tid)))
        except (OSError, KeyError):
            continue
    return found - {0}


def children(pid: int) -> set[int]:
    """Pids of the children of all threads, zombies included."""
    found: set[int] = set()
    for tid in tids(pid):
        try:
            found.update(int(word) for word in Path(f"/proc/{pid}/task/{tid}/children").read_text().split())
        except OSError:
            continue
    return found


def descriptors(pid: int) -> dict[int, str]:
    """What every open file descriptor leads to; one that is closed while it is looked at is left out."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def in_session(session: int) -> set[int]:
    """Pids of all processes of a session, zombies left out."""
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in b"ZX":
            found.add(int(name))
    return found


def memory_fields(pid: int) -> dict[str, int]:
    """What the process itself pays for, in bytes: its own pages, swap and page tables.

    Pages of files and of the vDSO, which belong to all, may become mapped when they are read.
    """
    names = ("RssAnon", "VmSwap", "VmPTE", "VmSize")
    return {name: int(status_field(pid, name).split()[0]) * 1024 for name in names}


def read_memory(pid: int, address: int, length: int) -> bytes:
    """Bytes of /proc/PID/mem."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        pieces = []
        while length:
            piece = os.pread(fd, min(length, 1 << 24), address)
            pieces.append(piece)
            address += len(piece)
            length -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def maps(pid: int) -> list[tuple[int, int, str, str]]:
    """(start, end, permissions, path) of every mapping."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(None, 5)
        start, end = (int(word, 16) for word in fields[0].split("-"))
        found.append((start, end, fields[1], fields[5] if len(fields) > 5 else ""))
    return found


def smaps_field(pid: int, address: int, name: str) -> str:
    """Value of a line of /proc/PID/smaps, of the mapping that holds an address."""
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split()[0]:
            start, end = (int(word, 16) for word in key.split()[0].split("-"))
            inside = start <= address < end
        elif inside and key == name:
            return value.strip()
    raise KeyError(name)
