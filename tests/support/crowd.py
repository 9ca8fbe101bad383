"""What a core of targets/crowd.c must hold: every thread with its registers and its thread-local words."""

from __future__ import annotations

import os
import signal
import struct
from pathlib import Path

from . import proc
from .cores import PATTERN_START, PATTERN_STEP, Core
from .machines import CALLS
from .targets import Target
from .waiting import eventually

_FIRST_COUNT = 8


def wait_asleep(target: Target, threads: int) -> None:
    """Return when all but the first thread are in their read(2)."""

    def asleep() -> bool:
        return sum(_in_read(target.pid, tid) for tid in proc.tids(target.pid)) == threads - 1

    eventually("all threads of the crowd sleep", asleep)


def _in_read(pid: int, tid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().startswith(f"{CALLS['read']} ")
    except OSError:
        return False


def assert_crowd(core: Core, target: Target, threads: int) -> None:
    """The core has so many threads, each asleep in its own read, with its own words and its own id."""
    assert len(core.thread_ids) == threads
    indices = set()
    counts, numbers = core.register(core.layout.third_argument), core.register(core.layout.call_number)
    sleepers = list(zip(core.thread_ids, counts, numbers, core.thread_pointers, strict=True))[1:]
    for tid, count, number, base in sleepers:
        assert number == CALLS["read"]
        index = count - _FIRST_COUNT
        word, seen_tid = struct.unpack("<2Q", core.read(base + target.number("mark_offset"), 16))
        assert word == (index * PATTERN_STEP + PATTERN_START) & ((1 << 64) - 1)
        assert seen_tid == tid
        indices.add(index)
    assert indices == set(range(1, threads))
    assert core.read(target.number("known_value"), 8) == bytes.fromhex("5eed5eed5eed5eed")[::-1]


def wake(target: Target) -> None:
    """Every sleeper gets its answer, finds all as it was, and ends."""
    os.kill(target.pid, signal.SIGUSR1)
    eventually("all sleepers have ended", lambda: len(proc.tids(target.pid)) == 1)
    assert target.failures == 0
