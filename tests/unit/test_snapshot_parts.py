"""The parts of a snapshot that can be looked at without one: safety net, preconditions, headroom, watchdog."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine import headroom, preconditions, watchdog
from corepipe_engine.arch import Gadgets, SystemCall, ThreadState, x86
from corepipe_engine.arch.base import SafetyNet
from corepipe_engine.arch.x86_64 import X86_64
from corepipe_engine.elf import NoteType
from corepipe_engine.errors import ModeUnavailableError, NoSuchProcessError
from corepipe_engine.gadgets import find_room
from corepipe_engine.headroom import cgroups_room, target_memory_limit
from corepipe_engine.inject import REAP_HELPER
from corepipe_engine.preconditions import inherits_orphans, is_copied, memory_need, snapshot_refusal
from corepipe_engine.procfs import TaskStatus, parse_status
from corepipe_engine.regions import RegionKind

from .model import PAGE, region

MIB = 1 << 20
WORD = (1 << 64) - 1

# --- the safety net of x86-64 --------------------------------------------------------------------------------------

NAMES = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
    "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip
"""struct user_regs_struct."""
_IN_ORDER = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi",
    "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip", "eflags",
)  # fmt: skip
CONTEXT = {name: 40 + 8 * index for index, name in enumerate(_IN_ORDER)}
"""Offsets in struct ucontext, behind its flags, link and stack (asm/sigcontext.h, struct sigcontext_64)."""
CS, SS, FPSTATE, MASK, CONTEXT_BYTES = 184, 190, 224, 296, 304
FRAME_BYTES = 8 + CONTEXT_BYTES
GADGETS = Gadgets(system_call=0x7F0000001000, sigreturn=0x7F0000002000)
ADDRESS = 0x7FFD00008000
XSTATE_BYTES = 2696
TILES = 3 << 17


def registers(**values: int) -> bytes:
    """All different, unless told."""
    every = {name: 0x1111 * (index + 1) for index, name in enumerate(NAMES)}
    every.update({"cs": 0x33, "ss": 0x2B, "eflags": 0x246, "orig_rax": WORD, **values})
    return struct.pack("<27Q", *(every[name] & WORD for name in NAMES))


def xstate(enabled: int = 0xE7, in_use: int = 7, size: int = XSTATE_BYTES) -> bytes:
    image = bytearray(index % 251 for index in range(size))
    image[464:472] = enabled.to_bytes(8, "little")
    image[512:520] = in_use.to_bytes(8, "little")
    return bytes(image)


def thread(general: bytes | None = None, image: bytes | None = None, blocked: int = 0x4004) -> ThreadState:
    floating, extended = X86_64.regsets
    image = xstate() if image is None else image
    regsets = ((floating, bytes(range(256)) * 2), (extended, image)) if image else ((floating, bytes(range(256)) * 2),)
    return ThreadState(7, 7, general or registers(), regsets, signals_blocked=blocked)


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor whose XSAVE area is XSTATE_BYTES long, 8 KiB more with AMX."""
    monkeypatch.setattr(x86, "feature_ends", lambda features: XSTATE_BYTES + 8192 if features & TILES else XSTATE_BYTES)


def net_of(state: ThreadState, address: int = ADDRESS) -> SafetyNet:
    assert X86_64.injection is not None
    return X86_64.injection.safety_net(state, GADGETS, address, REAP_HELPER)


class Frame:
    """struct rt_sigframe at a stack pointer: where the `ret` of the call leads, and the registers it brings."""

    def __init__(self, net: SafetyNet, stack_pointer: int) -> None:
        at = stack_pointer - net.address
        data = net.image[at : at + FRAME_BYTES]
        assert len(data) == FRAME_BYTES
        self.address = stack_pointer
        self.returns_to = struct.unpack_from("<Q", data)[0]
        self._context = data[8:]
        self.flags, self.link, self.stack, self.stack_flags, self.stack_bytes = struct.unpack_from(
            "<QQQi4xQ", self._context
        )

    def __getitem__(self, name: str) -> int:
        value: int = struct.unpack_from("<Q", self._context, CONTEXT[name])[0]
        return value

    def half(self, offset: int) -> int:
        value: int = struct.unpack_from("<H", self._context, offset)[0]
        return value

    def word(self, offset: int) -> int:
        value: int = struct.unpack_from("<Q", self._context, offset)[0]
        return value


