"""The core is true: every byte, every thread, every header, in each mode and through a pipe."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from ..support.checks import assert_still_stopped, assert_target_untouched
from ..support.cores import (
    NT_AUXV,
    NT_FILE,
    NT_PRPSINFO,
    NT_SIGINFO,
    Core,
    assert_same_as_memory,
    assert_well_formed,
    pattern,
)
from ..support.engine import run_corepipe
from ..support.machines import HOST_ELF
from ..support.proc import maps, tids
from ..support.readers import run_gdb
from ..support.targets import M32

pytestmark = pytest.mark.live
MODES = ("direct", "buffer", "snapshot")
FUNCTIONS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ELF_MACHINES = {(): HOST_ELF, M32: "EM_386"}


def modes_and_widths():
    """Each mode for a 64-bit program, and for a 32-bit one."""
    cells = [pytest.param(mode, (), id=mode) for mode in MODES]
    for mode in MODES:
        marks = [pytest.mark.needs("gcc -m32")]
        if mode != "buffer":
            marks.append(pytest.mark.tells("threads and targets", "32-bit program", mode))
        cells.append(pytest.param(mode, M32, marks=marks, id=f"{mode}-32-bit"))
    return pytest.mark.parametrize(("mode", "flags"), cells)


def assert_area_follows_its_formula(core: Core, start: int, length: int) -> None:
    """Every word of the pattern area is the one that belongs to its place."""
    step = 1 << 22
    for done in range(0, length, step):
        size = min(step, length - done)
        assert core.read(start + done, size) == pattern(size, done // 8), f"wrong bytes from offset {done:#x} on"


def assert_gdb_sees_nine_threads(program: Path, core: Path) -> None:
    reading = run_gdb(
        program, core, "info threads", "thread apply all bt", "print known_value", "print known_text", "print *state"
    )
    assert len(re.findall(r"^[* ] +\d+ +.*LWP \d+", reading.out, re.MULTILINE)) == 9
    traces = dict(re.findall(r"^Thread (\d+) \(.*?\n(.*?)(?=^Thread |\Z)", reading.out, re.MULTILINE | re.DOTALL))
    assert len(traces) == 9
    for name in FUNCTIONS:
        (trace,) = [trace for trace in traces.values() if f"in park_{name} " in trace]
        assert f"in thread_{name} " in trace
        assert "start_thread" in trace or re.search(r"in \?\? \(\) from \S*/libc\.so", trace)  # no symbols there
    (trace,) = [trace for trace in traces.values() if " beat_forever (" in trace]  # no "in" where a line begins
    assert "in main " in trace
    assert "$1 = 424242" in reading.out
    assert '$2 = "corepipe was here"' in reading.out


@modes_and_widths()
def test_every_byte_is_the_byte_of_the_stopped_process(spawn_target, tmp_path, mode, flags):
    target = spawn_target("nine", *((8 << 20,) if flags else ()), flags=flags)
    target.stop()
    before = target.fingerprint()
    path, report = tmp_path / "core", tmp_path / "report.json"

    outcome = run_corepipe(target.pid, "--mode", mode, "--report", report, output=path)

    assert_still_stopped(target, before)
    core = Core(path)
    assert_well_formed(core)
    assert core.machine == ELF_MACHINES[flags]
    compared = assert_same_as_memory(core, target.pid, target.number("rseq_offset"))
    assert compared >= target.number("area_bytes") >= (8 if flags else 64) << 20
    assert_area_follows_its_formula(core, target.number("area"), target.number("area_bytes"))
    told = outcome.report(report)
    assert told["bytes_written"] == told["bytes_planned"] == core.size == path.stat().st_size
    before = core.size - core.data_bytes - core.zero_bytes - core.tag_bytes
    assert before == (core.notes_offset + core.notes_bytes + 4095) // 4096 * 4096
    assert told["segments"] == len(core.segments)
    assert told["threads"] == 9
    assert told["mode"] == mode
    target.resume()


@pytest.mark.needs("gdb")
@modes_and_widths()
def test_gdb_finds_nine_threads_their_functions_and_variables_in_the_core_of_a_running_process(
    spawn_target, build_target, tmp_path, mode, flags
):
    target = spawn_target("nine", *((8 << 20,) if flags else ()), flags=flags)
    before = target.fingerprint()
    run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
    assert_target_untouched(target, before)
    assert_gdb_sees_nine_threads(build_target("nine", *flags), tmp_path / "core")
    core = Core(tmp_path / "core")
    assert_area_follows_its_formula(core, target.number("area"), target.number("area_bytes"))


@pytest.mark.needs("gdb", "zstd")
def test_the_core_comes_whole_through_a_pipe_of_compressors(spawn_target, build_target, tmp_path):
    target = spawn_target("nine")
    target.stop()
    path = tmp_path / "a core"
    run_corepipe(target.pid, "--pipe", f"zstd -q | zstd -q -d > '{path}'")
    core = Core(path)
    assert_well_formed(core)
    assert_same_as_memory(core, target.pid, target.number("rseq_offset"))
    assert_area_follows_its_formula(core, target.number("area"), target.number("area_bytes"))
    assert_gdb_sees_nine_threads(build_target("nine"), path)
    target.resume()


@pytest.mark.parametrize("mode", MODES)
def test_a_mapping_far_larger_than_any_buffer_is_right_at_every_place(spawn_target, tmp_path, mode):
    size = (96 << 20) + 3 * 4096  # an odd number of pages: no multiple of a buffer or a slice
    target = spawn_target("nine", size)
    run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
    assert_area_follows_its_formula(Core(tmp_path / "core"), target.number("area"), size)


def test_notes_tell_what_proc_tells(spawn_target, build_target, tmp_path):
    target = spawn_target("nine")
    run_corepipe(target.pid, output=tmp_path / "core")
    core = Core(tmp_path / "core")
    assert core.thread_ids == tids(target.pid)
    assert core.thread_ids[0] == target.pid
    assert core.note(NT_AUXV).data == Path(f"/proc/{target.pid}/auxv").read_bytes()
    assert core.note(NT_SIGINFO).data == bytes(128)
    process = core.note(NT_PRPSINFO).parsed
    assert process["pr_pid"] == target.pid
    assert process["pr_fname"].rstrip(b"\0") == b"nine"
    assert process["pr_psargs"].rstrip(b"\0") == str(build_target("nine")).encode()
    files = core.note(NT_FILE).parsed
    assert files["page_size"] == 4096
    told = [
        (entry["vm_start"], entry["vm_end"], name.decode())
        for entry, name in zip(files["Elf_Nt_File_Entry"], files["filename"], strict=True)
    ]
    assert told == [(start, end, path) for start, end, _, path in maps(target.pid) if path.startswith("/")]
    program = next(entry for entry, name in zip(files["Elf_Nt_File_Entry"], files["filename"], strict=True)
                   if name == str(build_target("nine")).encode() and entry["page_offset"])  # fmt: skip
    assert program["page_offset"] < 64, "NT_FILE counts offsets in pages"


def test_every_mapping_has_its_header_with_its_permissions(spawn_target, tmp_path):
    target = spawn_target("nine")
    run_corepipe(target.pid, output=tmp_path / "core")
    core = Core(tmp_path / "core")
    covered = {}
    for start, end, permissions, _ in maps(target.pid):
        flags = sum(bit for letter, bit in zip(permissions, (4, 2, 1), strict=False) if letter != "-")
        position = start
        while position < end:
            segment = core.segment_at(position)
            assert segment.address == position
            assert segment.flags == flags
            position += segment.memory_bytes
            covered[segment.address] = segment
        assert position == end
    assert len(covered) == len(core.segments)


def test_registers_of_a_stopped_process_are_the_same_in_every_mode(spawn_target, tmp_path):
    target = spawn_target("nine")
    target.stop()
    cores = []
    for mode in MODES:
        run_corepipe(target.pid, "--mode", mode, output=tmp_path / mode)
        cores.append(Core(tmp_path / mode))
    for one, other in itertools.pairwise(cores):
        assert [note.kind for note in one.notes] == [note.kind for note in other.notes]
        assert one.registers == other.registers
    target.resume()


def test_the_program_finds_stdout_the_only_place_of_data(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    outcome = run_corepipe(target.pid, "--pipe", f"cat > {tmp_path}/core", output=tmp_path / "stdout")
    assert (tmp_path / "stdout").read_bytes() == b""
    assert f"process {target.pid} (nine) stood still for" in outcome.stderr
    quiet = run_corepipe(target.pid, "-q", output=tmp_path / "core")
    assert quiet.stderr == ""
