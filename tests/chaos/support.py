"""Dumps that something happens to at a random moment, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..support import proc
from ..support.engine import REPOSITORY, environment
from ..support.targets import Fingerprint, Target
from ..support.waiting import eventually

SOAK = int(os.environ.get("COREPIPE_SOAK", "0"))
MODES = ("direct", "buffer", "snapshot")
THREADS = 20
SINKS = ("cat >/dev/null", "sleep 0.03; cat >/dev/null", "dd bs=64k of=/dev/null status=none", "tail -c 1 >/dev/null")
_ROUNDS = struct.Struct(f"{THREADS}Q")


def seeded(name: str) -> random.Random:
    """A source of moments. COREPIPE_SEED repeats a run; pytest shows the seed of a test that fails."""
    seed = os.environ.get("COREPIPE_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"COREPIPE_SEED={seed}")
    return random.Random(f"{seed} {name}")


def times(short: int, soak: int = 50) -> int:
    """How many moments: so many, or so many for each round of a soak."""
    return SOAK * soak if SOAK else short


def rounds(target: Target) -> tuple[int, ...]:
    """How often each thread of targets/chaos.c went round."""
    assert target.state is not None
    return _ROUNDS.unpack(target.state[2048 : 2048 + _ROUNDS.size])


def seconds_until_all_run(target: Target) -> float:
    """Wait until every thread has gone on, from now on; return how long that took."""
    begun, before = time.monotonic(), rounds(target)
    eventually("every thread runs", lambda: all(map(lambda new, old: new != old, rounds(target), before)))
    return time.monotonic() - begun


def assert_right(target: Target, before: Fingerprint, *, forks: bool = False) -> None:
    """Nobody traces the target, nothing is stopped or new, and it has found nothing wrong."""
    assert target.process.poll() is None, f"the target ended with {target.process.returncode}"
    eventually("nobody traces the target", lambda: not proc.tracers(target.pid))
    eventually("no thread is stopped", lambda: not set(proc.thread_states(target.pid).values()) & set("tT"))
    if forks:
        eventually("only its own child", lambda: len(proc.in_session(target.pid)) <= 2)
    else:
        eventually("no child is left", lambda: proc.children(target.pid) == before.children)
        eventually("no process is left", lambda: proc.in_session(target.pid) == before.session)
        eventually("the same descriptors", lambda: proc.descriptors(target.pid).keys() == before.descriptors.keys())
    assert target.failures == 0
    assert target.signals == before.signals


class Run:
    """A run of the engine that is going on, or has ended."""

    def __init__(self, driver: Driver, pid: int) -> None:
        self.pid = pid
        self._driver = driver
        self._status: int | None = None

    @property
    def status(self) -> int:
        """Exit status, or -signal; waits for the end."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(self._driver.read_number())
            eventually("nothing is left of it", lambda: not proc.in_session(self.pid))
        return self._status

    def kill(self, number: int = signal.SIGKILL, group: bool = False) -> None:
        """Send a signal; the process may have ended, its pid is not reused so soon."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)


class Driver:
    """Starts runs of the engine, one at a time, within milliseconds."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._printed = 0

    def start(self, *arguments: object) -> Run:
        assert self._process.stdin is not None
        self._printed = self._log.stat().st_size
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._process.stdin.flush()
        return Run(self, self.read_number())

    def read_number(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the driver ended: {self._log.read_text()}"
        return int(line)

    @property
    def errors(self) -> str:
        """What the last run printed."""
        return self._log.read_bytes()[self._printed :].decode("utf-8", "replace")

    def usual_seconds(self, *arguments: object) -> float:
        """How long a dump that nothing happens to takes: the median of three."""
        taken = []
        for _ in range(3):
            begun = time.monotonic()
            assert self.start(*arguments).status == 0, self.errors
            taken.append(time.monotonic() - begun)
        return statistics.median(taken)


@contextlib.contextmanager
def new_driver(folder: Path) -> Iterator[Driver]:
    log = folder / "errors"
    with log.open("ab") as errors, subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "driver.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment(), cwd=REPOSITORY, text=True,
    ) as process:  # fmt: skip
        yield Driver(process, log)
        assert process.stdin is not None
        process.stdin.close()


def sleep_until_moment(moments: random.Random, whole: float) -> None:
    """Not a wait for something: the moment is the test's input."""
    time.sleep(moments.uniform(0, 1.1 * whole))


def in_moments(count: int) -> str:
    """How often, in words."""
    return "one moment" if count == 1 else f"{count:,} moments"


def milliseconds(seconds: list[float]) -> str:
    """The distribution, in words."""
    ordered = sorted(seconds)
    late = ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)]
    return f"median {1000 * statistics.median(ordered):.0f} ms, 99 % within {1000 * late:.0f} ms"
