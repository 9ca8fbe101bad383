"""64-bit Arm: notes in the kernel's order, and a safety net whose frames the kernel takes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.arch import CallState, Gadgets, Injection, SystemCall, ThreadState, aarch64, arch_of
from corepipe_engine.arch.aarch64 import AArch64
from corepipe_engine.arch.base import SafetyNet
from corepipe_engine.elf import NoteType
from corepipe_engine.errors import DumpFailedError
from corepipe_engine.inject import REAP_HELPER
from corepipe_engine.notes import ProcessIdentity, build_notes, prstatus

from .model import UNASKED

ARCH = AArch64()
GADGETS = Gadgets(system_call=0xFFFF80001000, sigreturn=0xFFFF90002000)
ADDRESS = 0xFFFFC0008000
ALL_SIGNALS = (1 << 64) - 1
SVC, RET = bytes.fromhex("010000d4"), bytes.fromhex("c0035fd6")
TLS, SYSTEM_CALL, SVE, PAC_MASK, SSVE, POE, GCS = 0x401, 0x404, 0x405, 0x406, 0x40B, 0x40F, 0x410
FPSIMD = bytes(range(256)) * 2 + struct.pack("<II8x", 0x1F, 0x3000000)
CONTEXT, REGISTERS, RECORDS = 128, 128 + 176 + 8, 128 + 176 + 288
"""Offsets in struct rt_sigframe: ucontext, sigcontext.regs, sigcontext.__reserved (asm/sigcontext.h)."""


def injection() -> Injection:
    assert ARCH.injection is not None
    return ARCH.injection


def registers(
    values: dict[int, int] | None = None, sp: int = 0xFFFFC0010000, pc: int = 0x400100, pstate: int = 0
) -> bytes:
    x = [0x1000 + number for number in range(31)]
    for number, value in (values or {}).items():
        x[number] = value & (1 << 64) - 1
    return struct.pack("<34Q", *x, sp, pc, pstate)


def vector_header(size: int, length: int, flags: int) -> bytes:
    return struct.pack("<IIHHHH", size, 16 + 546 * 16, length, 256, flags, 0)


def sve(length: int) -> bytes:
    """NT_ARM_SVE of a thread that uses SVE with vectors of that many bytes."""
    registers_bytes = 546 * (length // 16)
    body = bytes(index % 251 for index in range(registers_bytes))
    end = struct.pack("<II", 0x1F, 0x3000000)
    body += bytes(-len(body) % 16) + end
    return vector_header(16 + len(body), length, 1) + body + bytes(-len(body) % 16)


def thread(general: bytes | None = None, blocked: int = 0, **sets: bytes) -> ThreadState:
    numbers = {"SVE": SVE, "SSVE": SSVE, "POE": POE, "GCS": GCS, "TLS": TLS}
    found = {int(NoteType.FPREGSET): FPSIMD, **{numbers[name]: data for name, data in sets.items()}}
    return ThreadState(7, 7, general or registers(), ARCH.read_regsets(found.get), signals_blocked=blocked)


# --- notes -----------------------------------------------------------------------------------------------------------


def test_every_set_that_the_kernel_gives_is_in_the_core_in_its_order() -> None:
    order = [2, 0x401, 0x402, 0x403, 0x40E, 0x404, 0x405, 0x40B, 0x40C, 0x40D, 0x406, 0x40A, 0x407, 0x408, 0x409, 0x40F]
    assert [regset.note_type for regset in ARCH.regsets] == [*order, 0x410]
    assert [regset.note_type for regset, _ in ARCH.read_regsets(lambda kind: bytes(16))] == [*order, 0x410]
    assert [regset.owner for regset in ARCH.regsets] == [b"CORE"] + [b"LINUX"] * len(order)


def test_sets_that_the_machine_does_not_have_make_no_note() -> None:
    assert [regset.note_type for regset, _ in thread(TLS=bytes(16)).regsets] == [NoteType.FPREGSET, TLS]
    with pytest.raises(LookupError):
        ARCH.read_regsets(lambda kind: None)


@pytest.mark.parametrize(("kind", "size"), [(SVE, 544), (SVE, 2224), (SSVE, 544), (0x40C, 16)])
def test_vector_registers_are_as_long_as_their_header_says(kind: int, size: int) -> None:
    """PTRACE_GETREGSET gives them room for the longest vectors; a kernel's core has what was written."""
    given = vector_header(size, 64, 0) + bytes(8768 - 16)
    ((_, floating), (_, found)) = ARCH.read_regsets({2: FPSIMD, kind: given}.get)
    assert (floating, found) == (FPSIMD, given[:size])


