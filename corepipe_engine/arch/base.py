"""What the engine needs to know of a machine; one implementation a file."""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..elf import ElfFormat, TagFormat

RegisterBytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Regset:
    """A register set as PTRACE_GETREGSET gives it and as a note of the same type carries it.

    required: a thread that cannot give it fails the dump; else the note is left out.
    """

    owner: bytes
    note_type: int
    required: bool


@dataclass(frozen=True, slots=True)
class ThreadState:
    """One thread at the instant of the freeze.

    tid is ours, namespace_tid the one the target sees. Registers are raw regset bytes. Signal sets are 64-bit masks.
    Times are in clock ticks, as read just before the freeze.
    """

    tid: int
    namespace_tid: int
    general: bytes
    regsets: tuple[tuple[Regset, bytes], ...] = ()
    signals_pending: int = 0
    signals_blocked: int = 0
    utime_ticks: int = 0
    stime_ticks: int = 0


class StoppedTask(Protocol):
    """A stopped thread, for what its register sets alone do not tell."""

    def set_regset(self, note_type: int, data: bytes) -> None:
        """Write a register set. OSError as ptrace gives it."""

    def read(self, name: str) -> bytes:
        """Return a file of its /proc folder. Errors: CorepipeError."""

    def before(self, name: str) -> bytes:
        """Return one of the files that the machine wanted read before the stop, b"" if it could not be."""


class CallState(enum.Enum):
    """What a stopped thread was doing, as to the system call that it was stopped in, if any."""

    OUTSIDE = enum.auto()
    """Running code of its own."""
    INSIDE = enum.auto()
    """In a call; its registers say all that it takes to go on."""
    KERNEL_RESTARTS = enum.auto()
    """In a call that the kernel restarts from what it alone remembers: a signal frame turns it into EINTR."""
    UNCLEAR = enum.auto()
    """One of the last two, or about to make the call: which of them, the registers tell at the entry of the call."""


class SystemCall(enum.Enum):
    """The calls that are run inside a target."""

    CLONE = enum.auto()
    WAIT4 = enum.auto()
    EXIT = enum.auto()
    SIGRETURN = enum.auto()
    CLOSE_RANGE = enum.auto()
    SETPGID = enum.auto()
    PIPE2 = enum.auto()
    VMSPLICE = enum.auto()


@dataclass(frozen=True, slots=True)
class Gadgets:
    """Addresses of instructions in the target's own code: `syscall; ret`, and a call of rt_sigreturn."""

    system_call: int
    sigreturn: int


@dataclass(frozen=True, slots=True)
class SafetyNet:
    """Bytes to put at `address`, and the stack pointers that lead along them.

    A thread whose injected call returns to home_stack first reaps a helper that may have ended, then goes back to
    exactly where it was, with all registers and its signal mask. One that returns to exit_stack ends its process.
    """

    address: int
    image: bytes
    home_stack: int
    exit_stack: int


