"""What only a 64-bit Arm machine has is in the core: as in the kernel's own core, and as the target put it there."""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support import proc
from ..support.cores import (
    NT_AUXV,
    NT_FILE,
    NT_FPREGSET,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_SIGINFO,
    Core,
    Note,
    assert_well_formed,
    pattern,
)
from ..support.engine import run_corepipe
from ..support.kernel_core import end_with_kernel_core
from ..support.machines import arm_only
from ..support.readers import run_gdb, run_reader
from ..support.tables import ARM_TABLE
from ..support.targets import start_target
from ..support.waiting import eventually

pytestmark = [pytest.mark.live, arm_only, pytest.mark.needs("gdb")]
MODES = ("direct", "buffer", "snapshot")
OF_THE_PROCESS = (NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE)
NT_ARM_SVE, NT_ARM_PAC_MASK = 0x405, 0x406
TAGGED_BYTES, GRANULE_BYTES = 4 * 4096, 16
READ = 63
SLEEPERS = ("one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Armed:
    """Cores of one process, targets/armed.c, which SIGSTOP held while they were taken."""

    program: Path
    facts: dict[str, str]
    folder: Path

    def number(self, name: str) -> int:
        return int(self.facts[name], 0) if self.facts[name] != "(nil)" else 0

    def core(self, name: str) -> Core:
        return Core(self.folder / name)

    @property
    def kernel(self) -> Core:
        if not (self.folder / "kernel").exists():
            pytest.skip("core_pattern cannot be set here, so there is no core of the kernel to compare with")
        return self.core("kernel")


def in_call(pid: int, number: int) -> int:
    """How many threads of a process sleep in that system call."""
    texts = (Path(f"/proc/{pid}/task/{tid}/syscall").read_text() for tid in proc.tids(pid))
    return sum(text.split()[0] == str(number) for text in texts)


@pytest.fixture(scope="module")
def armed(build_target, tmp_path_factory) -> Armed:
    folder = tmp_path_factory.mktemp("armed")
    program = build_target("armed", "-mbranch-protection=standard")
    with start_target([program], folder, signals="default") as target:
        eventually("the sleepers are in read(2)", lambda: in_call(target.pid, READ) == len(SLEEPERS))
        target.stop()
        for mode in MODES:
            run_corepipe(target.pid, "--mode", mode, output=folder / mode)
        end_with_kernel_core(target, folder / "kernel", asleep=len(SLEEPERS))
    return Armed(program, target.facts, folder)


def tells(row: str):
    """Modes, as parameters of a test that tells of a row in the README."""
    return pytest.mark.parametrize(
        "mode", [pytest.param(mode, marks=pytest.mark.tells(ARM_TABLE, row, mode)) for mode in MODES]
    )


def by_thread(core: Core) -> dict[int, dict[int, Note]]:
    """Thread id -> type of note -> note, in the order of the core."""
    threads: list[dict[int, Note]] = []
    for note in core.notes:
        if note.type == NT_PRSTATUS:
            threads.append({})
        if note.type not in OF_THE_PROCESS:
            threads[-1][note.type] = note
    return dict(zip(core.thread_ids, threads, strict=True))


@tells("owners, types, sizes and order of all notes are the kernel's")
def test_notes_have_the_kernels_order_owners_types_and_sizes(armed, mode):
    """Thread by thread: the kernel writes them as they come to their end, the one that took the signal first."""
    core, kernel = armed.core(mode), armed.kernel
    assert_well_formed(core)
    assert [note.type for note in core.notes] == [note.type for note in kernel.notes]
    kinds = [{tid: [note.kind for note in notes.values()] for tid, notes in by_thread(each).items()}
             for each in (core, kernel)]  # fmt: skip
    assert kinds[0] == kinds[1]
    assert len(core.thread_ids) == 9


@tells("registers of threads that compute and that sleep are the kernel's, bit for bit")
def test_notes_of_every_thread_but_the_first_hold_the_kernels_bytes(armed, mode):
    """And the one that took the signal which ended the process. Before pr_reg: that signal, and times."""
    ours, kernels = by_thread(armed.core(mode)), by_thread(armed.kernel)
    for tid in set(ours) - {*armed.core(mode).thread_ids[:1], *armed.kernel.thread_ids[:1]}:
        assert ours[tid].keys() == kernels[tid].keys()
        for kind, note in ours[tid].items():
            start = armed.kernel.registers_offset if kind == NT_PRSTATUS else 0
            assert note.data[start:] == kernels[tid][kind].data[start:], f"note {kind:#x} of thread {tid}"


@tells("SVE: z0 to z31, p0 to p15 and FFR, of any length")
def test_sve_registers_are_what_the_target_put_there(armed, mode):
    size = armed.number("vector_bytes")
    if not size:
        pytest.skip("this machine has no SVE")
    data = by_thread(armed.core(mode))[armed.number("sve")][NT_ARM_SVE].data
    whole, _, length, _, flags, _ = struct.unpack_from("<IIHHHH", data)
    assert (whole, length, flags & 1) == (len(data), size, 1)
    predicate = size // 8
    z, rest = data[16 : 16 + 32 * size], data[16 + 32 * size :]
    assert z == pattern(32 * size)
    assert rest[: 16 * predicate][predicate:] == pattern(16 * predicate)[predicate:], "p1 to p15"
    assert rest[16 * predicate : 17 * predicate] == b"\xff" * (size // 16) + bytes(predicate - size // 16), "FFR"


def tag_of(granule: int) -> int:
    """What targets/armed.c gives it."""
    return 3 + granule // 256 * 2 + granule % 2


@tells("memory tags (MTE)")
def test_memory_tags_are_what_the_target_put_there_and_where_the_kernel_has_them(armed, mode):
    """The kernel's are looked at here and there: qemu 7.2 loads 8 bits of 64 by LDGM, as the kernel reads them."""
    core = armed.core(mode)
    shape = [(tags.address, tags.memory_bytes, tags.file_bytes) for tags in core.tags]
    assert shape == [(tags.address, tags.memory_bytes, tags.file_bytes) for tags in armed.kernel.tags]
    start = armed.number("tagged")
    if not start:
        assert shape == []
        pytest.skip("this machine has no memory tags")
    granules = TAGGED_BYTES // GRANULE_BYTES
    assert core.memory_tags(start, granules) == bytes(tag_of(granule) for granule in range(granules))
    assert core.memory_tags(start, granules)[::16] == armed.kernel.memory_tags(start, granules)[::16]


@functools.lru_cache(maxsize=8)
def gdb_answers(armed_program: Path, core: Path, commands: tuple[str, ...]) -> list[str]:
    """What gdb prints for each command."""
    words = [word for command in commands for word in ("echo \\n====\\n", command)]
    return [
        part.strip() for part in run_gdb(armed_program, core, "set print elements 0", *words).out.split("\n====\n")[1:]
    ]


def numbers(answer: str) -> list[int]:
    """The numbers of an answer to print/x."""
    return [int(word, 16) for word in re.findall(r"0x[0-9a-f]+", answer.partition("=")[2])]


def words(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 8}Q", data))


@tells("gdb shows registers as the target put them there")
def test_gdb_shows_the_registers_that_the_target_put_there(armed, mode):
    core = armed.core(mode)
    thread = core.thread_ids.index(armed.number("neon")) + 1
    commands = [f"thread {thread}", "print/x $fpcr", "print/x $fpsr"]
    commands += [f"print/x $v{index}.q.u" for index in range(32)]
    commands += [f"print/x $x{index}" for index in range(31)]
    _, fpcr, fpsr, *rest = gdb_answers(armed.program, core.path, tuple(commands))
    assert (numbers(fpcr), numbers(fpsr)) == ([1 << 23], [1 << 27])
    for index, answer in enumerate(rest[:32]):
        assert numbers(answer) == [int.from_bytes(pattern(16, 2 * index), "little")], f"v{index}"
    assert [numbers(answer) for answer in rest[32:]] == [[word] for word in words(pattern(31 * 8, 64))]


@tells("gdb shows SVE registers as the target put them there")
def test_gdb_shows_the_sve_registers_that_the_target_put_there(armed, mode):
    size = armed.number("vector_bytes")
    if not size:
        pytest.skip("this machine has no SVE")
    core = armed.core(mode)
    thread = core.thread_ids.index(armed.number("sve")) + 1
    commands = [f"thread {thread}", "print/x $vg", *(f"print/x $z{index}.d.u" for index in range(32)), "print/x $p1"]
    _, granules, *vectors, predicate = gdb_answers(armed.program, core.path, tuple(commands))
    assert numbers(granules) == [size // 8]
    for index, answer in enumerate(vectors):
        assert numbers(answer) == words(pattern(size, index * size // 8)), f"z{index}"
    assert bytes(numbers(predicate)) == pattern(2 * size // 8)[size // 8 :]


@tells("gdb knows the mask of signed pointers (PAC)")
def test_gdb_says_of_the_masks_what_it_says_of_the_kernels_core(armed, mode):
    core = armed.core(mode)
    if not core.notes_of(NT_ARM_PAC_MASK):
        assert not armed.kernel.notes_of(NT_ARM_PAC_MASK)
        pytest.skip("this machine signs no pointers")
    commands = ("thread 2", "print/x $pauth_dmask", "print/x $pauth_cmask")
    answers = gdb_answers(armed.program, core.path, commands)
    assert answers[1:] == gdb_answers(armed.program, armed.kernel.path, commands)[1:]
    masks = words(core.notes_of(NT_ARM_PAC_MASK)[1].data)
    assert [numbers(answer) for answer in answers[1:]] == [[mask] for mask in masks]
    assert all(masks)


@tells("gdb shows memory tags")
def test_gdb_shows_the_memory_tags_that_the_target_put_there(armed, mode):
    start = armed.number("tagged")
    if not start:
        pytest.skip("this machine has no memory tags")
    granules = (0, 1, 17, 255, TAGGED_BYTES // GRANULE_BYTES - 1)
    commands = tuple(f"memory-tag print-allocation-tag (char *){start + 16 * granule:#x}" for granule in granules)
    answers = gdb_answers(armed.program, armed.core(mode).path, commands)
    assert [numbers(answer) for answer in answers] == [[tag_of(granule)] for granule in granules]


@tells("gdb unwinds over signed return addresses")
def test_gdb_unwinds_threads_whose_return_addresses_are_signed(armed, mode):
    reading = run_gdb(armed.program, armed.core(mode).path, "thread apply all bt")
    for name in SLEEPERS:
        assert re.search(rf"in sleep_{name} .*\n.* in signed_{name} ", reading.out), reading.out
    assert reading.out.count(" start_thread ") == 8 or not reading.out.count(" start_thread ")
    core = armed.core(mode)
    if core.notes_of(NT_ARM_PAC_MASK):
        (mask, *_) = words(core.notes_of(NT_ARM_PAC_MASK)[1].data[8:])
        thread = core.thread_ids.index(armed.number("one")) + 1
        frame = f"print/x *(unsigned long *)($fp + 8)"  # noqa: F541
        (*_, saved) = gdb_answers(armed.program, core.path, (f"thread {thread}", "frame function sleep_one", frame))
        assert numbers(saved)[0] & mask, "the target did sign it"


@pytest.mark.needs("eu-stack")
@tells("eu-stack unwinds over signed return addresses as in the kernel's core")
def test_eu_stack_unwinds_as_in_the_kernels_core(armed, mode):
    def traces(name: str) -> dict[str, list[str]]:
        out = run_reader("eu-stack", "--core", armed.folder / name, "-e", armed.program, check=False).out
        found = re.findall(r"^TID (\d+):\n((?:#.*\n?)*)", out, re.MULTILINE)
        return {tid: re.findall(r"^#\d+ +0x[0-9a-f]+ +(\S*)", frames, re.MULTILINE) for tid, frames in found}

    ours, kernels = traces(mode), traces("kernel") if armed.kernel else {}
    ran_again = {str(armed.core(mode).thread_ids[0]), str(armed.kernel.thread_ids[0])}
    assert {*ours} == {*kernels}
    for tid in {*ours} - ran_again:
        assert ours[tid] == kernels[tid]
    functions = [frame for frames in ours.values() for frame in frames]
    assert {f"sleep_{name}" for name in SLEEPERS} <= {*functions}


def test_the_floating_point_set_is_that_of_the_vectors(armed):
    """NT_FPREGSET and the first 128 bits of each SVE register are the same registers."""
    size = armed.number("vector_bytes")
    if not size:
        pytest.skip("this machine has no SVE")
    for mode in MODES:
        note = by_thread(armed.core(mode))[armed.number("sve")][NT_FPREGSET]
        assert note.data[:512] == b"".join(pattern(16, index * size // 8) for index in range(32))
