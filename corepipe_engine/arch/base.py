"""What the engine needs to know of a machine; one implementation a file."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from ..elf import ElfFormat


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


class Arch(Protocol):
    """A machine: its ELF identity, register sets and record layouts."""

    @property
    def name(self) -> str:
        """Name as uname -m gives it for a native program."""

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

    def stack_pointer(self, general: bytes) -> int:
        """Return the stack pointer in a general register set."""

    def restart_interrupted(self, general: bytes) -> bytes | None:
        """Return registers that run an interrupted system call again, None where there is nothing to undo.

        For calls that fail with EINTR when a debugger stops the thread, though no signal came (signal(7),
        "Interruption of system calls and library functions by stop signals").
        """

    def process_notes(self, general_thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
        """Return the notes after the last thread: (owner, type, descriptor)."""

    def expected_process_notes(self) -> tuple[tuple[bytes, int, int], ...]:
        """As process_notes, for a plan made without touching the target: (owner, type, bytes of the descriptor)."""
