"""i386: 32-bit programs on a 64-bit kernel. A thread's registers are struct user_regs_struct32, 68 bytes.

Sources: arch/x86/include/asm/user32.h, arch/x86/kernel/ptrace.c (x86_32_regsets), arch/x86/kernel/tls.c,
include/linux/compat.h (compat_elf_prpsinfo), arch/x86/kernel/signal_32.c and arch/x86/include/asm/sigframe.h (signal
frames), arch/x86/kernel/fpu/signal.c and regset.c (FPU state in them), arch/x86/entry/vdso/vdso32.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from ..elf import ELF32, ElfFormat, Machine, NoteType, TagFormat
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
    SYSCALL_BYTES,
    CallPlaces,
    X86Calls,
    expected_layout_notes,
    fxsave_part,
    layout_notes,
    signal_xstate,
    xstate_size,
)

_EBX, _ECX, _EDX, _ESI, _EDI, _EBP, _EAX, _DS, _ES, _FS, _GS, _ORIG_EAX, _EIP, _CS, _EFLAGS, _ESP, _SS = range(17)
_REGISTERS = struct.Struct("<17I")
_WORD = 0xFFFFFFFF
_EINTR_BYTES = ((1 << 32) - errno.EINTR).to_bytes(4, "little")

_FSAVE_BYTES = 108
_TLS_ENTRY = struct.Struct("<4I")
_TLS_ENTRIES = 3
_TLS_EMPTY = (0, 0, 0x28)
"""base, limit and flags of an unused struct user_desc: read_exec_only and seg_not_present."""

_RESTARTABLE_CALLS = frozenset(
    {
        3,  # read: inotify, and sockets with a receive timeout
        4,  # write: sockets with a send timeout
        145,  # readv
        146,  # writev
        177,  # rt_sigtimedwait
        247,  # io_getevents
        256,  # epoll_wait
        319,  # epoll_pwait
        337,  # recvmmsg
        345,  # sendmmsg
        364,  # accept4
        369,  # sendto
        370,  # sendmsg
        371,  # recvfrom
        372,  # recvmsg
        385,  # io_pgetevents
        416,  # io_pgetevents_time64
        417,  # recvmmsg_time64
        420,  # semtimedop_time64
        421,  # rt_sigtimedwait_time64
        426,  # io_uring_enter
        441,  # epoll_pwait2
    }
)
"""Calls that fail with EINTR at a stop, having done nothing: running them again is what the caller asked for."""
_RESTARTABLE_SUBCALLS = {
    102: frozenset({5, 9, 10, 11, 12, 16, 17, 18, 19, 20}),  # socketcall: accept, send and recv of all kinds
    117: frozenset({1, 4}),  # ipc: semop, semtimedop
}
"""As above, for calls whose first argument says which: number -> values of the lower half of ebx."""


class I386:
    """32-bit programs on x86-64."""

    name = "i386"
    hosts = ("x86_64", "amd64")
    machine = Machine.I386
    elf: ElfFormat = ELF32
    prpsinfo = struct.Struct("<BBBbIHHiiii16s80s")
    general_size = _REGISTERS.size
    regsets = (
        Regset(b"CORE", NoteType.FPREGSET, required=True),
        Regset(b"LINUX", NoteType.PRXFPREG, required=False),
        Regset(b"LINUX", NoteType.X86_XSTATE, required=False),
        Regset(b"LINUX", NoteType.I386_TLS, required=False),
    )
    injection: Injection | None = None  # set below
    files_before: tuple[str, ...] = ()
    tags: TagFormat | None = None
    restart_yields_to_handlers = True

    def expected_regset_size(self, regset: Regset) -> int:
        """FSAVE and FXSAVE image, XSAVE image as CPUID tells, three struct user_desc."""
        sizes = {
            NoteType.FPREGSET: _FSAVE_BYTES,
            NoteType.PRXFPREG: FXSAVE_BYTES,
            NoteType.I386_TLS: _TLS_ENTRIES * _TLS_ENTRY.size,
        }
        return sizes.get(NoteType(regset.note_type)) or xstate_size()

    def read_regsets(self, get: Callable[[int], bytes | None]) -> tuple[tuple[Regset, bytes], ...]:
        """The FXSAVE image is the beginning of the XSAVE image; segments that are not in use make no note."""
        floating, extended, xsave, tls = self.regsets
        fsave = get(floating.note_type)
        if fsave is None:
            raise LookupError("NT_FPREGSET")
        xstate = get(xsave.note_type)
        fxsave = get(extended.note_type) if xstate is None else fxsave_part(xstate)
        segments = get(tls.note_type)
        if segments is not None and not _segments_in_use(segments):
            segments = None
        found = ((floating, fsave), (extended, fxsave), (xsave, xstate), (tls, segments))
        return tuple((regset, data) for regset, data in found if data is not None)

    def stack_pointer(self, general: bytes) -> int:
        """ESP."""
        value: int = _REGISTERS.unpack(general)[_ESP]
        return value

    def pack_tags(self, tags: bytes) -> bytes:
        """Memory has no tags here."""
        raise NotImplementedError

    def restart_interrupted(self, general: bytes, task: StoppedTask) -> bytes | None:
        """-ERESTARTNOHAND in place of -EINTR: the kernel restarts the call, or lets a handler that runs see EINTR."""
        if general[4 * _EAX : 4 * _EAX + 4] != _EINTR_BYTES:  # most threads: asked of all of them inside the stop
            return None
        registers = list(_REGISTERS.unpack(general))
        number = registers[_ORIG_EAX]
        if number not in _RESTARTABLE_CALLS and registers[_EBX] & 0xFFFF not in _RESTARTABLE_SUBCALLS.get(number, ()):
            return None
        registers[_EAX] = (1 << 32) - ERESTARTNOHAND
        return _REGISTERS.pack(*registers)

    def process_notes(self, general_thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
        """NT_X86_XSAVE_LAYOUT, where the thread has XSAVE state."""
        return layout_notes(general_thread)

    def expected_process_notes(self) -> tuple[tuple[bytes, int, int], ...]:
        """As process_notes, with sizes for descriptors."""
        return expected_layout_notes()


def _segments_in_use(descriptors: bytes) -> bool:
    """Whether any of the thread's TLS segments (struct user_desc[]) is set, as the kernel asks (regset_tls_active)."""
    whole = len(descriptors) // _TLS_ENTRY.size * _TLS_ENTRY.size
    return any(entry[1:] != _TLS_EMPTY for entry in _TLS_ENTRY.iter_unpack(descriptors[:whole]))


