"""procfs.py: whatever /proc says is read right or refused in words; nothing else comes out."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corepipe_engine.errors import CorepipeError, DumpFailedError, ExitCode, NoSuchProcessError, NotPermittedError
from corepipe_engine.mappings import parse_maps, parse_smaps
from corepipe_engine.procfs import (
    ProcDir,
    ProcessHandle,
    map_id,
    mem_available,
    parse_auxv,
    parse_stat,
    parse_status,
    translate_error,
)
from corepipe_engine.regions import RegionKind, copied_on_write

SMAPS = b"""\
55d0c0000000-55d0c0001000 r-xp 00001000 fe:01 1234                       /bin/a b (deleted)
Size:                  4 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   4 kB
Pss:                   1 kB
Shared_Clean:          4 kB
Shared_Dirty:          0 kB
Anonymous:             0 kB
Swap:                  0 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Size:               2048 kB
Rss:                 100 kB
Shared_Clean:          8 kB
Shared_Dirty:         56 kB
Anonymous:            96 kB
Swap:                 12 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr mr mw me ac dd
7f0000200000-7f0000400000 rw-s 00000000 00:0f 77                         /dev/hugepages/x
Size:               2048 kB
Rss:                   0 kB
Anonymous:             0 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:       4 kB
VmFlags: rd wr sh mr mw me ms de ht sd
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
Rss:                  16 kB
Anonymous:            16 kB
VmFlags: rd wr mr mw me gd ac
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Size:                  4 kB
Rss:                   0 kB
VmFlags: ex
"""

STATUS = b"""\
Name:\tserver
State:\tS (sleeping)
Tgid:\t4242
Pid:\t4242
TracerPid:\t17
Uid:\t1000\t1001\t1002\t1003
Gid:\t2000\t2001\t2002\t2003
NStgid:\t4242\t7
NSpid:\t4242\t7
NSpgid:\t4242\t7
NSsid:\t4000\t1
Kthread:\t0
VmLck:\t       8 kB
VmSize:\t 1000000 kB
VmRSS:\t    2048 kB
VmPTE:\t      88 kB
VmSwap:\t     16 kB
Threads:\t9
SigPnd:\t0000000000000001
ShdPnd:\t0000000000000002
SigBlk:\tfffffffe7ffbfeff
Seccomp:\t2
x86_Thread_features:\tshstk wrss
"""

STAT_TAIL = b" S 1 4242 4000 0 -1 4194560 1 2 3 4 55 66 77 88 20 -3 9 0 12345 1 2 3"


def line(path: bytes, perms: bytes = b"r--p", inode: bytes = b"9") -> bytes:
    return b"00400000-00401000 " + perms + b" 00000000 fe:01 " + inode + b"   " + path + b"\n"


# --- maps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (b"/bin/a", b"/bin/a"),
        (b"/tmp/with spaces  twice", b"/tmp/with spaces  twice"),
        (b"/tmp/trailing ", b"/tmp/trailing "),
        (b"/tmp/new\\012line", b"/tmp/new\nline"),
        (b"/tmp/gone (deleted)", b"/tmp/gone (deleted)"),
        (b"/tmp/7f00-7f01 rw-p 00000000 00:00 0 [heap]", b"/tmp/7f00-7f01 rw-p 00000000 00:00 0 [heap]"),
        (b"/tmp/x\\01200400000-00401000 r--p 0 0:0 0 [stack]", b"/tmp/x\n00400000-00401000 r--p 0 0:0 0 [stack]"),
        (b"/tmp/\xff\xfe\x80", b"/tmp/\xff\xfe\x80"),
        (b"/tmp/\t\r\x0b\x0c\x1b[2J", b"/tmp/\t\r\x0b\x0c\x1b[2J"),
        (b"/tmp/\xc2\x85\xe2\x80\xa8", b"/tmp/\xc2\x85\xe2\x80\xa8"),
    ],
)
def test_any_file_name_is_read_back(written: bytes, path: bytes) -> None:
    (found,) = parse_maps(line(written))
    assert (found.path, found.kind, found.start, found.end) == (path, RegionKind.FILE, 0x400000, 0x401000)
    (found,) = parse_smaps(iter([line(written) + b"Rss:  4 kB\nVmFlags: rd mr\n"]))
    assert (found.path, found.rss) == (path, 4096)


def test_a_mapping_without_a_name_has_an_empty_path() -> None:
    (found,) = parse_maps(b"7f00-8f00 rw-p 00000000 00:00 0 \n")
    assert (found.path, found.kind, found.file_backed) == (b"", RegionKind.ANON, False)


def test_smaps_gives_counts_in_bytes_and_flags() -> None:
    text, anonymous, huge, stack, vsyscall = parse_smaps(iter([SMAPS]))
    assert (text.path, text.offset, text.dev, text.inode, text.perms) == (
        b"/bin/a b (deleted)",
        4096,
        "fe:01",
        1234,
        "r-xp",
    )
    assert (text.rss, text.anonymous, text.swap) == (4096, 0, 0)
    assert (anonymous.rss, anonymous.anonymous, anonymous.swap) == (100 << 10, 96 << 10, 12 << 10)
    assert (anonymous.mapped_elsewhere, text.mapped_elsewhere, stack.mapped_elsewhere) == (64 << 10, 4096, 0)
    assert [region.copied_on_write for region in (text, anonymous, huge, stack)] == [False, True, False, False]
    assert list(copied_on_write([text, anonymous, huge, stack])) == [anonymous.start, anonymous.end]
    assert "dd" in anonymous.flags
    assert (huge.kind, huge.hugetlb, huge.shared) == (RegionKind.HUGETLB, 2052 << 10, True)
    assert (stack.kind, stack.size) == (RegionKind.STACK, 132 << 10)
    assert (vsyscall.kind, vsyscall.start) == (RegionKind.VSYSCALL, 0xFFFFFFFFFF600000)


@given(st.lists(st.integers(1, 400), max_size=40))
def test_smaps_reads_alike_in_pieces_of_any_size(sizes: list[int]) -> None:
    def pieces() -> Iterator[bytes]:
        position = 0
        for size in sizes:
            yield SMAPS[position : position + size]
            position += size
        yield SMAPS[position:]

    assert list(parse_smaps(piece for piece in pieces() if piece)) == list(parse_smaps(iter([SMAPS])))


def test_smaps_reads_alike_byte_by_byte() -> None:
    assert list(parse_smaps(bytes([byte]) for byte in SMAPS)) == list(parse_smaps(iter([SMAPS])))


def test_equal_names_and_flags_are_one_object() -> None:
    """65,000 mappings of one file must not hold 65,000 copies of its name."""
    first, second = parse_smaps(iter([2 * (line(b"/bin/a") + b"VmFlags: rd mr mw me \n")]))
    assert first.path is second.path
    assert first.flags is second.flags
    assert first.perms is second.perms


def test_neighbours_share_the_address_between_them() -> None:
    below, above = parse_maps(b"7f0000400000-7f0000500000 rw-p 0 0:0 0\n7f0000500000-7f0000600000 r--p 0 0:0 0\n")
    assert below.end is above.start


def test_mappings_without_the_line_that_ends_them_are_left_to_maps() -> None:
    """Kernels before 3.8 have no VmFlags; then nothing is known of a mapping but its line."""
    assert list(parse_smaps(iter([line(b"/bin/a") + b"Rss:  4 kB\n"]))) == []


# --- stat and status -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "comm", [b"server", b"", b")", b"a) R 1 2 3 (b", b"two words", b"a\nb", b"((", b"\xff\x80", b") S 1"]
)
def test_stat_is_read_right_whatever_the_process_is_called(comm: bytes) -> None:
    record = parse_stat(b"4242 (" + comm + b")" + STAT_TAIL + b"\n")
    assert (record.pid, record.comm, record.state) == (4242, comm, "S")
    assert (record.ppid, record.pgrp, record.session, record.flags) == (1, 4242, 4000, 4194560)
    assert (record.utime_ticks, record.stime_ticks, record.cutime_ticks, record.cstime_ticks) == (55, 66, 77, 88)
    assert (record.nice, record.start_time_ticks) == (-3, 12345)


@pytest.mark.parametrize("text", [b"", b"1", b"1 (a", b"1 (a) S 2", b")(" + STAT_TAIL])
def test_a_cut_stat_is_refused_in_words(text: bytes) -> None:
    with pytest.raises(DumpFailedError, match="cannot understand"):
        parse_stat(text)


def test_status_gives_every_field() -> None:
    record = parse_status(STATUS)
    assert (record.name, record.state, record.tgid, record.tracer_pid) == (b"server", "S", 4242, 17)
    assert (record.uid, record.effective_uid, record.gid) == (1000, 1001, 2000)
    assert (record.ns_tgids, record.ns_pids, record.ns_pgids, record.ns_sids) == (
        (4242, 7),
        (4242, 7),
        (4242, 7),
        (4000, 1),
    )
    assert (record.kernel_thread, record.threads, record.seccomp, record.shadow_stack) == (False, 9, 2, True)
    assert (record.vm_rss, record.vm_swap, record.vm_pte, record.vm_locked) == (2 << 20, 16 << 10, 88 << 10, 8 << 10)
    assert (record.signals_pending, record.signals_shared_pending) == (1, 2)
    assert record.signals_blocked == 0xFFFFFFFE7FFBFEFF


def test_status_lines_that_are_missing_read_as_zero() -> None:
    for skipped in range(STATUS.count(b"\n")):
        lines = STATUS.splitlines(keepends=True)
        del lines[skipped]
        parse_status(b"".join(lines))
    empty = parse_status(b"")
    assert (empty.name, empty.uid, empty.threads, empty.ns_pids, empty.signals_pending) == (b"", 0, 0, (), 0)


def test_a_kernel_thread_is_told_from_a_zombie() -> None:
    assert parse_status(b"State:\tS (sleeping)\nKthread:\t1\n").kernel_thread
    assert parse_status(b"State:\tI (idle)\n").kernel_thread  # before Linux 6.5 there is no Kthread line
    assert not parse_status(b"State:\tZ (zombie)\n").kernel_thread
    assert not parse_status(STATUS).kernel_thread


def test_a_name_that_looks_like_a_status_line_changes_nothing() -> None:
    assert parse_status(STATUS.replace(b"\tserver", b"\tTracerPid:\\nUid:\t0")).tracer_pid == 17


# --- auxv, id maps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word_size", "letter"), [(8, "Q"), (4, "I")])
def test_auxv_of_both_word_sizes(word_size: int, letter: str) -> None:
    raw = struct.pack(f"<8{letter}", 6, 4096, 33, 0x7FFF0000, 9, 0x401000, 0, 0)
    expected = {6: 4096, 33: 0x7FFF0000, 9: 0x401000}
    assert parse_auxv(raw, word_size) == expected
    assert parse_auxv(raw + raw, word_size) == expected  # ends at AT_NULL
    assert parse_auxv(raw[: 3 * word_size], word_size) == {6: 4096}  # a cut entry
    assert parse_auxv(b"", word_size) == {}


def test_ids_are_told_as_the_target_sees_them() -> None:
    id_map = b"         0     100000      65536\n     70000       1000          1\n"
    assert [map_id(id_map, outer) for outer in (100000, 100999, 1000, 0, 165536)] == [0, 999, 70000, 65534, 65534]
    assert map_id(b"         0          0 4294967295\n", 1234) == 1234
    assert map_id(b"", 0) == 65534


# --- nonsense ------------------------------------------------------------------------------------------------------

_parsers = st.sampled_from(
    [
        lambda raw: list(parse_maps(raw)),
        lambda raw: list(parse_smaps(iter([raw]))),
        lambda raw: parse_stat(raw),
        lambda raw: parse_status(raw),
        lambda raw: parse_auxv(raw, 8),
        lambda raw: parse_auxv(raw, 4),
        lambda raw: map_id(raw, 0),
    ]
)
_samples = st.sampled_from([SMAPS, STATUS, b"4242 (server)" + STAT_TAIL, line(b"/bin/a"), b"0 0 4294967295\n"])


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    text = bytearray(draw(_samples))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(text)


@settings(max_examples=600)
@given(_parsers, st.one_of(st.binary(max_size=300), _damaged()))
def test_nonsense_is_refused_in_words_and_never_breaks_a_parser(parser: Callable[[bytes], object], raw: bytes) -> None:
    try:
        parser(raw)
    except CorepipeError as error:
        assert error.message  # noqa: PT017


# --- /proc itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOENT, NoSuchProcessError, ExitCode.NO_PROCESS),
        (errno.ESRCH, NoSuchProcessError, ExitCode.NO_PROCESS),
        (errno.EACCES, NotPermittedError, ExitCode.NOT_PERMITTED),
        (errno.EPERM, NotPermittedError, ExitCode.NOT_PERMITTED),
        (errno.EIO, DumpFailedError, ExitCode.FAILED),
        (errno.EMFILE, DumpFailedError, ExitCode.FAILED),
    ],
)
def test_errno_becomes_an_error_with_its_exit_status(number: int, kind: type[CorepipeError], code: ExitCode) -> None:
    error = translate_error(OSError(number, os.strerror(number)), 77, "smaps")
    assert type(error) is kind
    assert error.exit_code is code
    assert "77" in error.message


def test_a_pid_that_nobody_has_is_no_such_process() -> None:
    with pytest.raises(NoSuchProcessError):
        ProcDir((1 << 22) + 1)


def test_our_own_process_reads_back() -> None:
    handle = ProcessHandle(os.getpid())
    try:
        assert handle.alive()
        assert handle.stat().pid == handle.status().tgid == os.getpid()
        assert handle.status().uid == os.getuid()
        assert os.getpid() in handle.tids()
        regions = handle.regions()
        assert [r.start for r in regions] == sorted(r.start for r in regions)
        assert any(r.kind is RegionKind.STACK for r in regions)
        assert any(r.flags for r in regions)
        assert handle.readlink("exe") == os.readlink(b"/proc/self/exe")
        assert handle.readlink("no-such-link") == b""
        task = handle.task(os.getpid())
        assert task.stat().pid == os.getpid()
        task.close()
    finally:
        handle.close()
        handle.close()


def test_a_handle_never_tells_about_the_next_owner_of_a_pid() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        handle = ProcessHandle(pid)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not handle.alive()
        assert handle.stat().state == "Z"
    finally:
        os.waitpid(pid, 0)
    with pytest.raises(NoSuchProcessError):
        handle.read("stat")
    handle.close()


def test_available_memory_is_some() -> None:
    assert mem_available() > 0
