"""HotSpot's serviceability agent says of corepipe's core what it says of gcore's of the same held-still JVM.

By default each kind of heap and each JDK once; with COREPIPE_SOAK every kind of heap on every JDK, in both modes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support import proc
from ..support.cores import Core
from ..support.engine import run_corepipe
from ..support.hprof import count_records
from ..support.readers import Reading, run_reader
from ..support.targets import SOURCES, Target, start_target

pytestmark = [pytest.mark.live, pytest.mark.needs("jhsdb", "javac")]
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))
MODES = ("snapshot", "direct")
COLLECTORS = ("G1", "Parallel", "Serial")
COMMANDS = ("jstack", "jmap --histo", "jmap --binaryheap")
LIVE_MIB = 1
SLACK = 1.05
"""A core may have that many times the bytes that a JVM has in memory and in swap."""
SIZE_ROW = "core of a JVM with {} MiB of objects and -Xmx8g is at most 1.05 x (RSS + swap)"


@dataclass(frozen=True)
class Jdk:
    """bin: the folder with its programs."""

    version: str
    bin: Path


def all_jdks() -> list[Jdk]:
    """Every JDK with a jhsdb on this machine, the oldest first."""
    programs = [Path(found) for found in [shutil.which("jhsdb")] if found]
    programs += Path("/usr/lib/jvm").glob("*/bin/jhsdb")
    found = {}
    for folder in {Path(os.path.realpath(program)).parent for program in programs}:
        version = re.search(r'JAVA_VERSION="(\d+)', (folder.parent / "release").read_text())
        if version and (folder / "java").exists():
            found[version[1]] = Jdk(version[1], folder)
    return sorted(found.values(), key=lambda jdk: int(jdk.version))


JDKS = all_jdks()
JVMS = [(jdk, collector) for jdk in JDKS for collector in COLLECTORS]
CHOSEN = JVMS if SOAK or not JDKS else [(JDKS[i % len(JDKS)], kind) for i, kind in enumerate(COLLECTORS)]


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Heap.java, compiled by the oldest JDK."""
    folder = tmp_path_factory.mktemp("classes")
    subprocess.run([JDKS[0].bin / "javac", "-d", folder, SOURCES / "Heap.java"], check=True)
    return folder


def started(jdk: Jdk, collector: str, classes: Path, folder: Path, mib: int, *options: str) -> Target:
    command = [
        jdk.bin / "java",
        f"-XX:+Use{collector}GC",
        "-XX:-UsePerfData",
        *options,
        "-cp",
        classes,
        "Heap",
        str(mib),
    ]
    return start_target(command, folder, shared_state=False)


@dataclass(frozen=True)
class Held:
    """Cores of one JVM at one instant: gcore's, and corepipe's in some modes."""

    jdk: Jdk
    collector: str
    modes: tuple[str, ...]
    folder: Path

    def agent(self, command: str, core: str) -> Reading:
        """Run jhsdb on one of the cores."""
        words = ["-J-XX:TieredStopAtLevel=1", *command.split()]  # half the CPU time
        if "--binaryheap" in words:
            words += ["--dumpfile", str(self.dump(core))]
        return run_reader(self.jdk.bin / "jhsdb", *words, "--core", self.folder / core, "--exe", self.jdk.bin / "java")

    def dump(self, core: str) -> Path:
        return self.folder / f"{core}.hprof"


@pytest.fixture(scope="module")
def held(request, classes, tmp_path_factory) -> Iterator[Held]:
    """corepipe's cores and gcore's of a JVM of that kind."""
    jdk, collector = request.param
    modes = MODES if SOAK else (MODES[CHOSEN.index(request.param) % len(MODES)],)
    folder = tmp_path_factory.mktemp("jvm")
    with started(jdk, collector, classes, folder, LIVE_MIB, "-Xmx200m", "-Xmn100m") as target:
        target.stop()
        for mode in modes:
            run_corepipe(target.pid, "--mode", mode, output=folder / mode)
        run_reader(
            "gcore", "-o", folder / "gcore", target.pid
        )  # last: it reads the main stack to its end, which touches it
        (folder / f"gcore.{target.pid}").rename(folder / "gcore")
    yield Held(jdk, collector, modes, folder)
    shutil.rmtree(folder)


@pytest.mark.needs("gcore")
@pytest.mark.parametrize("held", CHOSEN, indirect=True, ids=lambda jvm: f"{jvm[0].version}-{jvm[1]}")
@pytest.mark.parametrize("command", COMMANDS)
def test_jhsdb_says_what_it_says_of_gcores_core(held, command, tell, request):
    request.node.add_marker(pytest.mark.tells("readers", f"jhsdb `{command}`", f"Java {held.jdk.version}"))
    tell(held.collector)

    def answer(core: str) -> tuple[str, str]:
        reading = held.agent(command, core)
        text = re.sub(r"^Heap traversal took .*\n", "", reading.out, flags=re.MULTILINE)
        return text.replace(str(held.folder / core), "CORE"), re.sub(r"took .* seconds", "", reading.err)

    with ThreadPoolExecutor(2) as pool:
        gcores, *answers = pool.map(answer, ("gcore", *held.modes))
    for mine in answers:
        assert mine == gcores
        assert_filled(held, command, mine[0])


def assert_filled(held: Held, command: str, out: str) -> None:
    """What is equal is not equally empty."""
    if command == "jstack":
        assert "Heap.main(java.lang.String[])" in out
    if command == "jmap --histo":
        assert re.search(r"^\s*\d+:\s+\d+\s+\d{7}\s+byte\[\]$", out, re.MULTILINE)
    if command == "jmap --binaryheap":
        whole = count_records(held.dump("gcore"))
        assert whole["primitive array bytes"] > LIVE_MIB << 20
        assert whole["heap record 0x21"] > 1000
        for mode in held.modes:
            assert count_records(held.dump(mode)) == whole
            assert held.dump(mode).stat().st_size == held.dump("gcore").stat().st_size


def of_any_size():
    """(JVM, MiB of its heap in use): one small one and a larger one by default."""
    jvms = [(jvm, mib) for jvm in JVMS for mib in (0, 300)]
    return jvms if SOAK else [*jvms[:1], *jvms[-1:]]


@pytest.mark.parametrize(
    ("jvm", "mib"),
    [
        pytest.param(
            jvm,
            mib,
            id=f"{jvm[0].version}-{jvm[1]}-{mib}",
            marks=pytest.mark.tells("readers", SIZE_ROW.format(mib or "no"), f"Java {jvm[0].version}"),
        )
        for jvm, mib in of_any_size()
    ],
)
def test_the_core_of_a_jvm_is_no_larger_than_what_it_has_in_memory(classes, tmp_path, jvm, mib, tell):
    tell(jvm[1])
    with started(*jvm, classes, tmp_path, mib, "-Xms64m", "-Xmx8g") as target:
        target.stop()
        used = sum(int(proc.status_field(target.pid, name).split()[0]) * 1024 for name in ("VmRSS", "VmSwap"))
        run_corepipe(target.pid, "--mode", "snapshot", output=tmp_path / "core")
    core = Core(tmp_path / "core")
    assert mib << 20 < core.size <= SLACK * used
    assert len(core.segments) < 65_534, "more of them jhsdb cannot read"
    print(f"{jvm[0].version} {jvm[1]} {mib} MiB: {core.size / used:.3f} of {used >> 20} MiB, {len(core.segments)}")
    core.path.unlink()
