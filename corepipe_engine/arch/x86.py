"""What 64-bit and 32-bit programs on x86-64 have in common: XSAVE state, and how the kernel restarts a call.

Sources: arch/x86/kernel/fpu/xstate.c (XSAVE images and their layout note), arch/x86/kernel/fpu/signal.c (images in
signal frames), arch/x86/kernel/signal.c (arch_do_signal_or_restart), Intel SDM vol. 1 ch. 13.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..elf import NoteType
from .base import CallState, Gadgets, ThreadState
from .calls import RegisterCalls
from .cpuid import cpuid, xcr0

FXSAVE_BYTES = 512
SYSCALL_BYTES = 2
"""Length of syscall, sysenter and int 0x80."""
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516

_SOFTWARE_OFFSET = 464
_FXSAVE_STATE_BYTES = 416
_FXSAVE_REST = bytes(FXSAVE_BYTES - _FXSAVE_STATE_BYTES)
_XSAVE_HEADER_END = 576
_XTILE_FEATURES = 3 << 17
_FP_XSTATE_MAGIC1, _FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845
_SOFTWARE = struct.Struct("<IIQI28x")
_MAGIC2 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class CallPlaces:
    """Where in a list of registers of that many bits the result, the number and the address of a system call stand.

    restart_call: the number of restart_syscall(2).
    """

    result: int
    number: int
    pointer: int
    bits: int
    restart_call: int

    def call_state(self, registers: Sequence[int]) -> CallState:
        """See Injection.call_state."""
        if registers[self.number] >> (self.bits - 1):
            return CallState.OUTSIDE
        restarts = (1 << self.bits) - registers[self.result] == ERESTART_RESTARTBLOCK
        return CallState.KERNEL_RESTARTS if restarts else CallState.INSIDE

    def restarted(self, registers: list[int]) -> list[int]:
        """Return registers that restart an interrupted system call by themselves, as the kernel would have done."""
        restarted = list(registers)
        if restarted[self.number] >> (self.bits - 1):  # not in a call
            return restarted
        error = (1 << self.bits) - restarted[self.result]
        if error in (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND):
            restarted[self.pointer] -= SYSCALL_BYTES
            restarted[self.result] = restarted[self.number]
        elif error == ERESTART_RESTARTBLOCK:
            restarted[self.pointer] -= SYSCALL_BYTES
            restarted[self.result] = self.restart_call
        return restarted


class X86Calls(RegisterCalls):
    """What 64-bit and 32-bit calls have in common. places: see CallPlaces."""

    places: CallPlaces
    code_alignment = 1
    system_call_bytes = SYSCALL_BYTES

    def __init__(self) -> None:
        self.result_place, self.pointer_place = self.places.result, self.places.pointer

    def call_state(self, general: bytes, code_at: Callable[[int], bytes]) -> CallState:
        """The place of the number holds one in a call."""
        return self.places.call_state(self._unpacked(general))

    def settled(self, found: bytes, entered: bytes) -> bytes:
        """No thread is unclear here."""
        raise NotImplementedError

    def instead(self, thread: ThreadState, gadgets: Gadgets, stack: int) -> tuple[tuple[int, bytes], ...]:
        """No thread is unclear here."""
        raise NotImplementedError

    def way_home(self, thread: ThreadState) -> tuple[tuple[int, bytes], ...]:
        """The general registers: a call leaves all others alone."""
        return ((NoteType.PRSTATUS, thread.general),)


@functools.lru_cache(maxsize=1)
def xstate_size() -> int:
    """Bytes of the XSAVE area for all features that the kernel enabled (CPUID leaf 0xD, EBX); 0 if unknown."""
    try:
        return cpuid((0xD, 0))[0][1]
    except OSError:
        return 0


def fxsave_part(xstate: bytes) -> bytes:
    """Return the FXSAVE image of an XSAVE image, as the kernel gives it: without what the frame's software owns.

    Source: __copy_xstate_to_uabi_buf (XSTATE_COPY_FX).
    """
    return xstate[:_FXSAVE_STATE_BYTES] + _FXSAVE_REST


@functools.lru_cache(maxsize=8)
def _layout(features_mask: int) -> bytes:
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


def layout_notes(thread: ThreadState) -> tuple[tuple[bytes, int, bytes], ...]:
    """Return NT_X86_XSAVE_LAYOUT, where the thread has XSAVE state. Source: dump_xsave_layout_desc."""
    for regset, data in thread.regsets:
        if regset.note_type == NoteType.X86_XSTATE and len(data) >= _SOFTWARE_OFFSET + 8:
            layout = _layout(_enabled_features(data))
            if layout:
                return ((b"LINUX", NoteType.X86_XSAVE_LAYOUT, layout),)
    return ()


def expected_layout_notes() -> tuple[tuple[bytes, int, int], ...]:
    """As layout_notes, with sizes for descriptors."""
    try:
        layout = _layout(xcr0())
    except OSError:
        return ()
    return ((b"LINUX", NoteType.X86_XSAVE_LAYOUT, len(layout)),) if layout else ()


def _enabled_features(xstate: bytes) -> int:
    """XCR0 as the kernel writes it among the software bytes of an image."""
    return int.from_bytes(xstate[_SOFTWARE_OFFSET : _SOFTWARE_OFFSET + 8], "little")


@functools.lru_cache(maxsize=4)
def feature_ends(features: int) -> int:
    """Bytes of a standard-format XSAVE area that holds these features (XCR0 bits); 576 for FPU and SSE alone."""
    numbers = [number for number in range(2, 63) if features >> number & 1]
    try:
        leaves = cpuid(*((0xD, number) for number in numbers))
    except OSError:
        return 0
    return max([_XSAVE_HEADER_END, *(offset + size for size, offset, _, _ in leaves)])


def signal_xstate(image: bytes, bytes_before: int = 0) -> bytes:
    """Return an XSAVE image (NT_X86_XSTATE) as a signal frame holds it: with the software bytes and the end mark.

    bytes_before: of what precedes it in the frame, which the software bytes count in. The tile registers of AMX are
    left out where the thread has none: the kernel takes no more than the thread may use.
    Source: arch/x86/kernel/fpu/signal.c, check_xstate_in_sigframe.
    """
    enabled = _enabled_features(image)
    in_use = int.from_bytes(image[512:520], "little")
    features = enabled if in_use & _XTILE_FEATURES else enabled & ~_XTILE_FEATURES
    size = min(feature_ends(features) or len(image), len(image))
    state = bytearray(image[:size])
    software = _SOFTWARE.pack(_FP_XSTATE_MAGIC1, bytes_before + size + _MAGIC2.size, features, size)
    state[_SOFTWARE_OFFSET : _SOFTWARE_OFFSET + len(software)] = software
    return bytes(state) + _MAGIC2.pack(_FP_XSTATE_MAGIC2)