def test_prstatus_has_the_kernels_size() -> None:
    identity = ProcessIdentity(1, 1, 1, 1, 0, 0, "S", 0, 0, b"x", b"x")
    assert len(prstatus(ARCH.elf, identity, thread())) == 392
    assert b"LINUX" not in build_notes(ARCH, identity, [thread()], b"", (), 4096)


@pytest.mark.parametrize(
    ("capabilities", "more", "there"),
    [(0, 0, {2, 0x401, 0x402, 0x403, 0x404, 0x409}), (1 << 22 | 3 << 30, 0, {0x405, 0x406, 0x407, 0x408, 0x40A})],
)
def test_what_a_plan_expects_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch, capabilities: int, more: int, there: set[int]
) -> None:
    monkeypatch.setattr(aarch64, "_capabilities", lambda: (capabilities, more))
    found = {regset.note_type for regset in ARCH.regsets if ARCH.expected_regset_size(regset)}
    assert there <= found
    assert (0x405 in found) == bool(capabilities & 1 << 22)
    assert 0x40B not in found


@pytest.mark.parametrize("host", ["aarch64", "arm64"])
def test_its_programs_are_known_on_its_hosts_alone(host: str) -> None:
    assert arch_of(2, 183, host).name == "aarch64"
    with pytest.raises(DumpFailedError):
        arch_of(1, 40, host)
    with pytest.raises(DumpFailedError):
        arch_of(2, 183, "x86_64")


# --- the safety net --------------------------------------------------------------------------------------------------


@dataclass
class Frame:
    """What rt_sigreturn takes from a frame. Errors: AssertionError where the kernel would send SIGSEGV."""

    x: list[int]
    sp: int
    pc: int
    pstate: int
    mask: int
    records: dict[int, bytes] = field(default_factory=dict)


def frame_at(net: SafetyNet, stack_pointer: int) -> Frame:
    """As restore_sigframe() and parse_user_sigframe() read it."""
    assert stack_pointer % 16 == 0
    data = net.image[stack_pointer - net.address :]
    flags, link, stack, stack_flags, stack_bytes, mask = struct.unpack_from("<QQQi4xQQ", data, CONTEXT)
    assert flags == link == stack == stack_bytes == 0
    assert stack_flags & ~0x80000003, "no ss_flags that sigaltstack(2) would take"
    *x, sp, pc, pstate = struct.unpack_from("<34Q", data, REGISTERS)
    assert not pstate & 0x3DF, "EL0, 64 bits, exceptions unmasked: valid_user_regs()"
    frame = Frame(list(x), sp, pc, pstate, mask)
    offset, limit, base, extra = 0, 4096, RECORDS, False
    while True:
        assert offset % 16 == 0
        assert limit - offset >= 8
        magic, size = struct.unpack_from("<II", data, base + offset)
        if not magic:
            assert not size
            break
        assert 8 <= size <= limit - offset
        assert magic not in frame.records
        record = data[base + offset : base + offset + size]
        offset += size
        if magic == 0x45585401:
            assert not extra
            place, length = struct.unpack_from("<QI", record, 8)
            assert limit - offset >= 16
            assert data[base + offset : base + offset + 16] == bytes(16)
            assert place == stack_pointer + base + offset + 16
            assert length % 16 == 0
            base, offset, limit, extra = place - stack_pointer, 0, length, True
            continue
        frame.records[magic] = record
    assert len(frame.records[0x46508001]) == 528, "the kernel insists on the FPSIMD record"
    return frame


def net_of(state: ThreadState) -> SafetyNet:
    return injection().safety_net(state, GADGETS, ADDRESS, REAP_HELPER)


def frames_of(net: SafetyNet) -> tuple[Frame, Frame, Frame]:
    """In the order in which a thread passes them: reap, home; and exit."""
    reap = frame_at(net, net.home_stack)
    return reap, frame_at(net, reap.sp), frame_at(net, net.exit_stack)


def test_the_way_home_reaps_the_helper_and_then_restores_everything() -> None:
    state = thread(registers(pstate=0x60001C00 & ~0x3DF), blocked=0xDEAD00000004)
    reap, home, leave = frames_of(net_of(state))
    assert reap.pc == leave.pc == GADGETS.system_call
    assert reap.x[30] == leave.x[30] == GADGETS.sigreturn, "where the ret behind the call goes"
    assert (reap.x[8], reap.x[:4]) == (260, list(REAP_HELPER))
    assert reap.mask == leave.mask == ALL_SIGNALS, "no handler runs on the net"
    assert not reap.pstate & 0xC00, "BTYPE: no landing pad is needed"
    assert struct.pack("<34Q", *home.x, home.sp, home.pc, home.pstate) == state.general
    assert home.mask == 0xDEAD00000004
    assert (leave.x[8], leave.x[0]) == (93, 0)
    assert leave.sp == net_of(state).exit_stack, "should exit come back, it is called again"