def frames_of(net: SafetyNet) -> tuple[Frame, Frame, Frame]:
    """In the order in which a thread passes them: reap, home; and exit."""
    reap = Frame(net, net.home_stack)
    return reap, Frame(net, reap["rsp"]), Frame(net, net.exit_stack)


def test_every_frame_is_entered_through_sigreturn_and_leaves_the_alternative_stack_alone() -> None:
    net = net_of(thread())
    for frame in frames_of(net):
        assert frame.returns_to == GADGETS.sigreturn
        assert frame.flags == 7, "UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS"
        assert frame.link == frame.stack == frame.stack_bytes == 0
        assert frame.stack_flags & ~0x80000003, "no ss_flags that sigaltstack(2) would take"
        assert frame.address % 8 == 0
        assert (frame.half(CS), frame.half(SS)) == (0x33, 0x2B)


def test_the_way_home_reaps_the_helper_and_then_restores_everything() -> None:
    state = thread(registers(), blocked=0xDEAD0004)
    reap, home, leave = frames_of(net_of(state))
    assert reap["rip"] == GADGETS.system_call
    assert (reap["rax"], reap["rdi"], reap["rsi"], reap["rdx"], reap["r10"]) == (61, 0xFFFFFFFF, 0, 0xA0000000, 0)
    assert reap.word(MASK) == WORD, "no handler runs on the net"
    assert reap.word(FPSTATE) == 0
    found = dict(zip(NAMES, struct.unpack("<27Q", state.general), strict=True))
    assert {name: home[name] for name in CONTEXT} == {name: found[name] for name in CONTEXT}
    assert home.word(MASK) == 0xDEAD0004
    assert home.word(FPSTATE) == ADDRESS
    assert leave["rip"] == GADGETS.system_call
    assert (leave["rax"], leave["rdi"]) == (60, 0)
    assert leave.word(MASK) == WORD
    assert leave["rsp"] == leave.address, "should exit come back, it is called again"


def test_the_frames_lie_apart_within_the_room_that_was_asked_for() -> None:
    assert X86_64.injection is not None
    for image in (xstate(), xstate(size=XSTATE_BYTES + 1), b"", xstate(0xE7 | TILES, TILES, XSTATE_BYTES + 8192)):
        state = thread(image=image)
        net = net_of(state)
        places = sorted(frame.address for frame in frames_of(net))
        assert places[0] >= ADDRESS + (len(image) or 512)
        assert all(right - left >= FRAME_BYTES for left, right in itertools.pairwise(places))
        assert places[-1] + FRAME_BYTES == ADDRESS + len(net.image)
        assert len(net.image) <= X86_64.injection.net_bytes(state)


def test_the_xsave_image_is_as_the_kernel_wants_it_in_a_signal_frame() -> None:
    """struct _fpx_sw_bytes at 464: magic1, size of all, features, size of the state; magic2 behind the state."""
    image = xstate(0xE7)
    net = net_of(thread(image=image))
    assert net.address % 64 == 0
    assert net.image[:464] == image[:464]
    assert net.image[512:XSTATE_BYTES] == image[512:]
    magic, extended, features, size = struct.unpack_from("<IIQI", net.image, 464)
    assert (magic, extended, features, size) == (0x46505853, XSTATE_BYTES + 4, 0xE7, XSTATE_BYTES)
    assert net.image[464 + 20 : 512] == bytes(28)
    assert struct.unpack_from("<I", net.image, XSTATE_BYTES)[0] == 0x46505845


