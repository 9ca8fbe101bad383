"""x86-64: struct user_regs_struct, XSAVE state.

Sources: arch/x86/include/asm/user_64.h (register order), arch/x86/kernel/ptrace.c (regsets),
arch/x86/kernel/fpu/xstate.c dump_xsave_layout_desc (XSAVE layout note), Intel SDM vol. 1 ch. 13.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Callable

from ..elf import ELF64, ElfFormat, Machine, NoteType
from .base import Gadgets, Injection, Regset, SafetyNet, SystemCall, ThreadState
from .cpuid import cpuid, xcr0

_RAX, _ORIG_RAX, _RIP, _RSP = 10, 15, 16, 19
_REGISTERS = struct.Struct("<27Q")
_XSTATE_XCR0_OFFSET = 464
_FXSAVE_STATE_BYTES = 416
_FXSAVE_REST = bytes(512 - _FXSAVE_STATE_BYTES)
_SYSCALL_LENGTH = 2
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

    def read_regsets(self, get: Callable[[int], bytes | None]) -> tuple[tuple[Regset, bytes], ...]:
        """One call where there is XSAVE: the FXSAVE image is its beginning, but for what the frame's software owns.

        Source: arch/x86/kernel/fpu/xstate.c, __copy_xstate_to_uabi_buf (XSTATE_COPY_FX).
        """
        floating, extended = self.regsets
        xstate = get(extended.note_type)
        if xstate is not None:
            return (floating, xstate[:_FXSAVE_STATE_BYTES] + _FXSAVE_REST), (extended, xstate)
        fxsave = get(floating.note_type)
        if fxsave is None:
            raise LookupError("NT_FPREGSET")
        return ((floating, fxsave),)

    def stack_pointer(self, general: bytes) -> int:
        """RSP."""
        value: int = _REGISTERS.unpack(general)[_RSP]
        return value

    injection: Injection | None = None  # set below

    def restart_interrupted(self, general: bytes) -> bytes | None:
        """-ERESTARTNOHAND in place of -EINTR: the kernel restarts the call, or lets a handler that runs see EINTR."""
        if general[8 * _RAX : 8 * _RAX + 8] != _EINTR_BYTES:  # most threads: asked of all of them inside the stop
            return None
        registers = list(_REGISTERS.unpack(general))
        if registers[_ORIG_RAX] not in _RESTARTABLE_CALLS:
            return None
        registers[_RAX] = (1 << 64) - _ERESTARTNOHAND
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


_AUDIT_ARCH_X86_64 = 0xC000003E
_CALLS = {
    SystemCall.CLONE: 56,
    SystemCall.WAIT4: 61,
    SystemCall.EXIT: 60,
    SystemCall.SIGRETURN: 15,
    SystemCall.CLOSE_RANGE: 436,
}
_RESTART_SYSCALL = 219
_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND, _ERESTART_RESTARTBLOCK = 512, 513, 514, 516
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
_FXSAVE_SW_OFFSET = 464
_FP_XSTATE_MAGIC1, _FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845
_SW_BYTES = struct.Struct("<IIQI28x")
_XSAVE_HEADER_END = 576
_XTILE_FEATURES = 3 << 17


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


def _restarted(registers: list[int]) -> list[int]:
    """Return registers that restart an interrupted system call by themselves, as the kernel would have done."""
    restarted = list(registers)
    error = (1 << 64) - restarted[_RAX]
    if restarted[_ORIG_RAX] == _NO_SYSCALL:
        return restarted
    if error in (_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND):
        restarted[_RIP] -= _SYSCALL_LENGTH
        restarted[_RAX] = restarted[_ORIG_RAX]
    elif error == _ERESTART_RESTARTBLOCK:
        restarted[_RIP] -= _SYSCALL_LENGTH
        restarted[_RAX] = _RESTART_SYSCALL
    return restarted


@functools.lru_cache(maxsize=4)
def _feature_ends(features: int) -> int:
    """Bytes of a standard-format XSAVE area that holds these features (XCR0 bits); 576 for FPU and SSE alone."""
    numbers = [number for number in range(2, 63) if features >> number & 1]
    try:
        leaves = cpuid(*((0xD, number) for number in numbers))
    except OSError:
        return 0
    return max([_XSAVE_HEADER_END, *(offset + size for size, offset, _, _ in leaves)])


def _signal_xstate(image: bytes) -> bytes:
    """Return an XSAVE image (NT_X86_XSTATE) as a signal frame holds it: with the software bytes and the end mark.

    The tile registers of AMX are left out where the thread has none: the kernel takes no more than the thread may use.
    Source: arch/x86/kernel/fpu/signal.c, check_xstate_in_sigframe.
    """
    enabled = int.from_bytes(image[_XSTATE_XCR0_OFFSET : _XSTATE_XCR0_OFFSET + 8], "little")
    in_use = int.from_bytes(image[512:520], "little")
    features = enabled if in_use & _XTILE_FEATURES else enabled & ~_XTILE_FEATURES
    size = min(_feature_ends(features) or len(image), len(image))
    state = bytearray(image[:size])
    software = _SW_BYTES.pack(_FP_XSTATE_MAGIC1, size + 4, features, size)
    state[_FXSAVE_SW_OFFSET : _FXSAVE_SW_OFFSET + len(software)] = software
    return bytes(state) + struct.pack("<I", _FP_XSTATE_MAGIC2)


class _X8664Injection:
    """64-bit calls; frames as arch/x86/include/asm/sigframe.h and uapi/asm/sigcontext.h lay them out."""

    audit_arch = _AUDIT_ARCH_X86_64
    gadget_patterns = (
        (bytes.fromhex("0f05c3"),),  # syscall; ret
        (
            bytes.fromhex("48c7c00f0000000f05"),  # mov rax, 15; syscall
            bytes.fromhex("b80f0000000f05"),  # mov eax, 15; syscall
        ),
    )
    system_call_bytes = _SYSCALL_LENGTH

    def number(self, call: SystemCall) -> int:
        """See Injection."""
        return _CALLS[call]

    def clone_arguments(self, flags: int, stack: int) -> tuple[int, ...]:
        """flags, stack, parent_tid, child_tid, tls."""
        return flags, stack, 0, 0, 0

    def registers_for(
        self, general: bytes, gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> bytes:
        """See Injection; segment bases stay, so that thread-local storage does."""
        return _REGISTERS.pack(*self._call(list(_REGISTERS.unpack(general)), gadgets, call, arguments, stack))

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

    def result(self, general: bytes) -> int:
        """RAX as a signed number."""
        value: int = _REGISTERS.unpack(general)[_RAX]
        return value - (1 << 64) if value >> 63 else value

    def instruction_pointer(self, general: bytes) -> int:
        """RIP."""
        value: int = _REGISTERS.unpack(general)[_RIP]
        return value

    def in_system_call(self, general: bytes) -> bool:
        """ORIG_RAX holds a number."""
        value: int = _REGISTERS.unpack(general)[_ORIG_RAX]
        return not value >> 63

    def net_bytes(self, thread: ThreadState) -> int:
        """Three frames and one XSAVE image, aligned."""
        return 3 * _FRAME_BYTES + 128 + max((len(data) for _, data in thread.regsets), default=0)

    def safety_net(self, thread: ThreadState, gadgets: Gadgets, address: int, reap: tuple[int, ...]) -> SafetyNet:
        """Image, ascending: XSAVE image; frame of wait4; frame of home; frame of exit."""
        registers = list(_REGISTERS.unpack(thread.general))
        xstate = next((data for regset, data in thread.regsets if regset.note_type == NoteType.X86_XSTATE), b"")
        if xstate:
            floating = _signal_xstate(xstate)
        else:
            floating = next(data for regset, data in thread.regsets if regset.note_type == NoteType.FPREGSET)
        frames = address + (len(floating) + 63) // 64 * 64
        reap_stack, home_stack, exit_stack = (frames + index * _FRAME_BYTES for index in range(3))
        wait = self._call(list(registers), gadgets, SystemCall.WAIT4, reap, home_stack)
        leave = self._call(list(registers), gadgets, SystemCall.EXIT, (0,), exit_stack)
        back = struct.pack("<Q", gadgets.sigreturn)
        image = floating + bytes(frames - address - len(floating))
        image += back + _ucontext(wait, 0, _ALL_SIGNALS)
        image += back + _ucontext(_restarted(registers), address, thread.signals_blocked)
        image += back + _ucontext(leave, 0, _ALL_SIGNALS)
        return SafetyNet(address, image, reap_stack, exit_stack)


X86_64.injection = _X8664Injection()
