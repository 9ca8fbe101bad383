"""seccomp.py: classic BPF as the kernel runs it. tests/live/test_seccomp_kernel.py compares with the kernel itself."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.seccomp import Action, FilterError, run_filter, verdict

ARCH = 0xC000003E
WORD = 0xFFFFFFFF
ADDRESS = 0x1122334455667788
ARGUMENTS = (0xAAAAAAAABBBBBBBB, 2, 3, 4, 5, 0x66666666FFFFFFFF)
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
IMM, ABS, MEM, LEN = 0x00, 0x20, 0x60, 0x80
K, X, A = 0x00, 0x08, 0x10
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, XOR = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xA0
JA, JEQ, JGT, JGE, JSET = 0x00, 0x10, 0x20, 0x30, 0x40
TAX, TXA = 0x00, 0x80


def assemble(*instructions: tuple[int, ...]) -> bytes:
    """(code, k), or (code, k, jt, jf)."""
    return b"".join(struct.pack("<HBBI", code, *(rest[1:] or (0, 0)), rest[0] & WORD) for code, *rest in instructions)


def run(*instructions: tuple[int, ...]) -> int:
    return run_filter(assemble(*instructions), 56, ARCH, ADDRESS, ARGUMENTS)


def load(value: int) -> tuple[int, int]:
    return LD | IMM, value


RETURN_A = (RET | A, 0)


# --- loads and stores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 56),
        (4, ARCH),
        (8, ADDRESS & WORD),
        (12, ADDRESS >> 32),
        (16, 0xBBBBBBBB),
        (20, 0xAAAAAAAA),
        (24, 2),
        (28, 0),
        (56, 0xFFFFFFFF),
        (60, 0x66666666),
    ],
)
def test_the_words_of_struct_seccomp_data(offset: int, value: int) -> None:
    assert run((LD | ABS, offset), RETURN_A) == value


def test_arguments_that_are_not_given_are_zero() -> None:
    program = assemble((LD | ABS, 32), RETURN_A)
    assert run_filter(program, 0, ARCH, 0, (1, 2)) == 0
    assert run_filter(program, 0, ARCH, 0, ()) == 0


def test_a_negative_system_call_number_is_a_word() -> None:
    assert run_filter(assemble((LD | ABS, 0), RETURN_A), -1, ARCH, 0, ()) == WORD


def test_constants_lengths_and_memory() -> None:
    assert run((RET | K, 0x7FFF0000)) == 0x7FFF0000
    assert run(load(7), RETURN_A) == 7
    assert run((LD | LEN, 0), RETURN_A) == 64
    assert run((LDX | LEN, 0), (MISC | TXA, 0), RETURN_A) == 64
    assert run((LDX | IMM, 9), (MISC | TXA, 0), RETURN_A) == 9
    assert run(load(5), (ST, 3), load(6), (LD | MEM, 3), RETURN_A) == 5
    assert run((LDX | IMM, 8), (STX, 15), (LD | MEM, 15), RETURN_A) == 8
    assert run(load(4), (ST, 0), (LDX | MEM, 0), (MISC | TXA, 0), RETURN_A) == 4
    assert run(load(11), (MISC | TAX, 0), load(0), (MISC | TXA, 0), RETURN_A) == 11


def test_registers_begin_as_zero() -> None:
    assert run(RETURN_A) == 0
    assert run((MISC | TXA, 0), RETURN_A) == 0


# --- arithmetic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "left", "right", "result"),
    [
        (ADD, WORD, 2, 1),
        (SUB, 1, 2, WORD),
        (MUL, 0x10000, 0x10001, 0x10000),
        (DIV, WORD, 2, 0x7FFFFFFF),
        (OR, 0xF0, 0x0F, 0xFF),
        (AND, 0xFF, 0x3C, 0x3C),
        (LSH, 0x80000001, 1, 2),
        (RSH, 0x80000000, 31, 1),
        (XOR, 0xFF, 0x0F, 0xF0),
    ],
)
def test_arithmetic_is_unsigned_and_32_bits_wide(operation: int, left: int, right: int, result: int) -> None:
    assert run(load(left), (ALU | operation | K, right), RETURN_A) == result
    assert run((LDX | IMM, right), load(left), (ALU | operation | X, 0), RETURN_A) == result


def test_negation() -> None:
    assert run(load(1), (ALU | NEG, 0), RETURN_A) == WORD
    assert run(load(0), (ALU | NEG, 0), RETURN_A) == 0


def test_shifts_by_the_index_register_take_five_bits_of_it() -> None:
    assert run((LDX | IMM, 33), load(1), (ALU | LSH | X, 0), RETURN_A) == 2
    assert run((LDX | IMM, 33), load(4), (ALU | RSH | X, 0), RETURN_A) == 2


def test_a_division_by_a_zero_in_the_index_register_ends_the_program_with_0() -> None:
    """Which is SECCOMP_RET_KILL_THREAD. Source: net/core/filter.c, bpf_convert_filter."""
    assert run(load(9), (ALU | DIV | X, 0), (RET | K, 0x7FFF0000)) == 0


# --- jumps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparison", "left", "right", "holds"),
    [
        (JEQ, 5, 5, True),
        (JEQ, 5, 6, False),
        (JGT, 6, 5, True),
        (JGT, 5, 5, False),
        (JGT, WORD, 1, True),
        (JGE, 5, 5, True),
        (JGE, 4, 5, False),
        (JSET, 6, 2, True),
        (JSET, 6, 9, False),
    ],
)
def test_comparisons(comparison: int, left: int, right: int, holds: bool) -> None:
    ends = ((RET | K, 10), (RET | K, 20), (RET | K, 30))
    assert run(load(left), (JMP | comparison | K, right, 1, 2), *ends) == (20 if holds else 30)
    assert run((LDX | IMM, right), load(left), (JMP | comparison | X, 0, 1, 2), *ends) == (20 if holds else 30)


def test_a_jump_passes_over_instructions() -> None:
    assert run((JMP | JA, 2), (RET | K, 1), (RET | K, 2), (RET | K, 3)) == 3


# --- what is no filter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x06",
        assemble(RETURN_A)[:-1],
        assemble(load(1)),
        assemble((JMP | JA, 5), RETURN_A),
        assemble((JMP | JEQ | K, 0, 200, 200), RETURN_A),
        assemble((LD | ABS, 64), RETURN_A),
        assemble((LD | ABS, 61), RETURN_A),
        assemble((LD | 0x40, 0), RETURN_A),
        assemble((LD | MEM, 16), RETURN_A),
        assemble((ST, 16), RETURN_A),
        assemble((ALU | 0x90, 1), RETURN_A),
        assemble((ALU | 0xF0, 1), RETURN_A),
        assemble((JMP | 0x50, 1), RETURN_A),
    ],
    ids=lambda program: program.hex() or "empty",
)
def test_what_the_kernel_would_not_have_taken_is_a_filter_error(program: bytes) -> None:
    with pytest.raises(FilterError):
        run_filter(program, 56, ARCH, ADDRESS, ARGUMENTS)
    with pytest.raises(FilterError):
        verdict([assemble((RET | K, 0)), program], 56, ARCH, ADDRESS, ARGUMENTS)


@given(st.binary(max_size=160))
def test_any_bytes_give_a_word_or_a_filter_error(program: bytes) -> None:
    try:
        assert 0 <= run_filter(program, 56, ARCH, ADDRESS, ARGUMENTS) <= WORD
    except FilterError:
        pass


@given(st.lists(st.tuples(st.integers(0, 0xFF), st.integers(0, 64), st.integers(0, 8), st.integers(0, 8)), max_size=40))
def test_any_instructions_give_a_word_or_a_filter_error(instructions: list[tuple[int, int, int, int]]) -> None:
    """Jumps go forward alone: every program ends."""
    try:
        assert 0 <= run(*instructions, RETURN_A) <= WORD
    except FilterError:
        pass


# --- verdicts ------------------------------------------------------------------------------------------------------

RANKED = (
    (Action.KILL_PROCESS, 0x80000000),
    (Action.KILL_THREAD, 0x00000000),
    (Action.TRAP, 0x00030000),
    (Action.ERRNO, 0x00050000),
    (Action.USER_NOTIF, 0x7FC00000),
    (Action.TRACE, 0x7FF00000),
    (Action.LOG, 0x7FFC0000),
    (Action.ALLOW, 0x7FFF0000),
)
"""seccomp(2): "in decreasing order of precedence"."""


def say(value: int) -> bytes:
    return assemble((RET | K, value))


def decide(*values: int) -> Action:
    return verdict([say(value) for value in values], 56, ARCH, ADDRESS, ARGUMENTS)


def test_no_filter_allows() -> None:
    assert decide() is Action.ALLOW


@pytest.mark.parametrize(("action", "value"), RANKED)
def test_the_data_of_an_action_does_not_matter(action: Action, value: int) -> None:
    assert decide(value) is action
    assert decide(value | 0xFFFF) is action


@pytest.mark.parametrize(("higher", "lower"), list(itertools.combinations(RANKED, 2)))
def test_of_two_filters_the_stricter_counts_in_either_order(
    higher: tuple[Action, int], lower: tuple[Action, int]
) -> None:
    assert decide(higher[1] | 7, lower[1]) is higher[0]
    assert decide(lower[1], higher[1] | 7) is higher[0]
    assert decide(lower[1], higher[1], lower[1]) is higher[0]


@pytest.mark.parametrize("value", [0x00010000, 0x00060000, 0x7FFE0000, 0x90000000])
def test_an_action_that_the_kernel_does_not_know_kills(value: int) -> None:
    assert decide(value) is Action.KILL_PROCESS
    assert decide(value, 0x7FFF0000) is Action.KILL_PROCESS
