"""x86-64: struct user_regs_struct, XSAVE state.

Sources: arch/x86/include/asm/user_64.h (register order), arch/x86/kernel/ptrace.c (regsets),
arch/x86/kernel/fpu/xstate.c dump_xsave_layout_desc (XSAVE layout note), Intel SDM vol. 1 ch. 13.
"""

from __future__ import annotations

import errno
import functools
import struct

from ..elf import ELF64, ElfFormat, Machine, NoteType
from .base import Regset, ThreadState
from .cpuid import cpuid, xcr0

_RAX, _ORIG_RAX, _RIP, _RSP = 10, 15, 16, 19
_REGISTERS = struct.Struct("<27Q")
_XSTATE_XCR0_OFFSET = 464
_SYSCALL_LENGTH = 2
_NO_SYSCALL = (1 << 64) - 1
_EINTR = (1 << 64) - errno.EINTR

_RESTARTABLE_CALLS = frozenset(
    {
        0,  # read: inotify, and sockets with a receive timeout
        1,  # write: sockets with a send timeout
        19,  # readv
        20,  # writev
        43,  # accept
        44,  # sendto
        45,  # recvfrom
        46,  # sendmsg
        47,  # recvmsg
        65,  # semop
        128,  # rt_sigtimedwait
        208,  # io_getevents
        220,  # semtimedop
        232,  # epoll_wait
        281,  # epoll_pwait
        288,  # accept4
        299,  # recvmmsg
        307,  # sendmmsg
        333,  # io_pgetevents
        426,  # io_uring_enter
        441,  # epoll_pwait2
    }
)
"""Calls that fail with EINTR at a stop, having done nothing: running them again is what the caller asked for."""


@functools.lru_cache(maxsize=1)
def _xstate_size() -> int:
    """Bytes of the XSAVE area for all features that the kernel enabled (CPUID leaf 0xD, EBX); 0 if unknown."""
    try:
        return cpuid((0xD, 0))[0][1]
    except OSError:
        return 0


@functools.lru_cache(maxsize=8)
def _xsave_layout(features_mask: int) -> bytes:
    """Return struct x86_xfeat_component[] (type, size, offset, flags) for the extended features in the mask (XCR0)."""
    features = [number for number in range(2, 63) if features_mask >> number & 1]
    try:
        leaves = cpuid(*((0xD, number) for number in features))
    except OSError:
        return b""
    return b"".join(
        struct.pack("<4I", number, size, offset, 0)  # the kernel keeps the flags for later use
        for number, (size, offset, _, _) in zip(features, leaves, strict=True)
        if size
    )


class X86_64:  # noqa: N801 - the name of the machine
    """64-bit programs on x86-64."""

    name = "x86_64"
    machine = Machine.X86_64
    elf: ElfFormat = ELF64
    prpsinfo = struct.Struct("<BBBb4xQIIiiii16s80s")
    general_size = _REGISTERS.size
    regsets = (
        Regset(b"CORE", NoteType.FPREGSET, required=True),
        Regset(b"LINUX", NoteType.X86_XSTATE, required=False),
    )

    def expected_regset_size(self, regset: Regset) -> int:
        """FXSAVE image is 512 bytes; the XSAVE image is what CPUID says for the features the kernel enabled."""
        return 512 if regset.note_type == NoteType.FPREGSET else _xstate_size()

    def stack_pointer(self, general: bytes) -> int:
        """RSP."""
        value: int = _REGISTERS.unpack(general)[_RSP]
        return value

    def restart_interrupted(self, general: bytes) -> bytes | None:
        """Back over the `syscall` instruction with the call's number in RAX."""
        registers = list(_REGISTERS.unpack(general))
        if registers[_RAX] != _EINTR or registers[_ORIG_RAX] not in _RESTARTABLE_CALLS:
            return None
        registers[_RIP] -= _SYSCALL_LENGTH
        registers[_RAX] = registers[_ORIG_RAX]
        registers[_ORIG_RAX] = _NO_SYSCALL
        return _REGISTERS.pack(*registers)

    def process_notes(self, general_thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
        """NT_X86_XSAVE_LAYOUT, where the thread has XSAVE state."""
        for regset, data in general_thread.regsets:
            if regset.note_type == NoteType.X86_XSTATE and len(data) >= _XSTATE_XCR0_OFFSET + 8:
                enabled = int.from_bytes(data[_XSTATE_XCR0_OFFSET : _XSTATE_XCR0_OFFSET + 8], "little")
                layout = _xsave_layout(enabled)
                if layout:
                    return ((b"LINUX", NoteType.X86_XSAVE_LAYOUT, layout),)
        return ()

    def expected_process_notes(self) -> tuple[tuple[bytes, int, int], ...]:
        """As process_notes, with sizes for descriptors."""
        try:
            layout = _xsave_layout(xcr0())
        except OSError:
            return ()
        return ((b"LINUX", NoteType.X86_XSAVE_LAYOUT, len(layout)),) if layout else ()
