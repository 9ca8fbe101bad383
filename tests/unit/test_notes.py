"""notes.py: the notes of a kernel core, in its order, byte for byte where readers look."""

from __future__ import annotations

import io
import os
import platform
import struct

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine.arch import ThreadState
from corepipe_engine.arch.x86_64 import X86_64
from corepipe_engine.elf import ELF32, ELF64, NoteType
from corepipe_engine.notes import (
    FileMapping,
    ProcessIdentity,
    build_notes,
    expected_notes_bytes,
    file_mappings,
    file_note,
    file_note_bytes,
    prpsinfo,
    prstatus,
    siginfo,
)
from corepipe_engine.regions import RegionKind

from .model import BASE, PAGE, UNASKED, plan_of, region

ARCH = X86_64()
FPREGSET, XSTATE = ARCH.regsets
TICKS = os.sysconf("SC_CLK_TCK")
only_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="asks the processor for its XSAVE layout")


def identity(**fields: object) -> ProcessIdentity:
    values: dict[str, object] = {
        "pid": 1000,
        "ppid": 999,
        "pgrp": 998,
        "sid": 997,
        "uid": 1001,
        "gid": 1002,
        "state": "S",
        "nice": -5,
        "flags": 0x400100,
        "comm": b"server",
        "cmdline": b"/bin/server\0--port\x0080",
    }
    values.update(fields)
    return ProcessIdentity(**values)  # type: ignore[arg-type]


def thread(tid: int, xstate: bytes = b"") -> ThreadState:
    general = struct.pack("<27Q", *range(tid, tid + 27))
    regsets = [(FPREGSET, bytes([tid & 0xFF]) * 512)]
    if xstate:
        regsets.append((XSTATE, xstate))
    return ThreadState(tid + 5000, tid, general, tuple(regsets), 1 << 9, 1 << 14, 3 * TICKS + 1, 2 * TICKS)


def notes_of(data: bytes) -> list[dict[str, object]]:
    core = plan_of([], notes_bytes=len(data)).header(data)
    return list(ELFFile(io.BytesIO(core)).get_segment(0).iter_notes())