_AUDIT_ARCH_I386 = 0x40000003
_CALLS = {
    SystemCall.CLONE: 120,
    SystemCall.WAIT4: 114,
    SystemCall.EXIT: 1,
    SystemCall.SIGRETURN: 173,
    SystemCall.CLOSE_RANGE: 436,
    SystemCall.SETPGID: 57,
    SystemCall.PIPE2: 331,
    SystemCall.VMSPLICE: 316,
}
_PLACES = CallPlaces(result=_EAX, number=_ORIG_EAX, pointer=_EIP, bits=32, restart_call=0)
_USER32_CS, _USER_DS, _PLAIN_EFLAGS = 0x23, 0x2B, 0x202

_POPPED_WORDS = 3
# struct rt_sigframe_ia32 behind its return address: sig, pinfo, puc, siginfo; ucontext_ia32: uc_flags, uc_link,
# uc_stack (sp, flags, size), sigcontext_32, uc_sigmask; retcode
_SIGFRAME = struct.Struct("<12x128x 2I 3I 4I 8I 3I 3I I 3I Q 8x")
_FRAME_BYTES = 4 * _POPPED_WORDS + 4 + _SIGFRAME.size
_UC_FP_XSTATE = 1
_NO_ALTSTACK_CHANGE = 0x40  # no valid ss_flags: sigaltstack fails, which sigreturn ignores
_ALL_SIGNALS = (1 << 64) - 1
_FREGS_STATE_BYTES = 112
_FPSTATE_OFFSET = 128 - _FREGS_STATE_BYTES
"""Of the FPU state in a net: its legacy part comes first, and what follows is to be aligned to 64 bytes."""