def test_tile_registers_that_the_thread_does_not_use_are_left_out() -> None:
    """The kernel refuses a frame with more than the thread may use, and with it the way home."""
    large = XSTATE_BYTES + 8192
    unused = net_of(thread(image=xstate(0xE7 | TILES, 7, large)))
    assert struct.unpack_from("<IQI", unused.image, 468) == (XSTATE_BYTES + 4, 0xE7, XSTATE_BYTES)
    used = net_of(thread(image=xstate(0xE7 | TILES, 7 | TILES, large)))
    assert struct.unpack_from("<IQI", used.image, 468) == (large + 4, 0xE7 | TILES, large)


def test_a_processor_without_xsave_gets_its_fxsave_image() -> None:
    net = net_of(thread(image=b""))
    assert net.image[:512] == bytes(range(256)) * 2


@pytest.mark.parametrize(
    ("error", "moved", "number"),
    [(512, 2, 35), (513, 2, 35), (514, 2, 35), (516, 2, 219), (4, 0, -4), (11, 0, -11), (515, 0, -515)],
)
def test_an_interrupted_call_is_restarted_on_the_way_home(error: int, moved: int, number: int) -> None:
    state = thread(registers(rip=0x400100, rax=-error, orig_rax=35))
    _, home, _ = frames_of(net_of(state))
    assert home["rip"] == 0x400100 - moved
    assert home["rax"] == number & WORD


@pytest.mark.parametrize("value", [-512, -516, 0, 5])
def test_outside_a_call_rax_is_nothing_but_a_register(value: int) -> None:
    _, home, _ = frames_of(net_of(thread(registers(rip=0x400100, rax=value, orig_rax=-1))))
    assert (home["rip"], home["rax"]) == (0x400100, value & WORD)


def test_a_call_that_returned_a_value_goes_on_behind_it() -> None:
    _, home, _ = frames_of(net_of(thread(registers(rip=0x400100, rax=17, orig_rax=0))))
    assert (home["rip"], home["rax"]) == (0x400100, 17)


@given(st.lists(st.integers(0, WORD), min_size=27, max_size=27), st.integers(0, WORD))
def test_any_registers_come_home(values: list[int], mask: int) -> None:
    values[NAMES.index("orig_rax")] = WORD
    state = thread(struct.pack("<27Q", *values), blocked=mask)
    _, home, _ = frames_of(net_of(state))
    found = dict(zip(NAMES, values, strict=True))
    assert {name: home[name] for name in CONTEXT} == {name: found[name] for name in CONTEXT}
    assert (home.half(CS), home.half(SS), home.word(MASK)) == (found["cs"] & 0xFFFF, found["ss"] & 0xFFFF, mask)


def test_registers_for_a_call_keep_the_segment_bases() -> None:
    injection = X86_64.injection
    assert injection is not None
    made = injection.registers_for(registers(), GADGETS, SystemCall.CLONE, (1, 2, 3, 4, 5), 0x1000)
    found = dict(zip(NAMES, struct.unpack("<27Q", made), strict=True))
    before = dict(zip(NAMES, struct.unpack("<27Q", registers()), strict=True))
    assert [found[name] for name in ("rax", "rdi", "rsi", "rdx", "r10", "r8", "r9")] == [56, 1, 2, 3, 4, 5, 0]
    assert (found["rip"], found["rsp"], found["orig_rax"]) == (GADGETS.system_call, 0x1000, WORD)
    assert not found["eflags"] & 0x500, "neither trap nor direction flag"
    assert [found[name] for name in ("fs_base", "gs_base")] == [before[name] for name in ("fs_base", "gs_base")]


@pytest.mark.parametrize(("rax", "result"), [(0, 0), (17, 17), (-11, -11), (-4095, -4095)])
def test_results_are_signed(rax: int, result: int) -> None:
    assert X86_64.injection is not None
    assert X86_64.injection.result(registers(rax=rax)) == result


def test_a_net_for_a_thread_without_extended_state_still_names_the_note_it_comes_from() -> None:
    assert [regset.note_type for regset, _ in thread(image=b"").regsets] == [NoteType.FPREGSET]


# --- preconditions -------------------------------------------------------------------------------------------------

STATUS = parse_status(
    b"Name:\tserver\nState:\tS (sleeping)\nUid:\t1000\t1000\nNStgid:\t77\nVmSize:\t 8 kB\nVmPTE:\t 100 kB\n"
)


