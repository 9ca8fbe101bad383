"""32-bit programs: notes of the kernel's sizes, and a safety net that a 32-bit thread finds home by."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.arch import Gadgets, SystemCall, ThreadState, x86
from corepipe_engine.arch.base import SafetyNet
from corepipe_engine.arch.i386 import I386
from corepipe_engine.elf import ELF32, NoteType, note_size
from corepipe_engine.errors import DumpFailedError
from corepipe_engine.inject import REAP_HELPER
from corepipe_engine.inspection import arch_of_task
from corepipe_engine.notes import FileMapping, ProcessIdentity, build_notes, file_note, prpsinfo, prstatus
from corepipe_engine.plan import check_expressible, obstacle
from corepipe_engine.procfs import cut_auxv

from .model import ALL, NONE, PAGE, UNASKED, plan_of, region

WORD = (1 << 32) - 1
ALL_SIGNALS = (1 << 64) - 1
ARCH = I386()
NAMES = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip", "cs", "eflags",
    "esp", "ss",
)  # fmt: skip
"""struct user_regs_struct32."""
CONTEXT = {name: 20 + 4 * index for index, name in enumerate((
    "gs", "fs", "es", "ds", "edi", "esi", "ebp", "esp", "ebx", "edx", "ecx", "eax", "trapno", "err", "eip", "cs",
    "eflags", "esp_at_signal", "ss", "fpstate", "oldmask", "cr2",
))}  # fmt: skip
"""Offsets in struct ucontext_ia32, behind its flags, link and stack (asm/sigcontext.h, struct sigcontext_32)."""
POPPED, INFO_BYTES, MASK, CONTEXT_BYTES = 12, 128, 108, 116
FRAME_BYTES = POPPED + 4 + 12 + INFO_BYTES + CONTEXT_BYTES + 8
GADGETS = Gadgets(system_call=0xF7F015E7, sigreturn=0xF7F01610)
ADDRESS = 0xFF9FB000
XSTATE_BYTES = 2696
FSAVE = struct.pack("<7I", 0xFFFF037F, 0xFFFF3800, 0xFFFF0FFF, 0x5655, 0x23, 0xFF00, 0xFFFF002B) + bytes(range(80))
SEGMENTS = struct.pack("<12I", 12, 0xF7EFA580, 0xFFFFF, 0x51, 13, 0, 0, 0x28, 14, 0, 0, 0x28)
NO_SEGMENTS = struct.pack("<12I", 12, 0, 0, 0x28, 13, 0, 0, 0x28, 14, 0, 0, 0x28)


def registers(**values: int) -> bytes:
    """All different, unless told."""
    every = {name: 0x1111 * (index + 1) for index, name in enumerate(NAMES)}
    every.update({"cs": 0x23, "ss": 0x2B, "ds": 0x2B, "es": 0x2B, "fs": 0, "gs": 0x63, "orig_eax": WORD, **values})
    return struct.pack("<17I", *(every[name] & WORD for name in NAMES))


def xstate(size: int = XSTATE_BYTES, enabled: int = 0xE7) -> bytes:
    image = bytearray(index % 251 for index in range(size))
    image[464:472] = enabled.to_bytes(8, "little")
    image[512:520] = (7).to_bytes(8, "little")
    return bytes(image)


def machine(**sets: bytes | None) -> Callable[[int], bytes | None]:
    """What GETREGSET gives; None: this thread has no such set."""
    given_sets = {"FPREGSET": FSAVE, "X86_XSTATE": xstate(), "PRXFPREG": xstate()[:512], "I386_TLS": SEGMENTS, **sets}
    return lambda note_type: given_sets[NoteType(note_type).name]


def thread(general: bytes | None = None, blocked: int = 0x4004, **sets: bytes | None) -> ThreadState:
    return ThreadState(7, 7, general or registers(), ARCH.read_regsets(machine(**sets)), signals_blocked=blocked)


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose XSAVE area is XSTATE_BYTES long."""
    monkeypatch.setattr(x86, "feature_ends", lambda features: XSTATE_BYTES)