class Injection(Protocol):
    """How a machine runs a system call inside a stopped thread, with a way back that needs no tracer.

    Source of the frames: the kernel's signal code of the machine (struct rt_sigframe).
    """

    @property
    def audit_arch(self) -> int:
        """AUDIT_ARCH_* as seccomp filters see it (include/uapi/linux/audit.h)."""

    @property
    def gadget_patterns(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Machine code to search for: of the system call gadget, of the sigreturn gadget; alternatives each."""

    @property
    def code_alignment(self) -> int:
        """Bytes that the address of an instruction is a multiple of."""

    @property
    def system_call_bytes(self) -> int:
        """Length of the instruction at the start of the system call gadget; filters see the address behind it."""

    def number(self, call: SystemCall) -> int:
        """Number of a system call."""

    def clone_arguments(self, flags: int, stack: int) -> tuple[int, ...]:
        """Arguments of clone(2) in the order of this machine."""

    def registers_for(
        self, general: bytes, gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> bytes:
        """Return registers with which the thread runs the call at the gadget and then returns by way of stack."""

    def result(self, general: bytes) -> int:
        """Return what a system call returned, negative for an error (-errno)."""

    def instruction_pointer(self, general: bytes) -> int:
        """Return where the thread is."""

    def call_state(self, general: bytes, code_at: Callable[[int], bytes]) -> CallState:
        """Return what the thread was doing. code_at: address -> the instruction there, b"" if it cannot be read."""

    def forbidden(self, sets: Mapping[int, RegisterBytes]) -> str:
        """Return in a line why no call can be run in a thread with these register sets, empty if one can.

        sets: note type -> bytes.
        """

    def settled(self, found: bytes, entered: bytes) -> bytes:
        """Return registers that start a call as the kernel would; general registers before it and in its entry stop."""

    def instead(self, thread: ThreadState, gadgets: Gadgets, stack: int) -> tuple[tuple[int, bytes], ...]:
        """Return register sets that make a call that has just been entered a wait4 that fails, and return by stack.

        To be written in this order; were only the first, the entered call would be made, and its result lost. This and
        settled are for machines with UNCLEAR threads alone.
        """

    def way_home(self, thread: ThreadState) -> tuple[tuple[int, bytes], ...]:
        """Return the register sets (note type, bytes) to be set after injected calls, in this order.

        With the last of them the thread is where it was; before, the net leads there.
        """

    def net_bytes(self, thread: ThreadState) -> int:
        """Return an upper bound for the size of the net's image."""

    def safety_net(self, thread: ThreadState, gadgets: Gadgets, address: int, reap: tuple[int, ...]) -> SafetyNet:
        """Return the net for a thread; reap: arguments of the wait4 on the way home. address: 64-byte aligned."""


class Arch(Protocol):
    """A machine: its ELF identity, register sets and record layouts."""

    @property
    def name(self) -> str:
        """Name as uname -m gives it for a native program."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Machines (uname -m) that run its programs."""

    @property
    def machine(self) -> int:
        """e_machine."""

    @property
    def elf(self) -> ElfFormat:
        """Record layouts of its ELF class."""

    @property
    def prpsinfo(self) -> struct.Struct:
        """Layout of elf_prpsinfo: state, sname, zomb, nice, flag, uid, gid, pid, ppid, pgrp, sid, fname, psargs."""

    @property
    def general_size(self) -> int:
        """Bytes of the general register set; tells this machine from others that the kernel also runs."""

    @property
    def regsets(self) -> tuple[Regset, ...]:
        """Sets after the general one, in the order of a kernel core."""

    def expected_regset_size(self, regset: Regset) -> int:
        """Bytes that GETREGSET will give, for a plan made without touching the target; 0 if it is not there."""

    def read_regsets(self, get: Callable[[int], bytes | None]) -> tuple[tuple[Regset, bytes], ...]:
        """Return the regsets of one thread, with as few calls of get as will do.

        get: note type -> register set as PTRACE_GETREGSET gives it, None where the machine has none. A required set
        that is not there raises LookupError.
        """

    def stack_pointer(self, general: bytes) -> int:
        """Return the stack pointer in a general register set."""

    @property
    def tags(self) -> TagFormat | None:
        """How a core holds memory tags, None where there are none."""

    def pack_tags(self, tags: bytes) -> bytes:
        """Return tags as a core holds them; PTRACE_PEEKMTETAGS gives one byte each. Only with `tags`."""

    @property
    def injection(self) -> Injection | None:
        """How to run a system call in a target, None where that is not known: no snapshot there."""

    def restart_interrupted(self, general: bytes, task: StoppedTask) -> bytes | None:
        """Return registers that run an interrupted system call again, None where there is nothing to undo.

        For calls that fail with EINTR when a debugger stops the thread, though no signal came (signal(7),
        "Interruption of system calls and library functions by stop signals").
        """

    @property
    def files_before(self) -> tuple[str, ...]:
        """Files of each thread's /proc folder that restart_interrupted wants as they were before the stop."""

    @property
    def restart_yields_to_handlers(self) -> bool:
        """Whether a thread that is restarted so sees EINTR all the same if a handler runs first."""

    def process_notes(self, general_thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
        """Return the notes after the last thread: (owner, type, descriptor)."""

    def expected_process_notes(self) -> tuple[tuple[bytes, int, int], ...]:
        """As process_notes, for a plan made without touching the target: (owner, type, bytes of the descriptor)."""