class FakeProcess:
    """As much of a ProcDir as is asked for. links: of ns/; files: name -> content, or the error that reading raises."""

    def __init__(self, links: dict[str, bytes] | None = None, **files: bytes | Exception) -> None:
        self._links = links or {}
        self._files = files

    def readlink(self, name: str) -> bytes:
        return self._links.get(name, b"")

    def read(self, name: str) -> bytes:
        found = self._files[name]
        if isinstance(found, Exception):
            raise found
        return found


class FakeArch:
    name = "abacus"
    tags = None

    def __init__(self, injection: object = "some") -> None:
        self.injection = injection


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the host tells: change it before the question."""
    told: dict[str, object] = {"room": 1 << 40, "capable": True, "frozen": False, "dies_as_a_whole": False}

    def room(process: object) -> object:
        if isinstance(told["room"], Exception):
            raise told["room"]
        return told["room"]

    monkeypatch.setattr(preconditions, "target_memory_limit", room)
    monkeypatch.setattr(preconditions, "has_capability", lambda number: told["capable"])
    monkeypatch.setattr(preconditions, "is_frozen", lambda process: told["frozen"])
    monkeypatch.setattr(preconditions, "dies_as_a_whole", lambda process: told["dies_as_a_whole"])
    return told


def refusal(
    status: TaskStatus = STATUS,
    arch: object = None,
    regions: tuple[object, ...] = (),
    links: dict[str, bytes] | None = None,
) -> str:
    return snapshot_refusal(FakeProcess(links), status, arch or FakeArch(), regions)  # type: ignore[arg-type]


def changed(**fields: object) -> TaskStatus:
    return replace(STATUS, **fields)  # type: ignore[arg-type]


def test_nothing_speaks_against_a_plain_process(host: dict[str, object]) -> None:
    assert refusal() == ""
    assert refusal(changed(seccomp=2)) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"shadow_stack": True}, "a shadow stack (CET)"), ({"seccomp": 1}, "in seccomp's strict mode")],
)
def test_what_the_status_tells(host: dict[str, object], fields: dict[str, object], words: str) -> None:
    assert words in refusal(changed(**fields))


def test_a_machine_that_nobody_has_taught_how(host: dict[str, object]) -> None:
    assert refusal(arch=FakeArch(None)) == "system calls cannot be run inside abacus programs yet"


def test_a_filter_without_the_right_to_look(host: dict[str, object]) -> None:
    host["capable"] = False
    assert "only CAP_SYS_ADMIN may look into it" in refusal(changed(seccomp=2))
    assert refusal() == ""


@pytest.mark.parametrize("flag", ["um", "uw", "ui"])
def test_userfaultfd(host: dict[str, object], flag: str) -> None:
    watched = region(0x1000, PAGE, flags=frozenset({"rd", flag}))
    assert "userfaultfd" in refusal(regions=(region(0x9000, PAGE), watched))


def test_children_in_another_pid_namespace(host: dict[str, object]) -> None:
    inside = changed(ns_tgids=(77, 5))
    same = {"ns/pid": b"pid:[1]", "ns/pid_for_children": b"pid:[1]"}
    assert refusal(inside, links=same) == ""
    other = {**same, "ns/pid_for_children": b"pid:[2]"}
    assert "another pid namespace" in refusal(inside, links=other)


def test_a_frozen_cgroup(host: dict[str, object]) -> None:
    host["frozen"] = True
    assert refusal() == "the target's cgroup is frozen"


def test_headroom(host: dict[str, object]) -> None:
    need = 100 * 1024 + 32 * MIB
    assert memory_need(STATUS) == need
    host["room"] = need
    assert refusal() == ""
    host["room"] = need - 1
    assert refusal() == "a snapshot may need 32.10 MiB, and the target can get no more than 32.10 MiB"
    large = changed(rss_anonymous=1000 * MIB)
    assert memory_need(large) == 100 * 1024 + 100 * MIB
    host["room"] = 0
    assert "no more than 0" in refusal(large)


@pytest.mark.parametrize("error", [NoSuchProcessError("gone"), ValueError("no cgroup line")])
def test_headroom_that_cannot_be_known_is_no_reason(host: dict[str, object], error: Exception) -> None:
    host["room"] = error
    assert refusal() == ""


def test_the_reason_is_one_line(host: dict[str, object]) -> None:
    host["room"] = 0
    for reason in (refusal(), refusal(arch=FakeArch(None)), refusal(changed(shadow_stack=True))):
        assert reason
        assert "\n" not in reason


@pytest.mark.parametrize(("tgids", "inherits"), [((77,), False), ((77, 1), True), ((77, 5, 1), True), ((), False)])
def test_an_init_inherits_orphans(tgids: tuple[int, ...], inherits: bool) -> None:
    assert inherits_orphans(changed(ns_tgids=tgids)) is inherits


@pytest.mark.parametrize(
    ("fields", "copied"),
    [
        ({}, False),
        ({"flags": frozenset({"sh"})}, True),
        ({"flags": frozenset({"dc"})}, True),
        ({"flags": frozenset({"wf"})}, True),
        ({"kind": RegionKind.HUGETLB}, True),
        ({"kind": RegionKind.FILE, "flags": frozenset({"rd", "ex"})}, False),
    ],
)
def test_what_a_fork_does_not_carry(fields: dict[str, object], copied: bool) -> None:
    assert is_copied(region(0x1000, PAGE, **fields)) is copied


# --- room for the net ----------------------------------------------------------------------------------------------

STACK_END = 0x7FFE00000000


class FakePagemap:
    """A task whose pages from `touched` on are present."""

    def __init__(self, folder: Path, start: int, pages: int, touched: int) -> None:
        self.path = folder / "pagemap"
        with self.path.open("wb") as file:
            file.seek(start // PAGE * 8)
            present = (1 << 63).to_bytes(8, "little")
            file.write(bytes(8 * touched) + present * (pages - touched))

    def open(self, name: str) -> int:
        assert name == "pagemap"
        return os.open(self.path, os.O_RDONLY)


def stack_of(pages: int, **fields: object) -> list[object]:
    start = STACK_END - pages * PAGE
    return [region(0x1000, PAGE), region(start, pages * PAGE, **{"kind": RegionKind.STACK, **fields})]


def room(folder: Path, pages: int, touched: int, depth: int | None, **fields: object) -> int:
    """Pages between the start of the stack and the room; depth: pages between the stack pointer and its end."""
    start = STACK_END - pages * PAGE
    pointer = None if depth is None else STACK_END - depth * PAGE
    task = FakePagemap(folder, start, pages, touched)
    return (find_room(task, stack_of(pages, **fields), pointer, 3000) - start) // PAGE  # type: ignore[arg-type]


def test_the_room_is_at_the_low_end_of_the_stack_with_room_for_a_handler_below(tmp_path: Path) -> None:
    assert room(tmp_path, 33, 30, 2) == 8
    assert room(tmp_path, 33, 0, 2) == 8, "far below the main thread nothing is in use, touched or not"


@pytest.mark.parametrize("depth", [None, 200])
def test_a_main_thread_elsewhere_or_ended_leaves_an_untouched_end_alone(tmp_path: Path, depth: int | None) -> None:
    assert room(tmp_path, 33, 20, depth) == 8


@pytest.mark.parametrize("depth", [None, 200, 30])
def test_an_end_that_is_in_use_is_no_room(tmp_path: Path, depth: int | None) -> None:
    with pytest.raises(ModeUnavailableError, match="in use down to its end"):
        room(tmp_path, 33, 4, depth)


@pytest.mark.parametrize(
    ("pages", "fields"), [(8, {}), (33, {"kind": RegionKind.ANON}), (33, {"perms": "r--p"})], ids=str
)
def test_no_stack_or_a_small_or_read_only_one(tmp_path: Path, pages: int, fields: dict[str, object]) -> None:
    with pytest.raises(ModeUnavailableError, match="no room to work in"):
        room(tmp_path, pages, pages, 2, **fields)


# --- headroom ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cgroup v1's memory controller at v1/, cgroup v2 at v2/ and, beside v1, at unified/."""
    monkeypatch.setattr(headroom, "V1_ROOT", str(tmp_path / "v1"))
    monkeypatch.setattr(headroom, "V2_ROOTS", (str(tmp_path / "v2"), str(tmp_path / "unified")))
    return tmp_path


