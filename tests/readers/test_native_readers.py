"""Readers of native cores: each opens corepipe's core and finds in it what it finds in gcore's."""

from __future__ import annotations

import re

import pytest

from ..support.cores import Core
from ..support.readers import run_gdb, run_reader

pytestmark = pytest.mark.live
FUNCTIONS = [f"park_{name}" for name in ("one", "two", "three", "four", "five", "six", "seven", "eight")]

LAST_REGISTERS = {
    "EM_X86_64": ("rip", "st7", "[xyz]mm15"),
    "EM_386": ("eip", "st7", "[xyz]mm7"),
    "EM_AARCH64": ("pc", "x28", "v31"),
}
LOADERS = {
    "EM_X86_64": ("linux-vdso.so.1", "ld-linux-x86-64.so.2"),
    "EM_386": ("linux-gate.so.1", "ld-linux.so.2"),
    "EM_AARCH64": ("linux-vdso.so.1",),  # elfutils 0.188 misses the loader, in gcore's core too
}


def traces_by_thread(program, core) -> dict[str, str]:
    """LWP -> gdb's backtrace with locals."""
    out = re.sub(r"^warning: .*\n", "", run_gdb(program, core, "thread apply all bt full").out, flags=re.MULTILINE)
    found = re.findall(r"^Thread \d+ \(.*?LWP (\d+)\)\):\n(.*?)(?=^Thread |\Z)", out, re.MULTILINE | re.DOTALL)
    return {lwp: trace.strip() for lwp, trace in found}


@pytest.mark.needs("gdb")
def test_gdb_unwinds_every_thread_with_its_locals_as_from_gcores_core(cores):
    ours = traces_by_thread(cores.program, cores.ours)
    assert len(ours) == 9
    assert ours == traces_by_thread(cores.program, cores.gcore)


@pytest.mark.needs("gdb")
def test_gdb_knows_registers_signals_and_libraries(cores):
    commands = ("info registers", "info sharedlibrary", "print $_siginfo.si_signo", "info proc mappings", "info auxv")
    ours = run_gdb(cores.program, cores.ours, *commands)
    assert "$1 = 0" in ours.out
    assert re.search(r"Yes .*libc\.so", ours.out)
    assert "AT_SYSINFO_EHDR" in ours.out
    assert str(cores.program) in ours.out


@pytest.mark.needs("gdb")
def test_gdb_shows_all_registers_of_every_thread_as_from_gcores_core(cores):
    def shown(core):
        out = run_gdb(cores.program, core, "thread apply all info all-registers").out
        return re.findall(r"^(?:Thread .*LWP \d+.*|\w+ +[0-9{<-].*)$", out, re.MULTILINE)

    ours = shown(cores.ours)
    assert len([line for line in ours if line.startswith("Thread ")]) == 9
    for name in LAST_REGISTERS[Core(cores.ours).machine]:
        assert len([line for line in ours if re.fullmatch(name, line.split()[0])]) == 9, name
    assert ours == shown(cores.gcore)


@pytest.mark.needs("lldb")
def test_lldb_unwinds_every_thread_and_prints_a_global(cores):
    reading = run_reader(
        "lldb", "--no-lldbinit", "--batch", "-o", "thread backtrace all", "-o", "target variable known_value", "-c",
        cores.ours, cores.program,
    )  # fmt: skip
    assert reading.out.count("* thread #") + reading.out.count("  thread #") == 9
    if cores.wide:  # lldb 14 cannot unwind the 32-bit vDSO, in any core
        for function in FUNCTIONS:
            assert f"`{function}" in reading.out
    assert "known_value = 424242" in reading.out
    assert "error:" not in reading.out + reading.err


@pytest.mark.needs("eu-readelf")
def test_eu_readelf_reads_all_notes_and_headers(cores):
    notes = run_reader("eu-readelf", "-n", cores.ours)
    assert notes.err == ""
    assert notes.out.count(" PRSTATUS") == 9
    assert f"fname: nine" in notes.out  # noqa: F541
    assert str(cores.program) in notes.out
    headers = run_reader("eu-readelf", "-l", cores.ours)
    assert headers.err == ""
    assert headers.out.count("  LOAD ") == len(Core(cores.ours).segments)


@pytest.mark.needs("eu-stack")
def test_eu_stack_unwinds_every_thread(cores):
    reading = run_reader("eu-stack", "--core", cores.ours, "-e", cores.program)
    assert reading.out.count("\nTID ") + reading.out.startswith("TID ") == 9
    for function in (*FUNCTIONS, "beat_forever", "main"):
        assert re.search(rf" {function}$", reading.out, re.MULTILINE), function


@pytest.mark.needs("eu-stack")
def test_eu_stack_finds_the_binaries_by_the_core_alone(cores):
    reading = run_reader("eu-stack", "--core", cores.ours)
    for function in (*FUNCTIONS, "main"):
        assert re.search(rf" {function}$", reading.out, re.MULTILINE), function


@pytest.mark.needs("eu-unstrip")
def test_eu_unstrip_lists_the_modules_with_the_build_ids_that_gcores_core_gives(cores):
    def modules(core):
        lines = run_reader("eu-unstrip", "-n", "--core", core).out.splitlines()
        return {line.split()[-1]: line.split()[1] for line in lines}

    ours = modules(cores.ours)
    assert {str(cores.program), "libc.so.6", *LOADERS[Core(cores.ours).machine]} <= set(ours)
    assert all(re.fullmatch(r"[0-9a-f]{40}@0x[0-9a-f]+", build_id) for build_id in ours.values())
    assert ours == modules(cores.gcore)


@pytest.mark.needs("readelf")
def test_binutils_readelf_has_nothing_to_complain_of(cores):
    reading = run_reader("readelf", "-h", "-l", "-n", "-W", cores.ours)
    assert reading.err == ""
    assert "CORE (Core file)" in reading.out
    assert reading.out.count("NT_PRSTATUS") == 9
    assert reading.out.count("  LOAD ") == len(Core(cores.ours).segments)


@pytest.mark.needs("gdb", "eu-stack")
def test_the_preset_stacks_is_enough_for_every_backtrace(spawn_target, build_target, tmp_path):
    from ..support.engine import run_corepipe

    target = spawn_target("nine")
    run_corepipe(target.pid, "--preset", "stacks", output=tmp_path / "core")
    program = build_target("nine")
    reading = run_gdb(program, tmp_path / "core", "thread apply all bt", "print known_value")
    stacks = run_reader("eu-stack", "--core", tmp_path / "core", "-e", program)
    for function in FUNCTIONS:
        assert f"in {function} " in reading.out
        assert re.search(rf" {function}$", stacks.out, re.MULTILINE)
    assert "$1 = 424242" in reading.out