def _frame(gadgets: Gadgets, registers: list[int], fpstate: int, mask: int) -> bytes:
    """Pack what a call returns into: words for it to pop, the way to rt_sigreturn, and what that reads.

    fpstate: address of the FPU state, 0 for the initial one. In the vDSO the call is followed by three pops and a
    ret; where it is followed by a ret alone, these words lead it from one ret to the next.
    """
    r = registers
    return struct.pack("<4I", *[gadgets.system_call + SYSCALL_BYTES] * _POPPED_WORDS, gadgets.sigreturn) + (
        _SIGFRAME.pack(
            _UC_FP_XSTATE, 0, 0, _NO_ALTSTACK_CHANGE, 0,
            r[_GS] & 0xFFFF, r[_FS] & 0xFFFF, r[_ES] & 0xFFFF, r[_DS] & 0xFFFF,
            r[_EDI], r[_ESI], r[_EBP], r[_ESP], r[_EBX], r[_EDX], r[_ECX], r[_EAX],
            0, 0, r[_EIP], r[_CS] & 0xFFFF, r[_EFLAGS], r[_ESP], r[_SS] & 0xFFFF,
            fpstate, 0, 0, mask,
        )
    )  # fmt: skip


def _fpstate(thread: ThreadState) -> bytes:
    """Return a thread's FPU state as a 32-bit signal frame holds it: struct fregs_state, FXSAVE or XSAVE image.

    The kernel takes the x87 registers from the first and all else from the second (fpu__restore_sig). The last opcode
    is in the upper half of the code selector, where it looks for it (convert_to_fxsr).
    """
    found = {regset.note_type: data for regset, data in thread.regsets}
    fsave, xstate = bytearray(found[NoteType.FPREGSET]), found.get(NoteType.X86_XSTATE)
    image = signal_xstate(xstate, _FREGS_STATE_BYTES) if xstate else found[NoteType.PRXFPREG]
    fsave[18:20] = image[6:8]
    status, magic = fsave[4:6], bytes(2)
    return bytes(fsave + status) + magic + image


class _I386Injection(X86Calls):
    """32-bit calls by int 0x80."""

    registers, calls, places = _REGISTERS, _CALLS, _PLACES
    audit_arch = _AUDIT_ARCH_I386
    gadget_patterns = (
        (
            bytes.fromhex("cd805d5a59c3"),  # int 0x80; pop ebp; pop edx; pop ecx; ret: __kernel_vsyscall
            bytes.fromhex("cd80c3"),  # int 0x80; ret
        ),
        (bytes.fromhex("b8ad000000cd80"),),  # mov eax, 173; int 0x80
    )

    def _call(
        self, registers: list[int], gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> list[int]:
        registers[_EAX] = _CALLS[call]
        registers[_ORIG_EAX] = _WORD
        for place, value in zip((_EBX, _ECX, _EDX, _ESI, _EDI, _EBP), (*arguments, 0, 0, 0, 0, 0, 0), strict=False):
            registers[place] = value
        registers[_EIP], registers[_ESP], registers[_EFLAGS] = gadgets.system_call, stack, _PLAIN_EFLAGS
        registers[_CS] = _USER32_CS
        registers[_SS] = registers[_DS] = registers[_ES] = _USER_DS
        return registers

    def net_bytes(self, thread: ThreadState) -> int:
        """Three frames and the FPU state, aligned."""
        return 3 * _FRAME_BYTES + 256 + max((len(data) for _, data in thread.regsets), default=0)

    def safety_net(self, thread: ThreadState, gadgets: Gadgets, address: int, reap: tuple[int, ...]) -> SafetyNet:
        """Image, ascending: FPU state; frame of wait4; frame of home; frame of exit."""
        registers = list(_REGISTERS.unpack(thread.general))
        floating = bytes(_FPSTATE_OFFSET) + _fpstate(thread)
        floating += bytes(-len(floating) % 16)
        frames = address + len(floating)
        reap_stack, home_stack, exit_stack = (frames + index * _FRAME_BYTES for index in range(3))
        wait = self._call(list(registers), gadgets, SystemCall.WAIT4, reap, home_stack)
        leave = self._call(list(registers), gadgets, SystemCall.EXIT, (0,), exit_stack)
        image = floating + _frame(gadgets, wait, 0, _ALL_SIGNALS)
        image += _frame(gadgets, _PLACES.restarted(registers), address + _FPSTATE_OFFSET, thread.signals_blocked)
        image += _frame(gadgets, leave, 0, _ALL_SIGNALS)
        return SafetyNet(address, image, reap_stack, exit_stack)


I386.injection = _I386Injection()
