"""Filters are run here as the kernel runs them: random programs, the kernel's verdict against ours."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from corepipe_engine.seccomp import run_filter

from ..support import seccomp_oracle
from ..support.seccomp_oracle import NUMBER

pytestmark = pytest.mark.live
EXAMPLES = 3000 if int(os.environ.get("COREPIPE_SOAK", "0")) else 150
ARCH = 0xC000003E
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
ABS, MEM, LEN, X = 0x20, 0x60, 0x80, 0x08
ARITHMETIC = (0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0)
DIVIDE, SHIFTS, NEGATE = 0x30, (0x60, 0x70), 0x80
Instruction = tuple[int, int, int, int]
"""code, jt, jf, k"""

WORDS = st.one_of(st.integers(0, 70), st.integers(0, 0xFFFFFFFF), st.sampled_from((0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)))
CELLS = st.integers(0, 3)


def plain(code: int, k: int = 0) -> Instruction:
    return code, 0, 0, k


@st.composite
def instructions(draw: st.DrawFn, left: int) -> Instruction:
    """One that the kernel admits where `left` more come before the end of the body."""
    kind = draw(st.sampled_from(("load", "load", "constant", "memory", "arithmetic", "arithmetic", "jump", "move")))
    if kind == "load":  # all but the address, which is the oracle's own, and the shift
        return plain(LD | ABS, draw(st.sampled_from((0, 4, *range(16, 56, 4)))))
    if kind == "constant":
        code = draw(st.sampled_from((LD, LDX, LD | LEN, LDX | LEN)))
        return plain(code, 0 if code & LEN else draw(WORDS))
    if kind == "memory":
        return plain(draw(st.sampled_from((LD | MEM, LDX | MEM, ST, STX))), draw(CELLS))
    if kind == "move":
        return plain(MISC | draw(st.sampled_from((0x00, 0x80))))
    if kind == "jump":
        if draw(st.booleans()):
            return plain(JMP, draw(st.integers(0, left)))
        comparison = draw(st.sampled_from((0x10, 0x20, 0x30, 0x40))) | draw(st.sampled_from((0, X)))
        jumps = st.integers(0, left)
        return JMP | comparison, draw(jumps), draw(jumps), 0 if comparison & X else draw(WORDS)
    operation = draw(st.sampled_from((*ARITHMETIC, NEGATE)))
    if operation == NEGATE or draw(st.booleans()):
        return plain(ALU | operation | (0 if operation == NEGATE else X))
    constant = draw(WORDS)
    if operation in SHIFTS:
        constant %= 32
    return plain(ALU | operation, constant or int(operation == DIVIDE))


@st.composite
def bodies(draw: st.DrawFn) -> list[Instruction]:
    size = draw(st.integers(0, 24))
    return [draw(instructions(left)) for left in reversed(range(size))]


def whole(body: list[Instruction]) -> bytes:
    """The body as a filter for system call NUMBER: 12 bits of what A holds at its end, by argument 5, as an errno."""
    program = [
        plain(LD | ABS, 0),
        (JMP | 0x10, 1, 0, NUMBER),
        plain(RET, ALLOW),
        *(plain(ST, cell) for cell in range(4)),
        *body,
        plain(ST, 0),
        plain(LD | ABS, 56),
        plain(MISC),  # X = A: the shift
        plain(LD | MEM, 0),
        plain(ALU | 0x70 | X),
        plain(ALU | 0x50, 0xFFF),
        plain(ALU | 0x40, ERRNO),
        plain(RET | 0x10),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


@pytest.fixture(scope="module")
def kernel() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, seccomp_oracle.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as oracle:
        yield oracle
        assert oracle.stdin is not None
        oracle.stdin.close()
        assert oracle.wait(60) == 0


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=bodies(), arguments=st.lists(st.integers(0, (1 << 64) - 1), min_size=5, max_size=5))
def test_a_filter_returns_what_the_kernel_makes_of_it(
    kernel: subprocess.Popen[str], body: list[Instruction], arguments: list[int]
) -> None:
    program = whole(body)
    assert kernel.stdin is not None
    assert kernel.stdout is not None
    print(program.hex(), *(f"{argument:x}" for argument in arguments), file=kernel.stdin, flush=True)
    said = kernel.stdout.readline().strip()
    returned = [run_filter(program, NUMBER, ARCH, 0, (*arguments, shift)) for shift in (0, 12, 24)]
    event("killed" if returned[0] == 0 else "errno")
    if returned[0] == 0:  # a division by zero: SECCOMP_RET_KILL_THREAD of the only thread
        assert said == f"signal {int(signal.SIGSYS)}"
    else:
        assert said == " ".join(str(value & 0xFFF) for value in returned)
        assert {value & 0xFFFF0000 for value in returned} == {ERRNO}
