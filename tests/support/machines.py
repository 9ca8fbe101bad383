"""What tests must know of each machine: where a core's notes hold what, and the numbers of system calls."""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass

import pytest

HOST = platform.machine()
x86_only = pytest.mark.skipif(HOST != "x86_64", reason="x86 only")
arm_only = pytest.mark.skipif(HOST != "aarch64", reason="64-bit Arm only")
CALLS = {
    "x86_64": {"read": 0, "clone": 56, "exit": 60, "wait4": 61, "rt_sigreturn": 15, "getppid": 110},
    "aarch64": {"read": 63, "clone": 220, "exit": 93, "wait4": 260, "rt_sigreturn": 139, "getppid": 173},
}[HOST]
"""Numbers of system calls, of a program that is as wide as the kernel."""

NT_ARM_TLS = 0x401
NT_386_TLS = 0x200


@dataclass(frozen=True)
class Layout:
    """NT_PRSTATUS and NT_PRPSINFO of a machine. registers: those of pr_reg, in order; each is one word.

    ids: sighold, pid, ppid, pgrp, sid; process_ids: the same of NT_PRPSINFO, and uid, gid, fname. third_argument,
    call_number: registers of a thread in a system call.
    """

    word: str
    pending: int
    ids: slice
    tid: int
    registers_offset: int
    registers: tuple[str, ...]
    stack_pointer: str
    third_argument: str
    call_number: str
    process_ids: slice

    @property
    def registers_bytes(self) -> int:
        return len(self.registers) * struct.calcsize(self.word)

    def register(self, prstatus: bytes, name: str) -> int:
        """Value of a general register."""
        at = self.registers_offset + self.registers.index(name) * struct.calcsize(self.word)
        value: int = struct.unpack_from(f"<{self.word}", prstatus, at)[0]
        return value


_WIDE = {
    "word": "Q", "pending": 16, "ids": slice(24, 48), "tid": 32, "registers_offset": 112, "process_ids": slice(16, 56)
}  # fmt: skip
LAYOUTS = {
    "EM_X86_64": Layout(
        **_WIDE,
        registers=(
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
            "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
        ),
        stack_pointer="rsp",
        third_argument="rdx",
        call_number="orig_rax",
    ),
    "EM_386": Layout(
        word="I",
        pending=16,
        ids=slice(20, 40),
        tid=24,
        registers_offset=72,
        registers=(
            "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs", "eflags",
            "esp", "ss",
        ),
        stack_pointer="esp",
        third_argument="edx",
        call_number="orig_eax",
        process_ids=slice(8, 44),
    ),
    "EM_AARCH64": Layout(
        **_WIDE,
        registers=(*(f"x{number}" for number in range(31)), "sp", "pc", "pstate"),
        stack_pointer="sp",
        third_argument="x2",
        call_number="x8",
    ),
}  # fmt: skip
"""e_machine, as pyelftools names it -> layout."""
HOST_ELF = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}[HOST]