# --- notes ---------------------------------------------------------------------------------------------------------

IDENTITY = ProcessIdentity(70, 1, 70, 70, 1000, 1000, "S", 0, 0x400000, b"server", b"server\0-x")


def test_records_have_the_sizes_that_a_32_bit_kernel_gives_them() -> None:
    assert len(prstatus(ELF32, IDENTITY, thread())) == 144
    assert len(prpsinfo(ARCH, IDENTITY)) == 124
    assert len(file_note(ELF32, [FileMapping(0x1000, 0x2000, 0x3000, b"/a")], PAGE)) == 4 * 5 + 3
    assert [(regset.owner, len(data)) for regset, data in thread().regsets] == [
        (b"CORE", 108),
        (b"LINUX", 512),
        (b"LINUX", XSTATE_BYTES),
        (b"LINUX", 48),
    ]


def test_a_prstatus_has_the_registers_where_readers_look_for_them() -> None:
    record = prstatus(ELF32, IDENTITY, ThreadState(7, 9, registers(), signals_pending=1 << 40 | 4, signals_blocked=8))
    assert struct.unpack_from("<2I4i", record, 16) == (4, 8, 9, 1, 70, 70)
    assert record[72 : 72 + 68] == registers()
    assert record[140:] == struct.pack("<i", 1)


@pytest.mark.parametrize(("known", "told"), [(1000, 1000), (65535, 65535), (65536, 65534), (100000, 65534)])
def test_an_id_that_16_bits_cannot_hold_is_told_as_the_kernel_tells_it(known: int, told: int) -> None:
    identity = ProcessIdentity(70, 1, 70, 70, known, known, "S", 0, 0, b"", b"")
    assert struct.unpack_from("<2H", prpsinfo(ARCH, identity), 8) == (told, told)


def test_the_fxsave_image_is_read_with_the_xsave_image() -> None:
    found = {regset.note_type: data for regset, data in thread().regsets}
    assert found[NoteType.PRXFPREG] == xstate()[:416] + bytes(96)
    without = {regset.note_type: data for regset, data in thread(X86_XSTATE=None).regsets}
    assert without[NoteType.PRXFPREG] == xstate()[:512]
    assert NoteType.X86_XSTATE not in without


def test_segments_that_are_not_in_use_make_no_note() -> None:
    assert NoteType.I386_TLS not in {regset.note_type for regset, _ in thread(I386_TLS=NO_SEGMENTS).regsets}
    assert NoteType.I386_TLS in {
        regset.note_type for regset, _ in thread(I386_TLS=NO_SEGMENTS[:32] + b"\x0e" * 16).regsets
    }
    assert NoteType.I386_TLS not in {regset.note_type for regset, _ in thread(I386_TLS=None).regsets}


def test_a_thread_without_floating_point_registers_is_refused() -> None:
    with pytest.raises(LookupError):
        thread(FPREGSET=None)


def test_notes_come_in_the_kernels_order() -> None:
    state = thread()
    auxv = struct.pack("<4I", 6, 4096, 0, 0)
    notes = build_notes(ARCH, IDENTITY, [state, state], auxv, [], PAGE)
    kinds, position = [], 0
    while position < len(notes):
        name_size, size, kind = struct.unpack_from("<3I", notes, position)
        kinds.append(NoteType(kind).name)
        position += note_size(bytes(name_size - 1), size)
    of_thread = ["FPREGSET", "PRXFPREG", "X86_XSTATE", "I386_TLS"]
    process = ["PRSTATUS", "PRPSINFO", "SIGINFO", "AUXV"]
    assert [kind for kind in kinds if kind != "X86_XSAVE_LAYOUT"] == [*process, *of_thread, "PRSTATUS", *of_thread]


def test_the_auxiliary_vector_ends_at_its_at_null() -> None:
    """For a 32-bit process /proc counts in words of 64 bits and gives some zeros more."""
    vector = struct.pack("<6I", 6, 4096, 33, 0, 0, 0)
    assert cut_auxv(vector + bytes(16), 4) == vector
    assert cut_auxv(vector, 4) == vector
    assert cut_auxv(vector[:16], 4) == vector[:16]
    wide = struct.pack("<4Q", 6, 4096, 0, 0)
    assert cut_auxv(wide, 8) == wide