def test_floating_point_registers_come_home() -> None:
    _, home, _ = frames_of(net_of(thread()))
    record = home.records[0x46508001]
    assert record[8:16] == FPSIMD[512:520], "fpsr, fpcr"
    assert record[16:] == FPSIMD[:512]
    assert set(home.records) == {0x46508001}


@pytest.mark.parametrize("length", [16, 32, 64, 96, 112, 128, 256])
def test_sve_registers_come_home_in_a_record_that_may_lie_behind_the_frame(length: int) -> None:
    state = thread(SVE=sve(length))
    net = net_of(state)
    reap, home, leave = frames_of(net)
    record = home.records[0x53564501]
    assert struct.unpack_from("<HH", record, 8) == (length, 0)
    assert len(record) >= 16 + 546 * (length // 16)
    assert record[16 : 16 + 546 * (length // 16)] == sve(length)[16 : 16 + 546 * (length // 16)]
    assert 0x53564501 not in reap.records
    assert 0x53564501 not in leave.records
    assert len(net.image) <= injection().net_bytes(state)


def test_a_thread_that_used_no_sve_gets_none() -> None:
    state = thread(SVE=vector_header(544, 64, 0) + FPSIMD)
    _, home, _ = frames_of(net_of(state))
    assert set(home.records) == {0x46508001}
    assert injection().way_home(state) == ((SYSTEM_CALL, b"\xff" * 4), (NoteType.PRSTATUS, state.general))


def test_permission_overlays_come_home() -> None:
    _, home, _ = frames_of(net_of(thread(POE=struct.pack("<Q", 0x1234567))))
    assert home.records[0x504F4530][8:] == struct.pack("<Q", 0x1234567)


@given(st.lists(st.integers(0, ALL_SIGNALS), min_size=33, max_size=33), st.integers(0, 15), st.integers(0, ALL_SIGNALS))
def test_any_registers_come_home(values: list[int], flags: int, mask: int) -> None:
    general = struct.pack("<34Q", *values, flags << 28)
    _, home, _ = frames_of(net_of(thread(general, blocked=mask, SVE=sve(64))))
    assert struct.pack("<34Q", *home.x, home.sp, home.pc, home.pstate) == general
    assert home.mask == mask


def test_the_way_home_without_the_net_ends_with_the_general_registers() -> None:
    state = thread(SVE=sve(64))
    kinds = [kind for kind, _ in injection().way_home(state)]
    assert kinds == [SYSTEM_CALL, SVE, NoteType.PRSTATUS], "until the last the thread comes home by the net"
    assert dict(injection().way_home(state))[SVE] == sve(64)


def test_registers_for_a_call_keep_x7_which_no_tracer_can_write() -> None:
    general = registers(pstate=0xC00)
    made = struct.unpack("<34Q", injection().registers_for(general, GADGETS, SystemCall.CLONE, (1, 2, 3, 4, 5), 0x2000))
    assert made[:6] == (1, 2, 3, 4, 5, 0)
    assert (made[7], made[8], made[30]) == (0x1007, 220, GADGETS.sigreturn)
    assert made[31:] == (0x2000, GADGETS.system_call, 0)


@pytest.mark.parametrize(("value", "result"), [(0, 0), (17, 17), (-11, -11), (-4095, -4095)])
def test_results_are_signed(value: int, result: int) -> None:
    assert injection().result(registers({0: value})) == result


# --- interrupted calls -----------------------------------------------------------------------------------------------


def code(instruction: bytes) -> Callable[[int], bytes]:
    def code_at(address: int) -> bytes:
        assert address == 0x400100
        return instruction

    return code_at


@pytest.mark.parametrize(
    ("number", "values", "state"),
    [
        (101, {}, CallState.UNCLEAR),  # nanosleep
        (115, {}, CallState.UNCLEAR),  # clock_nanosleep
        (128, {}, CallState.UNCLEAR),  # restart_syscall
        (98, {1: 0x80, 3: 0x7000}, CallState.UNCLEAR),  # futex: FUTEX_WAIT | FUTEX_PRIVATE_FLAG, with a timeout
        (98, {1: 0x189, 3: 0x7000}, CallState.UNCLEAR),  # FUTEX_WAIT_BITSET | CLOCK_REALTIME
        (98, {1: 0x80, 3: 0}, CallState.INSIDE),
        (98, {1: 0x85, 3: 0x7000}, CallState.INSIDE),  # FUTEX_WAKE_OP: twice is not the same as once
        (63, {}, CallState.INSIDE),  # read
        (22, {}, CallState.INSIDE),  # epoll_pwait
    ],
)
def test_a_thread_at_a_call_is_in_it_and_some_calls_are_unclear(
    number: int, values: dict[int, int], state: CallState
) -> None:
    assert injection().call_state(registers({8: number, **values}), code(SVC)) is state


@pytest.mark.parametrize(
    "instruction", [RET, b"", b"\x01", bytes(4), bytes.fromhex("020000d4"), bytes.fromhex("000020d4")]
)
def test_anywhere_else_it_is_outside(instruction: bytes) -> None:
    assert injection().call_state(registers({8: 101}), code(instruction)) is CallState.OUTSIDE


def test_a_call_of_any_number_in_the_instruction_is_one() -> None:
    svc_7 = (0xD4000001 | 7 << 5).to_bytes(4, "little")
    assert injection().call_state(registers({8: 63}), code(svc_7)) is CallState.INSIDE


def test_a_settled_thread_keeps_all_but_the_number() -> None:
    found, entered = registers({8: 115, 7: 77}), registers({8: 128, 7: 0}, pc=0x400104)
    assert injection().settled(found, entered) == registers({8: 128, 7: 77})


def test_an_entered_call_is_replaced_by_one_that_does_nothing() -> None:
    (first, general), (second, number) = injection().instead(thread(registers({8: 128})), GADGETS, 0x9000)
    assert (first, second) == (NoteType.PRSTATUS, SYSTEM_CALL)
    made = struct.unpack("<34Q", general)
    assert made[:4] == (0x7FFFFFFF, 0, 0x40000001, 0), "wait4 for nobody, with WNOHANG | __WALL"
    assert (made[7], made[30], made[31]) == (0x1007, GADGETS.sigreturn, 0x9000)
    assert made[32] == GADGETS.system_call + 4, "behind the call: it has been entered"
    assert struct.unpack("<i", number) == (260,)


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        ({GCS: struct.pack("<QQQ", 1, 0, 0)}, "guarded control stack"),
        ({GCS: struct.pack("<QQQ", 0, 0, 0)}, ""),
        ({SSVE: vector_header(16, 64, 1)}, "streaming mode"),
        ({SSVE: vector_header(16, 64, 0)}, ""),
        ({}, ""),
    ],
)
def test_what_forbids_calls_is_told(sets: dict[int, bytes], reason: str) -> None:
    found = injection().forbidden(sets)
    assert reason in found
    assert bool(found) == bool(reason)


@dataclass
class Asleep:
    """A stopped thread; texts as the kernel's syscall file has them before the stop and when it is made to look."""

    seen: str
    shown: str
    number: int = -1
    written: list[int] = field(default_factory=list)

    def set_regset(self, note_type: int, data: bytes) -> None:
        assert note_type == SYSTEM_CALL
        (self.number,) = struct.unpack("<i", data)
        self.written.append(self.number)

    def read(self, name: str) -> bytes:
        assert name == "syscall"
        return (self.shown if self.number >= 0 else "-1 0xffffc0010000 0x400100").encode()

    def before(self, name: str) -> bytes:
        assert name in ARCH.files_before
        return self.seen.encode()


EPOLL = "22 0x5 0x1001 0x1002 0x1003 0x1004 0x1005 0xffffc0010000 0x400100"


def test_a_call_that_our_stop_made_fail_is_made_again_with_its_first_argument() -> None:
    task = Asleep(EPOLL, EPOLL)
    assert ARCH.restart_interrupted(registers({0: -4, 8: 22}), task) == registers({0: 5, 8: 22}, pc=0x4000FC)
    assert task.written == [22, -1], "it is in no call again"


@pytest.mark.parametrize(
    ("seen", "shown"),
    [
        (EPOLL, EPOLL.replace("0x5", "0x6")),  # back from a handler: the first argument is another call's
        (EPOLL.replace("0x5", "0x6"), EPOLL),
        (EPOLL.replace("22 ", "63 "), EPOLL),
        (EPOLL.replace("0x1003", "0x7"), EPOLL),
        (EPOLL.replace("0x400100", "0x400200"), EPOLL),
        (EPOLL.replace("0xffffc0010000", "0xffffc0010010"), EPOLL),
        ("running", EPOLL),
        ("", EPOLL),
        (EPOLL, "running"),
    ],
)
def test_where_there_is_a_doubt_it_is_left_alone(seen: str, shown: str) -> None:
    task = Asleep(seen, shown)
    assert ARCH.restart_interrupted(registers({0: -4, 8: 22}), task) is None
    assert task.number == -1


@pytest.mark.parametrize("values", [{0: -4, 8: 101}, {0: -5, 8: 22}, {0: 4, 8: 22}])
def test_other_calls_and_results_are_not_asked_about(values: dict[int, int]) -> None:
    assert ARCH.restart_interrupted(registers(values), UNASKED) is None