def group_v1(folder: Path, limit: int, usage: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {cache}\n")


def group_v2(folder: Path, limit: int | str, usage: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")


NO_LIMIT = 1 << 62


@pytest.mark.parametrize("text", ["", "0::/\n", "3:cpu,cpuacct:/a\n0::/not/there\n", "1:name=systemd:/x\n"])
def test_without_a_memory_group_there_is_no_limit(tree: Path, text: str) -> None:
    assert cgroups_room(text) == NO_LIMIT


@pytest.mark.parametrize("root", ["v2", "unified"])
def test_version_2_takes_the_least_room_of_all_levels_and_counts_cache_as_room(tree: Path, root: str) -> None:
    group_v2(tree / root / "a" / "b", 100 * MIB, 60 * MIB, 10 * MIB)
    assert cgroups_room("0::/a/b\n") == 50 * MIB
    group_v2(tree / root / "a", 80 * MIB, 75 * MIB)
    assert cgroups_room("0::/a/b\n") == 5 * MIB
    group_v2(tree / root / "a", "max", 75 * MIB)
    assert cgroups_room("0::/a/b\n") == 50 * MIB
    group_v2(tree / root / "a" / "b", 10 * MIB, 60 * MIB)
    assert cgroups_room("0::/a/b\n") == 0, "a limit lowered below what is in use"


def test_version_1_takes_the_least_room_of_all_levels(tree: Path) -> None:
    group_v1(tree / "v1", (1 << 63) - 4096, 500 * MIB)
    assert cgroups_room("4:memory:/a/b\n") == NO_LIMIT, "a group of a container seen from outside of it"
    group_v1(tree / "v1" / "a" / "b", (1 << 63) - 4096, 60 * MIB)
    assert cgroups_room("4:memory:/a/b\n") == NO_LIMIT
    group_v1(tree / "v1" / "a", 100 * MIB, 60 * MIB, 3 * MIB)
    assert cgroups_room("4:memory:/a/b\n") == 43 * MIB
    assert cgroups_room("4:hugetlb,memory:/a/b\n") == 43 * MIB
    assert cgroups_room("4:memory2:/a/b\n5:cpu:/a\n") == NO_LIMIT


def test_both_versions_count(tree: Path) -> None:
    group_v1(tree / "v1" / "a", 100 * MIB, 0)
    group_v2(tree / "unified" / "a", 50 * MIB, 0)
    assert cgroups_room("4:memory:/a\n0::/a\n") == 50 * MIB


@pytest.mark.parametrize("path", ["/a", "//a", "/a/", "//a//"])
def test_slashes_do_not_matter(tree: Path, path: str) -> None:
    group_v2(tree / "v2" / "a", 50 * MIB, 0)
    assert cgroups_room(f"0::{path}\n") == 50 * MIB


def test_a_path_that_leads_out_of_what_is_seen_is_not_followed(tree: Path) -> None:
    group_v2(tree, 1 * MIB, 0)
    group_v2(tree / "v2", 70 * MIB, 0)
    assert cgroups_room("0::/../x\n") == 70 * MIB
    assert cgroups_room("0::/a/../../x\n") == 70 * MIB


@pytest.mark.parametrize("name", ["a:b", "a b", "é", "a\\x3ab"])
def test_names_of_groups_may_hold_anything_but_a_slash(tree: Path, name: str) -> None:
    group_v2(tree / "v2" / name, 50 * MIB, 0)
    assert cgroups_room(f"0::/{name}\n") == 50 * MIB


def test_a_group_whose_files_make_no_sense_has_no_limit(tree: Path) -> None:
    group_v2(tree / "v2" / "a", 50 * MIB, 0)
    (tree / "v2" / "a" / "memory.current").write_text("")
    assert cgroups_room("0::/a\n") == NO_LIMIT


def test_the_targets_room_is_mem_available_or_less_by_its_groups(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headroom, "mem_available", lambda: 30 * MIB)
    group_v2(tree / "v2" / "a", 50 * MIB, 0)
    assert target_memory_limit(FakeProcess(cgroup=b"0::/a\n")) == 30 * MIB  # type: ignore[arg-type]
    monkeypatch.setattr(headroom, "mem_available", lambda: 300 * MIB)
    assert target_memory_limit(FakeProcess(cgroup=b"0::/a\n")) == 50 * MIB  # type: ignore[arg-type]
    with pytest.raises(NoSuchProcessError):
        target_memory_limit(FakeProcess(cgroup=NoSuchProcessError("gone")))  # type: ignore[arg-type]


# --- the watchdog --------------------------------------------------------------------------------------------------


def test_the_watchdog_reaps_what_has_ended_and_leaves_stops_to_the_tracer() -> None:
    def stopped() -> int:
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).ptrace(0, 0, None, None)  # PTRACE_TRACEME
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(3)
        found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert found is not None
        return pid

    one, other = stopped(), stopped()
    try:
        assert watchdog.reap_dead((one, other)) == set()
        assert os.waitpid(one, os.WNOHANG)[0] == one, "its stop is still there to be taken"
        assert watchdog.reap_dead((one, other)) == set()
        os.kill(one, signal.SIGKILL)
        os.waitid(os.P_PID, one, os.WEXITED | os.WNOWAIT)
        assert watchdog.reap_dead((one, other)) == {one}
        with pytest.raises(ChildProcessError):
            os.waitpid(one, os.WNOHANG)
        assert os.waitpid(other, os.WNOHANG)[0] == other
        assert watchdog.reap_dead((one,)) == {one}, "gone is gone"
    finally:
        for pid in (one, other):
            try:
                os.kill(pid, signal.SIGKILL)
                while os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
                    pass
            except (ProcessLookupError, ChildProcessError, ValueError):
                pass


def in_child(body: object) -> tuple[int, str]:
    """Run body() in a forked child; return its exit status and what it wrote to standard error."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(write_end, 2)
            body()  # type: ignore[operator]
        finally:
            os._exit(77)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def test_a_stop_that_is_overdue_for_too_long_ends_the_process_with_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.05)

    def body() -> None:
        watchdog.Watchdog(tuple, lambda: "the stop is past its limit of 1 s (--max-stop)").start()
        signal.pause()

    status, said = in_child(body)
    assert status == 1
    assert said == (
        "corepipe: the stop is past its limit of 1 s (--max-stop), and the way back is blocked; "
        "ending at once, so that the target runs\n"
    )


def test_a_stop_that_is_not_overdue_all_the_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Overdue at every second look: the grace begins anew each time, though it is shorter than all looks together."""
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 3600.0)
    monkeypatch.setattr(watchdog, "_PERIOD_SECONDS", 0.001)

    def body() -> None:
        looks = iter(range(20))
        clock = iter(range(0, 1 << 20, 3599))
        watchdog.time.monotonic = lambda: next(clock)  # type: ignore[attr-defined]
        dog = watchdog.Watchdog(tuple, lambda: "late" if next(looks, 1) % 2 == 0 else "")
        dog.start()
        while next(looks, None) is not None:
            pass
        dog.stop()
        os._exit(0)

    assert in_child(body)[0] == 0


def test_a_watchdog_stops_when_told_and_whoever_ended_is_in_its_books() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    seen = []
    dog = watchdog.Watchdog(lambda: (pid,), lambda: seen.append(1) or "")  # type: ignore[func-returns-value]
    dog.start()
    while not seen:
        pass
    dog.stop()
    dog.stop()
    assert dog.dead == {pid}
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_watchdog_that_was_never_started_can_be_stopped() -> None:
    watchdog.Watchdog(tuple, str).stop()