# --- what a 32-bit core cannot express -----------------------------------------------------------------------------


def test_a_core_below_four_gib_is_expressible_and_one_of_a_byte_more_is_not() -> None:
    half = region(0, 1 << 31)
    room = (1 << 32) - 3 * PAGE - (1 << 31)
    rest = region(half.end, room)
    decided = [(half, ALL, False), (rest, ALL, False), (region(rest.end, PAGE), NONE, False)]
    fits = plan_of(decided, notes_bytes=2 * PAGE - 52 - 4 * 32, elf=ELF32)
    assert fits.total_bytes == (1 << 32) - PAGE
    assert len(fits.header(bytes(fits.notes_bytes))) == 2 * PAGE
    assert obstacle(fits) is None
    check_expressible(fits)
    too_large = plan_of(decided, notes_bytes=2 * PAGE - 52 - 4 * 32 + 1, elf=ELF32)
    with pytest.raises(DumpFailedError, match="must stay below 4 GiB") as caught:
        check_expressible(too_large)
    assert f"--exclude {half.start:x}-{half.end:x}" in caught.value.hint
    assert obstacle(plan_of([(region(0x10000, 1 << 33), ALL, False)])) is None


def test_memory_above_four_gib_is_refused_even_if_left_out() -> None:
    ends_there = plan_of([(region((1 << 32) - PAGE, PAGE), NONE, False)], elf=ELF32)
    assert obstacle(ends_there) is None
    with pytest.raises(DumpFailedError, match=r"has memory at 0x7f0000000000, and its kind of core ends at 4 GiB"):
        check_expressible(plan_of([(region(0x7F0000000000, PAGE), NONE, False)], elf=ELF32))


class FakeTask:
    """A /proc folder with a program and an auxiliary vector."""

    def __init__(self, exe: Path, auxv: bytes = b"") -> None:
        self._exe, self._auxv = exe, auxv

    def open(self, name: str) -> int:
        return os.open(self._exe, os.O_RDONLY)

    def read(self, name: str) -> bytes:
        return self._auxv


@pytest.mark.parametrize(("elf_class", "number", "name"), [(1, 3, "i386"), (2, 62, "x86_64")])
def test_the_machine_is_told_by_the_programs_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elf_class: int, number: int, name: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="x86_64"))
    exe = tmp_path / "exe"
    exe.write_bytes(b"\x7fELF" + bytes([elf_class]) + bytes(13) + struct.pack("<H", number))
    assert arch_of_task(FakeTask(exe)).name == name  # type: ignore[arg-type]
    size = 32 if elf_class == 1 else 56
    vector = struct.pack("<4I" if elf_class == 1 else "<4Q", 4, size, 0, 0)
    assert arch_of_task(FakeTask(tmp_path / "gone", vector)).name == name  # type: ignore[arg-type]


def test_a_program_of_the_x32_abi_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="x86_64"))
    exe = tmp_path / "exe"
    exe.write_bytes(b"\x7fELF\x01" + bytes(13) + struct.pack("<H", 62))
    with pytest.raises(DumpFailedError, match="the x32 ABI"):
        arch_of_task(FakeTask(exe))  # type: ignore[arg-type]


# --- the safety net ------------------------------------------------------------------------------------------------


def net_of(state: ThreadState, address: int = ADDRESS) -> SafetyNet:
    assert ARCH.injection is not None
    return ARCH.injection.safety_net(state, GADGETS, address, REAP_HELPER)