def test_prstatus_is_struct_elf_prstatus() -> None:
    record = prstatus(ELF64, identity(cutime_ticks=TICKS, cstime_ticks=7 * TICKS), thread(77))
    assert len(record) == 336
    assert struct.unpack_from("<iiih", record) == (0, 0, 0, 0)  # si_signo, si_code, si_errno, pr_cursig
    assert struct.unpack_from("<QQ", record, 16) == (1 << 9, 1 << 14)
    assert struct.unpack_from("<iiii", record, 32) == (77, 999, 998, 997)
    times = struct.unpack_from("<8Q", record, 48)
    assert times == (3, 1_000_000 // TICKS, 2, 0, 1, 0, 7, 0)
    assert record[112 : 112 + 27 * 8] == thread(77).general
    assert struct.unpack_from("<i", record, 328) == (1,)  # pr_fpvalid


def test_prstatus_of_a_32_bit_program_has_144_bytes() -> None:
    state = ThreadState(1, 1, bytes(17 * 4), signals_blocked=(1 << 64) - 1)
    record = prstatus(ELF32, identity(), state)
    assert len(record) == 144
    assert struct.unpack_from("<II", record, 16) == (0, 0xFFFFFFFF)


def test_prpsinfo_is_struct_elf_prpsinfo() -> None:
    record = prpsinfo(ARCH, identity())
    assert len(record) == 136
    assert struct.unpack_from("<BcBb", record) == (1, b"S", 0, -5)
    assert struct.unpack_from("<QIIiiii", record, 8) == (0x400100, 1001, 1002, 1000, 999, 998, 997)
    assert record[40:56] == b"server".ljust(16, b"\0")
    assert record[56:] == b"/bin/server --port 80".ljust(80, b"\0")


def test_psargs_are_79_bytes_and_a_nul() -> None:
    record = prpsinfo(ARCH, identity(cmdline=b"x" * 500))
    assert record[56:] == b"x" * 79 + b"\0"


def test_a_zombie_and_an_unknown_state_are_told_as_the_kernel_tells_them() -> None:
    assert struct.unpack_from("<BcB", prpsinfo(ARCH, identity(state="Z"))) == (4, b"Z", 1)
    assert struct.unpack_from("<BcB", prpsinfo(ARCH, identity(state="I"))) == (0, b".", 0)


@given(
    st.binary(max_size=40),
    st.binary(max_size=200),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(-20, 19),
    st.sampled_from("RSDTtXZPIKW?"),
)
def test_prpsinfo_takes_whatever_a_process_calls_itself(
    comm: bytes, cmdline: bytes, uid: int, flags: int, nice: int, state: str
) -> None:
    record = prpsinfo(ARCH, identity(comm=comm, cmdline=cmdline, uid=uid, gid=uid, flags=flags, nice=nice, state=state))
    assert len(record) == 136


def test_siginfo_names_no_signal() -> None:
    assert siginfo() == bytes(128)


def test_file_note_counts_offsets_in_pages() -> None:
    mappings = [
        FileMapping(BASE, BASE + PAGE, 0, b"/bin/server"),
        FileMapping(BASE + PAGE, BASE + 3 * PAGE, 3 * PAGE, b"/tmp/a b\nc (deleted)"),
    ]
    record = file_note(ELF64, mappings, PAGE)
    assert len(record) == file_note_bytes(ELF64, mappings)
    assert struct.unpack_from("<8Q", record) == (2, PAGE, BASE, BASE + PAGE, 0, BASE + PAGE, BASE + 3 * PAGE, 3)
    assert record[64:] == b"/bin/server\0/tmp/a b\nc (deleted)\0"
    small = [FileMapping(0x1000, 0x2000, 0x1000, b"/a")]
    assert file_note(ELF32, small, PAGE) == struct.pack("<5I", 1, PAGE, 0x1000, 0x2000, 1) + b"/a\0"
    assert file_note_bytes(ELF32, small) == 23


def test_nt_file_lists_mapped_files_alone() -> None:
    regions = [
        region(BASE, PAGE, path=b"/bin/a", inode=5, kind=RegionKind.FILE),
        region(BASE + PAGE, PAGE),
        region(BASE + 2 * PAGE, PAGE, path=b"[heap]", kind=RegionKind.HEAP),
        region(BASE + 3 * PAGE, PAGE, path=b"[anon_shmem:x]", inode=7, kind=RegionKind.SHMEM),
    ]
    assert [mapping.path for mapping in file_mappings(regions)] == [b"/bin/a", b"/dev/zero (deleted)"]


def test_nt_file_names_files_as_a_target_in_a_chroot_does() -> None:
    paths = [b"/srv/root/bin/a", b"/srv/rootless/b", b"/lib/c", b"/srv/root/d (deleted)"]
    regions = [region(BASE + i * PAGE, PAGE, path=path, inode=5, kind=RegionKind.FILE) for i, path in enumerate(paths)]
    seen = [mapping.path for mapping in file_mappings(regions, b"/srv/root")]
    assert seen == [b"/bin/a", b"/srv/rootless/b", b"/lib/c", b"/d (deleted)"]
    for root in (b"/", b""):
        assert [mapping.path for mapping in file_mappings(regions, root)] == paths


def test_notes_stand_in_the_order_of_a_kernel_core() -> None:
    mappings = [FileMapping(BASE, BASE + PAGE, PAGE, b"/bin/server")]
    auxv = struct.pack("<4Q", 6, 4096, 0, 0)
    xstate = bytes(600)
    data = build_notes(ARCH, identity(), [thread(1, xstate), thread(2, xstate), thread(3)], auxv, mappings, PAGE)
    notes = notes_of(data)
    names = [(note["n_name"], note["n_type"]) for note in notes]
    others = [("CORE", "NT_PRSTATUS"), ("CORE", "NT_FPREGSET"), ("LINUX", NoteType.X86_XSTATE)]
    assert [(name, kind if isinstance(kind, str) else int(str(kind))) for name, kind in names] == [
        ("CORE", "NT_PRSTATUS"),
        ("CORE", "NT_PRPSINFO"),
        ("CORE", "NT_SIGINFO"),
        ("CORE", "NT_AUXV"),
        ("CORE", "NT_FILE"),
        ("CORE", "NT_FPREGSET"),
        ("LINUX", NoteType.X86_XSTATE),
        *others,
        *others[:2],
    ]
    assert [note["n_namesz"] for note in notes] == [5 if note["n_name"] == "CORE" else 6 for note in notes]
    sizes = [note["n_descsz"] for note in notes]
    assert sizes == [336, 136, 128, 32, 5 * 8 + 12, 512, 600, 336, 512, 600, 336, 512]
    assert [note["n_descdata"] for note in notes if note["n_type"] == "NT_AUXV"] == [auxv]


def test_an_independent_reader_understands_prpsinfo_and_nt_file() -> None:
    mappings = [
        FileMapping(BASE, BASE + PAGE, 2 * PAGE, b"/bin/server"),
        FileMapping(BASE + PAGE, BASE + 2 * PAGE, 0, b"/x"),
    ]
    notes = notes_of(build_notes(ARCH, identity(), [thread(1)], b"", mappings, PAGE))
    info = next(note["n_desc"] for note in notes if note["n_type"] == "NT_PRPSINFO")
    assert (info["pr_pid"], info["pr_ppid"], info["pr_uid"], info["pr_gid"]) == (1000, 999, 1001, 1002)
    assert info["pr_fname"].rstrip(b"\0") == b"server"
    assert info["pr_psargs"].rstrip(b"\0") == b"/bin/server --port 80"
    files = next(note["n_desc"] for note in notes if note["n_type"] == "NT_FILE")
    assert files["num_map_entries"] == 2
    assert files["page_size"] == PAGE
    assert [entry["page_offset"] for entry in files["Elf_Nt_File_Entry"]] == [2, 0]
    assert [entry["vm_start"] for entry in files["Elf_Nt_File_Entry"]] == [BASE, BASE + PAGE]
    assert list(files["filename"]) == [b"/bin/server", b"/x"]


def test_a_process_without_files_has_no_nt_file() -> None:
    assert "NT_FILE" not in [
        note["n_type"] for note in notes_of(build_notes(ARCH, identity(), [thread(1)], b"", [], PAGE))
    ]


def test_a_core_without_a_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        build_notes(ARCH, identity(), [], b"", [], PAGE)


@only_x86_64
@pytest.mark.parametrize("threads", [1, 2, 9])
def test_the_size_foretold_without_registers_is_the_size_built(threads: int) -> None:
    from corepipe_engine.arch.cpuid import xcr0

    xstate = bytearray(ARCH.expected_regset_size(XSTATE))
    xstate[464:472] = xcr0().to_bytes(8, "little")
    mappings = [FileMapping(BASE, BASE + PAGE, 0, b"/bin/server")]
    states = [thread(number, bytes(xstate)) for number in range(1, threads + 1)]
    data = build_notes(ARCH, identity(), states, bytes(320), mappings, PAGE)
    assert len(data) == expected_notes_bytes(ARCH, threads, 320, mappings)
    last = notes_of(data)[-1]
    assert (last["n_name"], int(str(last["n_type"]))) == ("LINUX", NoteType.X86_XSAVE_LAYOUT)


def test_an_interrupted_call_that_did_nothing_is_made_again_unless_a_handler_runs() -> None:
    """-ERESTARTNOHAND, for the kernel to act on: the instruction pointer stays behind the call."""
    registers = list(range(100, 127))
    registers[10], registers[15], registers[16] = (1 << 64) - 4, 232, 0x5000  # rax -EINTR, orig_rax epoll_wait, rip
    restarted = ARCH.restart_interrupted(struct.pack("<27Q", *registers), UNASKED)
    assert restarted is not None
    registers[10] = (1 << 64) - 514
    assert restarted == struct.pack("<27Q", *registers)


@pytest.mark.parametrize(
    ("rax", "call"), [(0, 232), ((1 << 64) - 11, 232), ((1 << 64) - 4, 35), ((1 << 64) - 4, (1 << 64) - 1)]
)
def test_other_registers_are_left_alone(rax: int, call: int) -> None:
    registers = list(range(100, 127))
    registers[10], registers[15] = rax, call
    assert ARCH.restart_interrupted(struct.pack("<27Q", *registers), UNASKED) is None


def test_the_stack_pointer_is_rsp() -> None:
    assert ARCH.stack_pointer(struct.pack("<27Q", *range(27))) == 19
