"""The machines that corepipe knows, one module each."""

from __future__ import annotations

import os

from ..elf import ElfClass, Machine
from ..errors import DumpFailedError
from .aarch64 import AArch64
from .base import Arch, CallState, Gadgets, Injection, Regset, SafetyNet, StoppedTask, SystemCall, ThreadState
from .i386 import I386
from .x86_64 import X86_64

ARCHES: tuple[Arch, ...] = (X86_64(), I386(), AArch64())
"""All machines; a new one is a module beside this one and a name in this tuple."""


def arch_of(elf_class: int, machine: int = 0, host: str | None = None) -> Arch:
    """Return the machine of a program of that ELF class and e_machine (0: not known) on this host.

    Errors: DumpFailedError.
    """
    host = host or os.uname().machine
    for arch in ARCHES:
        if host in arch.hosts and arch.elf.elf_class == elf_class and machine in (0, arch.machine):
            return arch
    bits = 32 if elf_class == ElfClass.ELF32 else 64
    known = ", ".join(arch.name for arch in ARCHES)
    abi = " (the x32 ABI)" if (elf_class, machine) == (ElfClass.ELF32, Machine.X86_64) else ""
    raise DumpFailedError(f"{bits}-bit programs{abi} on {host} are not supported; supported: {known}")


__all__ = [
    "ARCHES",
    "Arch",
    "CallState",
    "Gadgets",
    "Injection",
    "Regset",
    "SafetyNet",
    "StoppedTask",
    "SystemCall",
    "ThreadState",
    "arch_of",
]
