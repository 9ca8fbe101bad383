"""What is alike in how the machines run a system call: its number, arguments and result are general registers."""

from __future__ import annotations

import abc
import struct
from collections.abc import Mapping

from .base import Gadgets, RegisterBytes, SystemCall


class RegisterCalls(abc.ABC):
    """The part of an Injection that follows from a few places in the general registers.

    registers: their layout, words of one width; calls: the numbers of the calls; result_place and pointer_place: of the
    result and of the address in the registers.
    """

    registers: struct.Struct
    calls: Mapping[SystemCall, int]
    result_place: int
    pointer_place: int

    def number(self, call: SystemCall) -> int:
        """See Injection."""
        return self.calls[call]

    def clone_arguments(self, flags: int, stack: int) -> tuple[int, ...]:
        """Flags and stack come first everywhere; parent_tid, child_tid and tls, whose order differs, are 0."""
        return flags, stack, 0, 0, 0

    def registers_for(
        self, general: bytes, gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> bytes:
        """See Injection; what thread-local storage hangs on stays."""
        return self.registers.pack(*self._call(self._unpacked(general), gadgets, call, arguments, stack))

    def result(self, general: bytes) -> int:
        """See Injection."""
        value = self._unpacked(general)[self.result_place]
        bits = 8 * self.registers.size // len(self._unpacked(general))
        return value - (1 << bits) if value >> (bits - 1) else value

    def instruction_pointer(self, general: bytes) -> int:
        """See Injection."""
        return self._unpacked(general)[self.pointer_place]

    def forbidden(self, sets: Mapping[int, RegisterBytes]) -> str:
        """Nothing in the registers forbids it."""
        return ""

    def _unpacked(self, general: bytes) -> list[int]:
        return list(self.registers.unpack(general))

    @abc.abstractmethod
    def _call(
        self, registers: list[int], gadgets: Gadgets, call: SystemCall, arguments: tuple[int, ...], stack: int
    ) -> list[int]:
        """Return the registers, changed so that a thread runs the call and then returns by way of stack."""
