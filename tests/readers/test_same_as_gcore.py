"""Every reader of native cores says of corepipe's core what it says of gcore's of the same held-still process.

And it complains of nothing that it does not complain of in the kernel's own core.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import pytest

from ..support.cores import NT_AUXV, NT_FILE, NT_FPREGSET, NT_PRSTATUS, Core
from ..support.machines import HOST
from ..support.readers import Reading, run_gdb, run_reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.parametrize("cores", [pytest.param((), id="64-bit")], indirect=True, scope="session"),
]
MODES = {"direct": "direct", "snapshot": "ours"}
GDB_COMMANDS = (
    "info threads",
    "thread apply all -q bt full",
    "thread apply all -q info all-registers",
    "info auxv",
    "info proc mappings",
    "info sharedlibrary",
    "x/4xb &known_value",
)
LLDB_COMMANDS = (
    "thread list",
    "thread backtrace all",
    "register read --all",
    "image list",
    "target variable known_value known_text",
)
ALONE = {
    "eu-stack": ("eu-stack", "--core"),
    "eu-unstrip -n": ("eu-unstrip", "-n", "--core"),
}
MXCSR_MASK = slice(28, 32)
"""In struct user_fpregs_struct of x86. gcore writes zeros there."""


def told(row: str):
    """Modes, as parameters of a test that tells of a row in the README."""
    marks = pytest.mark.tells("readers", row, "C")
    return pytest.mark.parametrize("mode", [pytest.param(mode, marks=marks) for mode in MODES])


def rows(commands, reader: str):
    """Commands and modes, as parameters of a test that tells of a row for each command."""
    return pytest.mark.parametrize(
        ("command", "mode"),
        [
            pytest.param(command, mode, marks=pytest.mark.tells("readers", f"{reader} `{command}`".strip(), "C"))
            for command in commands
            for mode in MODES
        ],
    )


def ours(cores, mode: str) -> Path:
    return getattr(cores, MODES[mode])


@functools.lru_cache(maxsize=8)
def gdb_answers(program: Path, core: Path) -> dict[str, str]:
    """Command -> what gdb prints, its warnings left out."""
    words = [word for number, command in enumerate(GDB_COMMANDS) for word in (f"echo \\n=={number}==\\n", command)]
    out = re.sub(r"^warning: .*\n", "", run_gdb(program, core, *words).out, flags=re.MULTILINE)
    parts = re.split(r"^==(\d+)==\n", out, flags=re.MULTILINE)
    return {GDB_COMMANDS[int(number)]: text.strip() for number, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.needs("gdb")
@rows(GDB_COMMANDS, "gdb")
def test_gdb_says_what_it_says_of_gcores_core(cores, command, mode):
    answer = gdb_answers(cores.program, ours(cores, mode))[command]
    assert answer
    assert answer == gdb_answers(cores.program, cores.gcore)[command]


def test_gdb_was_asked_for_all_registers_of_nine_threads(cores):
    registers = gdb_answers(cores.program, cores.ours)["thread apply all -q info all-registers"]
    for name in ("pc", "fpcr", "v31", "x28") if HOST == "aarch64" else ("rip", "mxcsr", "st7", "r15"):
        assert len(re.findall(rf"^{name} ", registers, re.MULTILINE)) == 9, name


@pytest.mark.needs("gdb")
@told("gdb `print $_siginfo`")
def test_gdb_reads_a_siginfo_that_names_no_signal(cores, mode):
    """gcore's core has none, so the kernel's size is the measure: see test_kernel_core."""
    reading = run_gdb(cores.program, ours(cores, mode), "print $_siginfo.si_signo", "print sizeof($_siginfo)")
    assert reading.out.splitlines()[-2:] == ["$1 = 0", "$2 = 128"]


@functools.lru_cache(maxsize=8)
def lldb_reading(program: Path, core: Path, *commands: str) -> Reading:
    words = [word for command in commands for word in ("-o", command)]
    return run_reader("lldb", "--no-lldbinit", "--batch", *words, "-c", core, program)


@pytest.mark.needs("lldb")
@told("lldb, threads, frames, registers, images, variables")
def test_lldb_says_what_it_says_of_gcores_core(cores, mode):
    def answer(core: Path) -> str:
        reading = lldb_reading(cores.program, core, *LLDB_COMMANDS)
        assert "error:" not in reading.out + reading.err
        return re.sub(r"\n *mxcsrmask = .*", "", reading.out.replace(str(core), "CORE"))

    assert answer(ours(cores, mode)).count("thread #") == 18
    assert answer(ours(cores, mode)) == answer(cores.gcore)


@pytest.mark.needs("eu-stack", "eu-unstrip")
@rows(ALONE, "")
def test_elfutils_say_what_they_say_of_gcores_core(cores, command, mode):
    mine, gcores = (run_reader(*ALONE[command], core) for core in (ours(cores, mode), cores.gcore))
    assert len(mine.out.splitlines()) >= 4
    assert mine.out.replace(str(ours(cores, mode)), "CORE") == gcores.out.replace(str(cores.gcore), "CORE")
    assert mine.err == gcores.err


@pytest.mark.needs("eu-readelf")
@told("eu-readelf -n")
def test_eu_readelf_prints_the_auxv_and_the_files_of_gcores_core(cores, mode):
    def part(core: Path, name: str) -> str:
        notes = run_reader("eu-readelf", "-n", core).out
        (found,) = re.findall(rf"^  CORE +\d+  {name}\n(.*?)(?=^  \w|^\S|\Z)", notes, re.MULTILINE | re.DOTALL)
        return found

    for name in ("AUXV", "FILE"):
        assert part(ours(cores, mode), name) == part(cores.gcore, name)


def files(core: Core) -> list[tuple[int, int, int, bytes]]:
    """(start, end, offset, path) of each mapped file; gcore counts offsets in bytes."""
    note = core.note(NT_FILE).parsed
    entries = zip(note["Elf_Nt_File_Entry"], note["filename"], strict=True)
    return [
        (entry["vm_start"], entry["vm_end"], entry["page_offset"] * note["page_size"], path) for entry, path in entries
    ]


@told("pyelftools, registers, auxv, files")
def test_pyelftools_reads_the_threads_registers_auxv_and_files_of_gcores_core(cores, mode):
    mine, gcores = Core(ours(cores, mode)), Core(cores.gcore)
    assert set(mine.thread_ids) == set(gcores.thread_ids)
    assert mine.note(NT_AUXV).data == gcores.note(NT_AUXV).data
    assert files(mine) == files(gcores)

    def registers(core: Core, kind: int, place: slice) -> dict[int, bytes]:
        return dict(zip(core.thread_ids, (note.data[place] for note in core.notes_of(kind)), strict=True))

    whole = mine.layout.registers_offset
    for kind, place in (
        (NT_PRSTATUS, slice(whole, whole + mine.layout.registers_bytes)),
        (NT_FPREGSET, slice(0, MXCSR_MASK.start)),
        (NT_FPREGSET, slice(MXCSR_MASK.stop, 512)),
    ):
        assert registers(mine, kind, place) == registers(gcores, kind, place)


WARNING_READERS = {
    "lldb": ("lldb", "--no-lldbinit", "--batch", "-o", "thread backtrace all", "-c"),
    "readelf": ("readelf", "-hlSnW"),
    "eu-readelf": ("eu-readelf", "-hlSn"),
    "eu-stack": ("eu-stack", "--core"),
    "eu-unstrip": ("eu-unstrip", "-n", "--core"),
}


@pytest.mark.parametrize(
    ("reader", "mode"),
    [
        pytest.param(
            reader,
            mode,
            marks=[
                pytest.mark.needs(reader),
                pytest.mark.tells("readers", f"{reader}, no warning that the kernel's core does not get", "C"),
            ],
        )
        for reader in WARNING_READERS
        for mode in MODES
    ],
)
def test_a_reader_complains_of_nothing_that_it_does_not_complain_of_in_the_kernels_core(
    cores, kernel_core, reader, mode
):
    def complaints(core: Path) -> set[str]:
        reading = run_reader(*WARNING_READERS[reader], core)
        lines = [*reading.err.splitlines(), *reading.warnings]
        return {re.sub(r"/\S+|0x[0-9a-f]+|\d+", "…", line) for line in lines}

    assert shutil.which(reader)
    assert complaints(ours(cores, mode)) <= complaints(kernel_core)