class Frame:
    """What lies at a stack pointer: three words, a return address, and the rest of struct rt_sigframe_ia32."""

    def __init__(self, net: SafetyNet, stack_pointer: int) -> None:
        at = stack_pointer - net.address
        data = net.image[at : at + FRAME_BYTES]
        assert len(data) == FRAME_BYTES
        self.address = stack_pointer
        *self.popped, self.returns_to = struct.unpack_from("<4I", data)
        self._context = data[POPPED + 16 + INFO_BYTES :]
        self.flags, self.link, self.stack, self.stack_flags, self.stack_bytes = struct.unpack_from("<5I", self._context)
        (self.mask,) = struct.unpack_from("<Q", self._context, MASK)

    def __getitem__(self, name: str) -> int:
        value: int = struct.unpack_from("<I", self._context, CONTEXT[name])[0]
        return value


def frames_of(net: SafetyNet) -> tuple[Frame, Frame, Frame]:
    """In the order in which a thread passes them: reap, home; and exit."""
    reap = Frame(net, net.home_stack)
    return reap, Frame(net, reap["esp"]), Frame(net, net.exit_stack)


def test_every_frame_is_entered_through_sigreturn_and_leaves_the_alternative_stack_alone() -> None:
    for frame in frames_of(net_of(thread())):
        assert frame.returns_to == GADGETS.sigreturn
        assert frame.popped == [GADGETS.system_call + 2] * 3, "popped by the vDSO; else a ret that leads to the next"
        assert frame.link == frame.stack == frame.stack_bytes == 0
        assert frame.stack_flags & ~0x80000003, "no ss_flags that sigaltstack(2) would take"
        assert frame.address % 4 == 0
        assert (frame["cs"], frame["ss"], frame["ds"], frame["es"], frame["gs"]) == (0x23, 0x2B, 0x2B, 0x2B, 0x63)


def test_the_way_home_reaps_the_helper_and_then_restores_everything() -> None:
    state = thread(registers(fs=0x6B), blocked=0xDEAD00000004)
    reap, home, leave = frames_of(net_of(state))
    assert reap["eip"] == GADGETS.system_call
    assert (reap["eax"], reap["ebx"], reap["ecx"], reap["edx"], reap["esi"]) == (114, WORD, 0, 0xA0000000, 0)
    assert reap.mask == ALL_SIGNALS, "no handler runs on the net"
    assert reap["fpstate"] == 0
    found = dict(zip(NAMES, struct.unpack("<17I", state.general), strict=True))
    del found["orig_eax"]
    assert {name: home[name] for name in found} == found
    assert home.mask == 0xDEAD00000004
    assert leave["eip"] == GADGETS.system_call
    assert (leave["eax"], leave["ebx"]) == (1, 0)
    assert leave.mask == ALL_SIGNALS
    assert leave["esp"] == leave.address, "should exit come back, it is called again"


def test_the_frames_lie_apart_within_the_room_that_was_asked_for() -> None:
    assert ARCH.injection is not None
    for image in (xstate(), xstate(XSTATE_BYTES + 8192), None):
        state = thread(X86_XSTATE=image)
        net = net_of(state)
        places = sorted(frame.address for frame in frames_of(net))
        assert places[0] >= ADDRESS + 128 + len(image[:XSTATE_BYTES] if image else bytes(512))
        assert all(right - left >= FRAME_BYTES for left, right in itertools.pairwise(places))
        assert places[-1] + FRAME_BYTES == ADDRESS + len(net.image)
        assert len(net.image) <= ARCH.injection.net_bytes(state)


def test_the_floating_point_state_is_as_the_kernel_wants_it_in_a_32_bit_frame() -> None:
    """struct fregs_state, whose selector carries the last opcode; then, aligned, the XSAVE image with its marks."""
    image = xstate()
    net = net_of(thread())
    _, home, _ = frames_of(net)
    at = home["fpstate"] - net.address
    legacy, extended = net.image[at : at + 112], net.image[at + 112 :]
    assert (home["fpstate"] + 112) % 64 == 0
    assert legacy[:18] == FSAVE[:18]
    assert legacy[18:20] == image[6:8]
    assert legacy[20:108] == FSAVE[20:]
    assert struct.unpack_from("<2H", legacy, 108) == (0x3800, 0), "status word, X86_FXSR_MAGIC"
    assert extended[:464] == image[:464]
    assert extended[512:XSTATE_BYTES] == image[512:]
    magic, whole, features, size = struct.unpack_from("<IIQI", extended, 464)
    assert (magic, whole, features, size) == (0x46505853, 112 + XSTATE_BYTES + 4, 0xE7, XSTATE_BYTES)
    assert struct.unpack_from("<I", extended, XSTATE_BYTES)[0] == 0x46505845


