"""The machines that corepipe knows, one module each."""

from __future__ import annotations

import platform

from ..elf import ElfClass
from ..errors import DumpFailedError
from .base import Arch, Gadgets, Injection, Regset, SafetyNet, SystemCall, ThreadState
from .x86_64 import X86_64

ARCHES: tuple[Arch, ...] = (X86_64(),)
"""All machines; a new one is a module beside this one and a name in this tuple."""

_HOST_MACHINES = {"x86_64": ("x86_64", "i386"), "amd64": ("x86_64", "i386"), "aarch64": ("aarch64",)}


def arch_of(elf_class: int, host: str | None = None) -> Arch:
    """Return the machine of a program of that ELF class on this host. Errors: DumpFailedError."""
    machine = host or platform.machine()
    for arch in ARCHES:
        if arch.name in _HOST_MACHINES.get(machine, ()) and arch.elf.elf_class == elf_class:
            return arch
    bits = 32 if elf_class == ElfClass.ELF32 else 64
    known = ", ".join(arch.name for arch in ARCHES)
    raise DumpFailedError(f"{bits}-bit programs on {machine} are not supported; supported: {known}")


__all__ = [
    "ARCHES",
    "Arch",
    "Gadgets",
    "Injection",
    "Regset",
    "SafetyNet",
    "SystemCall",
    "ThreadState",
    "arch_of",
]
