"""aarch64: 64-bit programs on 64-bit Arm. A thread's registers are struct user_pt_regs, 272 bytes.

Two things are unlike x86. The kernel puts an interrupted call back before a tracer sees the thread, whose registers
then do not tell whether it was in a call, nor how that is to be restarted. And a call loses what SVE registers hold
beyond their first 128 bits: a thread that was not in one must get them back.
Sources: arch/arm64/include/uapi/asm/ptrace.h and sigcontext.h (layouts), arch/arm64/kernel/ptrace.c (register sets and
their order), arch/arm64/kernel/signal.c (do_signal, parse_user_sigframe), Documentation/arch/arm64/sve.rst.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import struct
from collections.abc import Callable, Mapping

from ..elf import ELF64, ElfFormat, Machine, NoteType, TagFormat
from .base import (
    CallState,
    Gadgets,
    Injection,
    RegisterBytes,
    Regset,
    SafetyNet,
    StoppedTask,
    SystemCall,
    ThreadState,
)
from .calls import RegisterCalls

_REGISTERS = struct.Struct("<34Q")
_NUMBER, _LINK, _SP, _PC, _PSTATE = 8, 30, 31, 32, 33
_BTYPE = 3 << 10
"""Of PSTATE: the kind of branch that led here; where it is set, only a landing pad may come next."""
_CALL_BYTES = 4
_CALL_MASK, _CALL_CODE = 0xFFE0001F, 0xD4000001
"""svc with any number in it."""
_EINTR_BYTES = ((1 << 64) - errno.EINTR).to_bytes(8, "little")


class _Note(enum.IntEnum):
    """NT_ARM_* (include/uapi/linux/elf.h)."""

    TLS = 0x401
    HW_BREAK = 0x402
    HW_WATCH = 0x403
    SYSTEM_CALL = 0x404
    SVE = 0x405
    PAC_MASK = 0x406
    PACA_KEYS = 0x407
    PACG_KEYS = 0x408
    TAGGED_ADDR_CTRL = 0x409
    PAC_ENABLED_KEYS = 0x40A
    SSVE = 0x40B
    ZA = 0x40C
    ZT = 0x40D
    FPMR = 0x40E
    POE = 0x40F
    GCS = 0x410


_PT_AARCH64_MEMTAG_MTE = 0x70000002
_GRANULE_BYTES = 16
_UPPER_NIBBLE = bytes((byte << 4) & 0xFF for byte in range(256))
_NO_CALL = struct.pack("<i", -1)
_FPSIMD_BYTES = 528
_VECTOR_HEADER = struct.Struct("<IIHHHH")  # struct user_sve_header: size, max_size, vl, max_vl, flags, reserved
_SVE_REGISTERS = 1  # of the flags: all of the SVE registers follow, not the 128 bits of each alone
_HWCAP, _HWCAP2 = 16, 26
_HAS_SVE, _HAS_PACA, _HAS_PACG = 1 << 22, 1 << 30, 1 << 31
_HAS_SME, _HAS_SME2, _HAS_FPMR, _HAS_POE = 1 << 23, 1 << 37, 1 << 48, 1 << 63

_EXPECTED: dict[_Note, tuple[int, int, int]] = {
    _Note.TLS: (0, 0, 16),
    _Note.HW_BREAK: (0, 0, 8 + 16 * 16),
    _Note.HW_WATCH: (0, 0, 8 + 16 * 16),
    _Note.FPMR: (0, _HAS_FPMR, 8),
    _Note.SYSTEM_CALL: (0, 0, 4),
    _Note.SVE: (_HAS_SVE, 0, _VECTOR_HEADER.size + _FPSIMD_BYTES),
    _Note.SSVE: (0, _HAS_SME, _VECTOR_HEADER.size + _FPSIMD_BYTES),
    _Note.ZA: (0, _HAS_SME, _VECTOR_HEADER.size),
    _Note.ZT: (0, _HAS_SME2, 64),
    _Note.PAC_MASK: (_HAS_PACA, 0, 16),
    _Note.PAC_ENABLED_KEYS: (_HAS_PACA, 0, 8),
    _Note.PACA_KEYS: (_HAS_PACA, 0, 64),
    _Note.PACG_KEYS: (_HAS_PACG, 0, 16),
    _Note.TAGGED_ADDR_CTRL: (0, 0, 8),
    _Note.POE: (0, _HAS_POE, 8),
}
"""note -> what of AT_HWCAP and AT_HWCAP2 it takes, bytes for a thread that sleeps: in the order of a kernel core."""

_RESTARTABLE_CALLS = frozenset(
    {
        4,  # io_getevents
        22,  # epoll_pwait
        63,  # read: inotify, and sockets with a receive timeout
        64,  # write: sockets with a send timeout
        65,  # readv
        66,  # writev
        137,  # rt_sigtimedwait
        192,  # semtimedop
        193,  # semop
        202,  # accept
        206,  # sendto
        207,  # recvfrom
        211,  # sendmsg
        212,  # recvmsg
        242,  # accept4
        243,  # recvmmsg
        269,  # sendmmsg
        292,  # io_pgetevents
        426,  # io_uring_enter
        441,  # epoll_pwait2
    }
)
"""Calls that fail with EINTR at a stop, having done nothing: running them again is what the caller asked for."""


class AArch64:
    """64-bit programs on 64-bit Arm."""

    name = "aarch64"
    hosts = ("aarch64", "arm64")
    machine = Machine.AARCH64
    elf: ElfFormat = ELF64
    prpsinfo = struct.Struct("<BBBb4xQIIiiii16s80s")
    general_size = _REGISTERS.size
    regsets = (
        Regset(b"CORE", NoteType.FPREGSET, required=True),
        *(Regset(b"LINUX", note, required=False) for note in _EXPECTED),
        Regset(b"LINUX", _Note.GCS, required=False),
    )
    injection: Injection | None = None  # set below
    files_before = ("syscall",)
    restart_yields_to_handlers = False
    tags: TagFormat | None = TagFormat("mt", _PT_AARCH64_MEMTAG_MTE, 2 * _GRANULE_BYTES)

    def expected_regset_size(self, regset: Regset) -> int:
        """By what the auxiliary vector tells of the machine; a thread that was stopped while it used SVE has more."""
        if regset.note_type == NoteType.FPREGSET:
            return _FPSIMD_BYTES
        if regset.note_type not in _EXPECTED:
            return 0
        first, second, size = _EXPECTED[_Note(regset.note_type)]
        capabilities, more = _capabilities()
        return size if first & capabilities == first and second & more == second else 0

    def read_regsets(self, get: Callable[[int], bytes | None]) -> tuple[tuple[Regset, bytes], ...]:
        """Whatever the kernel gives for this thread, as long as its own core has it."""
        found = []
        for regset in self.regsets:
            data = get(regset.note_type)
            if data is not None:
                found.append((regset, _written(regset.note_type, data)))
            elif regset.required:
                raise LookupError("NT_FPREGSET")
        return tuple(found)

    def stack_pointer(self, general: bytes) -> int:
        """SP."""
        value: int = _REGISTERS.unpack(general)[_SP]
        return value

    def restart_interrupted(self, general: bytes, task: StoppedTask) -> bytes | None:
        """The call's first argument, which its result stands in place of, is asked of the kernel.

        /proc/PID/task/TID/syscall tells it for a thread that is in a call, which is a matter of NT_ARM_SYSTEM_CALL. It
        holds only if it is what was seen before the stop, for the same call: a thread that comes back from a signal
        handler to the same place looks no different.
        """
        if general[:8] != _EINTR_BYTES:  # most threads: asked of all of them inside the stop
            return None
        registers = list(_REGISTERS.unpack(general))
        number = registers[_NUMBER]
        if number not in _RESTARTABLE_CALLS:
            return None
        before = _call_in(task.before("syscall"))
        if before is None or before[0] != number or before[2:] != [*registers[1:6], registers[_SP], registers[_PC]]:
            return None
        task.set_regset(_Note.SYSTEM_CALL, struct.pack("<i", number))
        try:
            now = _call_in(task.read("syscall"))
        finally:
            task.set_regset(_Note.SYSTEM_CALL, _NO_CALL)
        if now is None or now[:2] != before[:2]:
            return None
        registers[0] = before[1]
        registers[_PC] -= _CALL_BYTES
        return _REGISTERS.pack(*registers)

    def pack_tags(self, tags: bytes) -> bytes:
        """Two tags of 4 bits to a byte, the lower one first."""
        both = int.from_bytes(tags[::2], "little") | int.from_bytes(tags[1::2].translate(_UPPER_NIBBLE), "little")
        return both.to_bytes(len(tags) // 2, "little")

    def process_notes(self, general_thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
        """None."""
        return ()

    def expected_process_notes(self) -> tuple[tuple[bytes, int, int], ...]:
        """None."""
        return ()


@functools.lru_cache(maxsize=1)
def _capabilities() -> tuple[int, int]:
    """AT_HWCAP and AT_HWCAP2 of this process."""
    found = {}
    with contextlib.suppress(OSError), open("/proc/self/auxv", "rb") as file:
        data = file.read()
        found = dict(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))
    return found.get(_HWCAP, 0), found.get(_HWCAP2, 0)


def _call_in(text: bytes) -> list[int] | None:
    """Return number, six arguments, stack pointer and address from a syscall file, None for a thread in no call."""
    fields = text.split()
    if len(fields) != 9:
        return None
    return [int(fields[0]), *(int(field, 16) for field in fields[1:])]


_AUDIT_ARCH_AARCH64 = 0xC00000B7
_CALLS = {
    SystemCall.CLONE: 220,
    SystemCall.WAIT4: 260,
    SystemCall.EXIT: 93,
    SystemCall.SIGRETURN: 139,
    SystemCall.CLOSE_RANGE: 436,
    SystemCall.SETPGID: 154,
    SystemCall.PIPE2: 59,
    SystemCall.VMSPLICE: 75,
}
_FUTEX, _NANOSLEEP, _CLOCK_NANOSLEEP, _RESTART = 98, 101, 115, 128
_FUTEX_COMMAND, _FUTEX_WAITS = 0x7F, (0, 9)  # FUTEX_WAIT, FUTEX_WAIT_BITSET
_NOBODY = (0x7FFFFFFF, 0, 0x40000001, 0)
"""Arguments of wait4 that fail at once: no process has that pid; WNOHANG | __WALL."""

# struct rt_sigframe up to the records: siginfo; ucontext: uc_flags, uc_link, uc_stack (sp, flags, size), uc_sigmask and
# room for more of it; sigcontext, 16-byte aligned: fault_address, x0 ... x30, sp, pc, pstate
_SIGFRAME = struct.Struct("<128x 2Q Qi4xQ Q120x 8x Q 34Q 8x")
_RECORDS_BYTES = 4096
_RECORD = struct.Struct("<II")
_FPSIMD_MAGIC, _SVE_MAGIC, _POE_MAGIC, _EXTRA_MAGIC = 0x46508001, 0x53564501, 0x504F4530, 0x45585401
_SVE_RECORD = struct.Struct("<IIHHHH")  # magic, size, vl, flags, reserved
_EXTRA_RECORD = struct.Struct("<IIQI12x")  # magic, size, address, bytes
_END = bytes(16)
_NO_ALTSTACK_CHANGE = 0x40  # no valid ss_flags: sigaltstack fails, which sigreturn ignores
_ALL_SIGNALS = (1 << 64) - 1
_SVE_QUADWORD_BYTES = 32 * 16 + 16 * 2 + 2
"""Of signal frame and NT_ARM_SVE alike, for each 16 bytes of the vector length: Z0 ... Z31, P0 ... P15, FFR."""


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def _written(note_type: int, data: bytes) -> bytes:
    """Return a register set without what the kernel did not write: its length is that of the longest vectors."""
    if note_type not in (_Note.SVE, _Note.SSVE, _Note.ZA):
        return data
    size = _VECTOR_HEADER.unpack_from(data)[0]
    return data[: (size + 15) // 16 * 16]


def _sve_in_use(data: RegisterBytes) -> bool:
    """Whether a register set NT_ARM_SVE or NT_ARM_SSVE holds all of the registers."""
    return len(data) >= _VECTOR_HEADER.size and bool(_VECTOR_HEADER.unpack_from(data)[4] & _SVE_REGISTERS)


def _records(thread: ThreadState) -> tuple[bytes, bytes]:
    """Return the records of a signal frame that hold what is not a general register; those that may be large apart."""
    sets = {regset.note_type: data for regset, data in thread.regsets}
    floating = sets[NoteType.FPREGSET]
    vectors, control = floating[:512], floating[512:520]
    small = _RECORD.pack(_FPSIMD_MAGIC, _FPSIMD_BYTES) + control + vectors
    if _Note.POE in sets:
        small += _RECORD.pack(_POE_MAGIC, 16) + sets[_Note.POE]
    sve = sets.get(_Note.SVE, b"")
    if not _sve_in_use(sve):
        return small, b""
    length = _VECTOR_HEADER.unpack_from(sve)[2]
    registers = sve[_VECTOR_HEADER.size :][: length // 16 * _SVE_QUADWORD_BYTES]
    size = len(_padded(bytes(_SVE_RECORD.size) + registers))
    return small, _padded(_SVE_RECORD.pack(_SVE_MAGIC, size, length, 0, 0, 0) + registers)


def _frame(address: int, registers: list[int], mask: int, small: bytes, large: bytes = b"") -> bytes:
    """Pack what rt_sigreturn reads at that address; the large records go behind the frame where it has no room."""
    frame = _SIGFRAME.pack(0, 0, 0, _NO_ALTSTACK_CHANGE, 0, mask, 0, *registers)
    if len(small) + len(large) + len(_END) <= _RECORDS_BYTES:
        return frame + small + large + _END
    place = address + len(frame) + len(small) + _EXTRA_RECORD.size + len(_END)
    extra = _EXTRA_RECORD.pack(_EXTRA_MAGIC, _EXTRA_RECORD.size, place, len(large) + len(_END))
    return frame + small + extra + _END + large + _END


class _AArch64Injection(RegisterCalls):
    """64-bit calls by svc; behind it a ret leads to rt_sigreturn, whose frame lies at the stack pointer."""

    registers, calls = _REGISTERS, _CALLS
    result_place, pointer_place = 0, _PC
    audit_arch = _AUDIT_ARCH_AARCH64
    gadget_patterns = (
        (bytes.fromhex("010000d4c0035fd6"),),  # svc 0; ret
        (bytes.fromhex("681180d2010000d4"),),  # mov x8, 139; svc 0
    )
    code_alignment = 4
    system_call_bytes = _CALL_BYTES

    def _call(
        self, registers: list[int], gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> list[int]:
        """x7 stays: what a tracer writes to it in a stop at a call is not kept (report_syscall)."""
        registers[:6] = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
        registers[_NUMBER], registers[_LINK] = _CALLS[call], gadgets.sigreturn
        registers[_SP], registers[_PC] = stack, gadgets.system_call
        registers[_PSTATE] &= ~_BTYPE
        return registers

    def call_state(self, general: bytes, code_at: Callable[[int], bytes]) -> CallState:
        """A thread whose call is restarted stands at it again; one whose call has ended is outside of it."""
        code = code_at(self.instruction_pointer(general))
        if len(code) != _CALL_BYTES or int.from_bytes(code, "little") & _CALL_MASK != _CALL_CODE:
            return CallState.OUTSIDE
        registers = _REGISTERS.unpack(general)
        number = registers[_NUMBER]
        waits = number == _FUTEX and registers[1] & _FUTEX_COMMAND in _FUTEX_WAITS and registers[3] != 0
        return CallState.UNCLEAR if waits or number in (_NANOSLEEP, _CLOCK_NANOSLEEP, _RESTART) else CallState.INSIDE

    def forbidden(self, sets: Mapping[int, RegisterBytes]) -> str:
        """A guarded control stack forbids the way back, and a call ends SME's streaming mode."""
        if int.from_bytes(bytes(sets.get(_Note.GCS, b""))[:8], "little") & 1:
            return "the target has a guarded control stack (GCS), which forbids the way back"
        if _sve_in_use(sets.get(_Note.SSVE, b"")):
            return "the target is in streaming mode (SME), which a system call would end"
        return ""

    def settled(self, found: bytes, entered: bytes) -> bytes:
        """The number is the kernel's, that of restart_syscall perhaps; x7 does not show in an entry stop."""
        registers = list(_REGISTERS.unpack(found))
        registers[_NUMBER] = _REGISTERS.unpack(entered)[_NUMBER]
        return _REGISTERS.pack(*registers)

    def instead(self, thread: ThreadState, gadgets: Gadgets, stack: int) -> tuple[tuple[int, bytes], ...]:
        """See Injection; the call that was entered may be a sleep, or a wait that looks first: neither minds."""
        registers = self._call(list(_REGISTERS.unpack(thread.general)), gadgets, SystemCall.WAIT4, _NOBODY, stack)
        registers[_PC] += _CALL_BYTES
        number = struct.pack("<i", _CALLS[SystemCall.WAIT4])
        return (NoteType.PRSTATUS, _REGISTERS.pack(*registers)), (_Note.SYSTEM_CALL, number)

    def way_home(self, thread: ThreadState) -> tuple[tuple[int, bytes], ...]:
        """That it is in no call any more, or the kernel might restart it; SVE registers; the general registers."""
        sve = tuple(
            (regset.note_type, data)
            for regset, data in thread.regsets
            if regset.note_type == _Note.SVE and _sve_in_use(data)
        )
        return (_Note.SYSTEM_CALL, _NO_CALL), *sve, (NoteType.PRSTATUS, thread.general)

    def net_bytes(self, thread: ThreadState) -> int:
        """Three frames, and the large records of one of them."""
        small, large = _records(thread)
        return 3 * (_SIGFRAME.size + len(small) + _EXTRA_RECORD.size + 2 * len(_END)) + len(large)

    def safety_net(self, thread: ThreadState, gadgets: Gadgets, address: int, reap: tuple[int, ...]) -> SafetyNet:
        """Image, ascending: frame of wait4; frame of home; frame of exit."""
        registers = list(_REGISTERS.unpack(thread.general))
        small, large = _records(thread)
        plain = _SIGFRAME.size + len(small) + len(_END)
        home_stack = address + plain
        home = _frame(home_stack, registers, thread.signals_blocked, small, large)
        exit_stack = home_stack + len(home)
        wait = self._call(list(registers), gadgets, SystemCall.WAIT4, reap, home_stack)
        leave = self._call(list(registers), gadgets, SystemCall.EXIT, (0,), exit_stack)
        image = _frame(address, wait, _ALL_SIGNALS, small) + home + _frame(exit_stack, leave, _ALL_SIGNALS, small)
        return SafetyNet(address, image, address, exit_stack)


AArch64.injection = _AArch64Injection()
