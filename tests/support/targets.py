"""Target programs: compiled once a session, started, waited for, and always ended."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pytest

from . import proc
from .waiting import eventually

SOURCES = Path(__file__).resolve().parent.parent / "targets"
M32 = ("-m32", "-idirafter", "/usr/include/x86_64-linux-gnu")
"""What makes gcc build a 32-bit program, with the kernel's headers where the 64-bit host has them."""
_PAGE = 4096
_STATE = struct.Struct("<2Q65Q")


class TargetBuilder:
    """Compiles tests/targets/NAME.c on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._built: dict[tuple[str, ...], Path] = {}

    def __call__(self, name: str, *flags: str, compiler: str | None = None) -> Path:
        key = (name, compiler or "", *flags)
        if key not in self._built:
            compiler = compiler or shutil.which("gcc") or shutil.which("cc")
            assert compiler, "the live tests compile their targets: apt install gcc"
            path = self.folder / f"{name}{len(self._built)}"
            path.mkdir()
            path = path / name
            source = SOURCES / f"{name}.c"
            command = [compiler, "-g", "-O1", "-Wall", "-Werror", "-pthread", *flags, "-o", str(path), str(source)]
            subprocess.run(command, check=True)
            self._built[key] = path
        return self._built[key]


@dataclass(frozen=True)
class Fingerprint:
    """What must be the same after a dump."""

    descriptors: Mapping[int, str]
    signals: Mapping[int, int]
    children: frozenset[int]
    session: frozenset[int]


@dataclass
class Target:
    """A running target. facts: what it told before it was ready."""

    process: subprocess.Popen[bytes]
    facts: dict[str, str] = field(default_factory=dict)
    state: mmap.mmap | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def number(self, name: str) -> int:
        return int(self.facts[name], 0)

    def _fields(self) -> tuple[int, ...]:
        assert self.state is not None
        return _STATE.unpack(self.state[: _STATE.size])

    @property
    def counter(self) -> int:
        return self._fields()[0]

    @property
    def failures(self) -> int:
        """Bad things the target itself has seen."""
        return self._fields()[1]

    @property
    def signals(self) -> dict[int, int]:
        """Signal number -> how often the target caught it."""
        return {number: count for number, count in enumerate(self._fields()[2:]) if count}

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(
            proc.descriptors(self.pid),
            self.signals if self.state else {},
            frozenset(proc.children(self.pid)),
            frozenset(proc.in_session(os.getsid(self.pid))),
        )

    def stop(self) -> None:
        """Hold every thread with SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)
        eventually("the target is stopped", lambda: set(proc.thread_states(self.pid).values()) == {"T"})

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        eventually("the target runs on", lambda: "T" not in proc.thread_states(self.pid).values())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.state is not None:
            self.state.close()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def start_target(
    command: Sequence[str | Path],
    folder: Path,
    *,
    signals: str = "count",
    environment: Mapping[str, str] | None = None,
    shared_state: bool = True,
    state_mode: int = 0o600,
    **options: object,
) -> Target:
    """Start a program that speaks the protocol of targets/target.h and return it once it is ready.

    Programs in other languages write their facts to descriptor TARGET_READY and close it, or write the line "ready";
    those that do not map the state page take shared_state=False.
    """
    state_path = folder / f"state.{os.urandom(6).hex()}"
    state_path.write_bytes(bytes(_PAGE))
    state_path.chmod(state_mode)
    with state_path.open("r+b") as file:
        state = mmap.mmap(file.fileno(), _PAGE) if shared_state else None
    read_end, write_end = os.pipe()
    values = {
        **os.environ,
        "TARGET_STATE": str(state_path),
        "TARGET_READY": str(write_end),
        "TARGET_SIGNALS": signals,
        **(environment or {}),
    }
    try:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [str(word) for word in command],
            env=values,
            pass_fds=(write_end,),
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **options},
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    target = Target(process, {}, state)
    with open(read_end, encoding="utf-8") as facts:
        for line in facts:
            if line == "ready\n":
                break
            name, _, value = line.rstrip("\n").partition("=")
            target.facts[name] = value
    if shared_state:
        eventually("the target counts", lambda: target.counter or process.poll() is not None)
    if process.poll() is not None:
        target.end()
        raise AssertionError(f"{command[0]} ended with {process.returncode} before it was ready")
    return target


@dataclass
class InnerTarget(Target):
    """A target that is not the process which was started, but a child of it, or of its child."""

    inner: int = 0

    @property
    def pid(self) -> int:
        return self.inner


def start_inside(
    wrapper: Sequence[str | Path], command: Sequence[str | Path], folder: Path, depth: int = 1, **options: object
) -> InnerTarget:
    """Start a target through programs that run it; depth: 1 for their only child, 2 for that one's only child."""
    outer = start_target([*wrapper, *command], folder, **options)  # type: ignore[arg-type]
    pid = outer.process.pid
    for _ in range(depth):
        (pid,) = proc.children(pid)
    return InnerTarget(outer.process, outer.facts, outer.state, pid)


def start_as_init(command: Sequence[str | Path], folder: Path, **options: object) -> InnerTarget:
    """Start a target as pid 1 of a pid namespace of its own."""
    wrapper = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return start_inside(wrapper, command, folder, **options)  # type: ignore[arg-type]


def spawn_extended(spawn_target: Callable[..., Target], kind: str, *arguments: object) -> Target:
    """Start targets/extended.c; skips the test where the machine, or its kernel, lacks the registers."""
    try:
        return spawn_target("extended", kind, *arguments, signals="default")
    except AssertionError as error:
        if "ended with 77" in str(error):
            pytest.skip(f"this machine has no such registers ({kind})")
        raise
