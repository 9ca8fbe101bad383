"""x86-64: struct user_regs_struct, and how a call is run in a 64-bit thread.

Sources: arch/x86/include/asm/user_64.h (register order), arch/x86/kernel/ptrace.c (regsets).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from ..elf import ELF64, ElfFormat, Machine, NoteType, TagFormat
from .base import (
    Gadgets,
    Injection,
    Regset,
    SafetyNet,
    StoppedTask,
    SystemCall,
    ThreadState,
)
from .x86 import (
    ERESTARTNOHAND,
    FXSAVE_BYTES,
    CallPlaces,
    X86Calls,
    expected_layout_notes,
    fxsave_part,
    layout_notes,
    signal_xstate,
    xstate_size,
)

_RAX, _ORIG_RAX, _RIP, _RSP = 10, 15, 16, 19
_REGISTERS = struct.Struct("<27Q")
_NO_SYSCALL = (1 << 64) - 1
_EINTR_BYTES = ((1 << 64) - errno.EINTR).to_bytes(8, "little")

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


class X86_64:  # noqa: N801 - the name of the machine
    """64-bit programs on x86-64."""

    name = "x86_64"
    hosts = ("x86_64", "amd64")
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
        return FXSAVE_BYTES if regset.note_type == NoteType.FPREGSET else xstate_size()

    def read_regsets(self, get: Callable[[int], bytes | None]) -> tuple[tuple[Regset, bytes], ...]:
        """One call where there is XSAVE: the FXSAVE image is its beginning."""
        floating, extended = self.regsets
        xstate = get(extended.note_type)
        if xstate is not None:
            return (floating, fxsave_part(xstate)), (extended, xstate)
        fxsave = get(floating.note_type)
        if fxsave is None:
            raise LookupError("NT_FPREGSET")
        return ((floating, fxsave),)

    def stack_pointer(self, general: bytes) -> int:
        """RSP."""
        value: int = _REGISTERS.unpack(general)[_RSP]
        return value

    injection: Injection | None = None  # set below
    files_before: tuple[str, ...] = ()
    tags: TagFormat | None = None
    restart_yields_to_handlers = True

    def pack_tags(self, tags: bytes) -> bytes:
        """Memory has no tags here."""
        raise NotImplementedError

    def restart_interrupted(self, general: bytes, task: StoppedTask) -> bytes | None:
        """-ERESTARTNOHAND in place of -EINTR: the kernel restarts the call, or lets a handler that runs see EINTR."""
        if general[8 * _RAX : 8 * _RAX + 8] != _EINTR_BYTES:  # most threads: asked of all of them inside the stop
            return None
        registers = list(_REGISTERS.unpack(general))
        if registers[_ORIG_RAX] not in _RESTARTABLE_CALLS:
            return None
        registers[_RAX] = (1 << 64) - ERESTARTNOHAND
        return _REGISTERS.pack(*registers)

    def process_notes(self, general_thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
        """NT_X86_XSAVE_LAYOUT, where the thread has XSAVE state."""
        return layout_notes(general_thread)

    def expected_process_notes(self) -> tuple[tuple[bytes, int, int], ...]:
        """As process_notes, with sizes for descriptors."""
        return expected_layout_notes()


_AUDIT_ARCH_X86_64 = 0xC000003E
_CALLS = {
    SystemCall.CLONE: 56,
    SystemCall.WAIT4: 61,
    SystemCall.EXIT: 60,
    SystemCall.SIGRETURN: 15,
    SystemCall.CLOSE_RANGE: 436,
    SystemCall.SETPGID: 109,
    SystemCall.PIPE2: 293,
    SystemCall.VMSPLICE: 278,
}
_PLACES = CallPlaces(result=_RAX, number=_ORIG_RAX, pointer=_RIP, bits=64, restart_call=219)
_R15, _R14, _R13, _R12, _RBP, _RBX, _R11, _R10, _R9, _R8 = range(10)
_RCX, _RDX, _RSI, _RDI = 11, 12, 13, 14
_CS, _EFLAGS, _SS = 17, 18, 20
_USER_CS, _USER_SS, _PLAIN_EFLAGS = 0x33, 0x2B, 0x202

# struct ucontext without its end: uc_flags, uc_link, uc_stack (sp, flags, size), sigcontext_64, uc_sigmask
_UCONTEXT = struct.Struct("<QQQi4xQ 8Q 8Q Q Q 4H Q Q Q Q Q 64x Q")
_FRAME_BYTES = 8 + _UCONTEXT.size
_UC_FLAGS = 7  # UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
_NO_ALTSTACK_CHANGE = 0x40  # no valid ss_flags: sigaltstack fails, which sigreturn ignores
_ALL_SIGNALS = (1 << 64) - 1


def _ucontext(registers: list[int], fpstate: int, mask: int) -> bytes:
    """Pack what rt_sigreturn reads: general registers, address of the XSAVE image (0: initial state), signal mask."""
    r = registers
    return _UCONTEXT.pack(
        _UC_FLAGS, 0, 0, _NO_ALTSTACK_CHANGE, 0,
        r[_R8], r[_R9], r[_R10], r[_R11], r[_R12], r[_R13], r[_R14], r[_R15],
        r[_RDI], r[_RSI], r[_RBP], r[_RBX], r[_RDX], r[_RAX], r[_RCX], r[_RSP],
        r[_RIP], r[_EFLAGS], r[_CS] & 0xFFFF, 0, 0, r[_SS] & 0xFFFF,
        0, 0, 0, 0, fpstate, mask,
    )  # fmt: skip


class _X8664Injection(X86Calls):
    """64-bit calls; frames as arch/x86/include/asm/sigframe.h and uapi/asm/sigcontext.h lay them out."""

    registers, calls, places = _REGISTERS, _CALLS, _PLACES
    audit_arch = _AUDIT_ARCH_X86_64
    gadget_patterns = (
        (bytes.fromhex("0f05c3"),),  # syscall; ret
        (
            bytes.fromhex("48c7c00f0000000f05"),  # mov rax, 15; syscall
            bytes.fromhex("b80f0000000f05"),  # mov eax, 15; syscall
        ),
    )

    def _call(
        self, registers: list[int], gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> list[int]:
        registers[_RAX] = _CALLS[call]
        registers[_ORIG_RAX] = _NO_SYSCALL
        for place, value in zip((_RDI, _RSI, _RDX, _R10, _R8, _R9), (*arguments, 0, 0, 0, 0, 0, 0), strict=False):
            registers[place] = value
        registers[_RIP], registers[_RSP] = gadgets.system_call, stack
        registers[_CS], registers[_SS], registers[_EFLAGS] = _USER_CS, _USER_SS, _PLAIN_EFLAGS
        return registers

    def net_bytes(self, thread: ThreadState) -> int:
        """Three frames and one XSAVE image, aligned."""
        return 3 * _FRAME_BYTES + 128 + max((len(data) for _, data in thread.regsets), default=0)

    def safety_net(self, thread: ThreadState, gadgets: Gadgets, address: int, reap: tuple[int, ...]) -> SafetyNet:
        """Image, ascending: XSAVE image; frame of wait4; frame of home; frame of exit."""
        registers = list(_REGISTERS.unpack(thread.general))
        xstate = next((data for regset, data in thread.regsets if regset.note_type == NoteType.X86_XSTATE), b"")
        if xstate:
            floating = signal_xstate(xstate)
        else:
            floating = next(data for regset, data in thread.regsets if regset.note_type == NoteType.FPREGSET)
        frames = address + (len(floating) + 63) // 64 * 64
        reap_stack, home_stack, exit_stack = (frames + index * _FRAME_BYTES for index in range(3))
        wait = self._call(list(registers), gadgets, SystemCall.WAIT4, reap, home_stack)
        leave = self._call(list(registers), gadgets, SystemCall.EXIT, (0,), exit_stack)
        back = struct.pack("<Q", gadgets.sigreturn)
        image = floating + bytes(frames - address - len(floating))
        image += back + _ucontext(wait, 0, _ALL_SIGNALS)
        image += back + _ucontext(_PLACES.restarted(registers), address, thread.signals_blocked)
        image += back + _ucontext(leave, 0, _ALL_SIGNALS)
        return SafetyNet(address, image, reap_stack, exit_stack)


X86_64.injection = _X8664Injection()
