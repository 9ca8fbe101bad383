"""What a seccomp filter would say to a system call, found out without making it.

Filters are classic BPF programs; a handful of instructions that the kernel admits is enough to run them here.
Sources: kernel/seccomp.c (seccomp_check_filter, seccomp_run_filters), include/uapi/linux/seccomp.h, filter.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence

_INSTRUCTION = struct.Struct("<HBBI")
_DATA = struct.Struct("<iIQ6Q")
_WORD = 0xFFFFFFFF
_DATA_BYTES = 64

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_IMM, _ABS, _MEM, _LEN = 0x00, 0x20, 0x60, 0x80
_X_SOURCE = 0x08
_DIVIDE = 0x30

_OPERATIONS: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    _DIVIDE: lambda a, b: a // b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << (b & 31),
    0x70: lambda a, b: a >> (b & 31),
    0x80: lambda a, b: -a,
    0xA0: lambda a, b: a ^ b,
}
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
}


class Action(enum.IntEnum):
    """SECCOMP_RET_*, as the kernel ranks them: the lowest of all filters counts."""

    KILL_PROCESS = -0x80000000
    KILL_THREAD = 0
    TRAP = 0x00030000
    ERRNO = 0x00050000
    USER_NOTIF = 0x7FC00000
    TRACE = 0x7FF00000
    LOG = 0x7FFC0000
    ALLOW = 0x7FFF0000


class FilterError(ValueError):
    """The program is none that the kernel would have taken."""


def run_filter(program: bytes, number: int, audit_arch: int, address: int, arguments: Sequence[int]) -> int:
    """Return what a filter (struct sock_filter[]) returns for a call, 32 bits. Errors: FilterError.

    address: of the instruction behind the call.
    """
    data = _DATA.pack(number, audit_arch, address, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    accumulator = index_register = position = 0
    memory = [0] * 16
    try:
        instructions = list(_INSTRUCTION.iter_unpack(program))
        while True:
            code, if_true, if_false, constant = instructions[position]
            position += 1
            group, operand = code & 0x07, index_register if code & _X_SOURCE else constant
            if group in (_LD, _LDX):
                value = _load(code & 0xE0, constant, memory, data)
                if group == _LD:
                    accumulator = value
                else:
                    index_register = value
            elif group == _ST:
                memory[constant] = accumulator
            elif group == _STX:
                memory[constant] = index_register
            elif group == _ALU:
                if code & 0xF0 == _DIVIDE and not operand:
                    return 0  # net/core/filter.c, bpf_convert_filter: the program ends
                accumulator = _OPERATIONS[code & 0xF0](accumulator, operand) & _WORD
            elif group == _JMP:
                if code & 0xF0 == 0:
                    position += constant
                else:
                    position += if_true if _COMPARISONS[code & 0xF0](accumulator, operand) else if_false
            elif group == _RET:
                return accumulator if code & 0x18 == 0x10 else constant
            elif code & 0xF8:
                accumulator = index_register
            else:
                index_register = accumulator
    except (IndexError, KeyError, struct.error) as error:
        raise FilterError("not a seccomp filter") from error


def _load(mode: int, constant: int, memory: list[int], data: bytes) -> int:
    if mode == _IMM:
        return constant
    if mode == _ABS:
        value: int = struct.unpack_from("<I", data, constant)[0]
        return value
    if mode == _MEM:
        return memory[constant]
    if mode == _LEN:
        return _DATA_BYTES
    raise KeyError(mode)


def verdict(programs: Sequence[bytes], number: int, audit_arch: int, address: int, arguments: Sequence[int]) -> Action:
    """Return what all filters of a thread together do with a call. Errors: FilterError."""
    worst = int(Action.ALLOW)
    for program in programs:
        value = run_filter(program, number, audit_arch, address, arguments) & 0xFFFF0000
        worst = min(worst, value - (1 << 32) if value >> 31 else value)
    try:
        return Action(worst)
    except ValueError:  # the kernel kills on an action it does not know
        return Action.KILL_PROCESS