def test_a_processor_without_xsave_gets_its_fxsave_image() -> None:
    net = net_of(thread(X86_XSTATE=None))
    _, home, _ = frames_of(net)
    at = home["fpstate"] - net.address + 112
    assert net.image[at : at + 512] == xstate()[:512]


@pytest.mark.parametrize(
    ("error", "moved", "number"),
    [(512, 2, 162), (513, 2, 162), (514, 2, 162), (516, 2, 0), (4, 0, -4), (11, 0, -11), (515, 0, -515)],
)
def test_an_interrupted_call_is_restarted_on_the_way_home(error: int, moved: int, number: int) -> None:
    _, home, _ = frames_of(net_of(thread(registers(eip=0x8048100, eax=-error, orig_eax=162))))
    assert home["eip"] == 0x8048100 - moved
    assert home["eax"] == number & WORD


@pytest.mark.parametrize("value", [-512, -516, 0, 5])
def test_outside_a_call_eax_is_nothing_but_a_register(value: int) -> None:
    _, home, _ = frames_of(net_of(thread(registers(eip=0x8048100, eax=value, orig_eax=-1))))
    assert (home["eip"], home["eax"]) == (0x8048100, value & WORD)


@given(st.lists(st.integers(0, WORD), min_size=17, max_size=17), st.integers(0, ALL_SIGNALS))
def test_any_registers_come_home(values: list[int], mask: int) -> None:
    values[NAMES.index("orig_eax")] = WORD
    _, home, _ = frames_of(net_of(thread(struct.pack("<17I", *values), blocked=mask)))
    found = dict(zip(NAMES, values, strict=True))
    del found["orig_eax"]
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        found[name] &= 0xFFFF
    assert {name: home[name] for name in found} == found
    assert home.mask == mask


def test_registers_for_a_call_keep_what_thread_local_storage_hangs_on() -> None:
    injection = ARCH.injection
    assert injection is not None
    made = injection.registers_for(registers(gs=0x63, fs=0x6B), GADGETS, SystemCall.CLONE, (1, 2, 3, 4, 5), 0x1000)
    found = dict(zip(NAMES, struct.unpack("<17I", made), strict=True))
    assert [found[name] for name in ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")] == [120, 1, 2, 3, 4, 5, 0]
    assert (found["eip"], found["esp"], found["orig_eax"]) == (GADGETS.system_call, 0x1000, WORD)
    assert not found["eflags"] & 0x500, "neither trap nor direction flag"
    assert (found["gs"], found["fs"]) == (0x63, 0x6B)


@pytest.mark.parametrize(("eax", "result"), [(0, 0), (17, 17), (-11, -11), (-4095, -4095)])
def test_results_are_signed(eax: int, result: int) -> None:
    assert ARCH.injection is not None
    assert ARCH.injection.result(registers(eax=eax)) == result


@pytest.mark.parametrize(
    ("number", "first", "restarted"),
    [
        (256, 0, True),  # epoll_wait
        (3, 0, True),
        (102, 10, True),  # socketcall: recv
        (102, 3, False),  # connect
        (117, 4, True),  # ipc: semtimedop
        (117, 0x10004, True),
        (117, 12, False),  # msgrcv
        (162, 0, False),  # nanosleep
    ],
)
def test_calls_that_our_stop_made_fail_are_made_again(number: int, first: int, restarted: bool) -> None:
    general = registers(eax=-4, orig_eax=number, ebx=first)
    found = ARCH.restart_interrupted(general, UNASKED)
    assert found == (registers(eax=-514, orig_eax=number, ebx=first) if restarted else None)
    assert ARCH.restart_interrupted(registers(eax=-5, orig_eax=number, ebx=first), UNASKED) is None
