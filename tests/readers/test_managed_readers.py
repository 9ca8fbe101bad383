"""Readers of managed runtimes: pystack for Python, HotSpot's serviceability agent for a JVM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ..support.checks import assert_running, assert_target_untouched
from ..support.engine import run_corepipe
from ..support.readers import run_reader
from ..support.targets import SOURCES, start_target

pytestmark = pytest.mark.live
MODES = ("direct", "buffer")


@pytest.mark.needs("pystack")
@pytest.mark.parametrize("mode", MODES)
def test_pystack_shows_the_python_functions_of_every_thread(tmp_path, mode):
    python = os.path.realpath(sys.executable)
    with start_target([python, SOURCES / "held.py"], tmp_path, shared_state=False) as target:
        before = target.fingerprint()
        run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
        assert_target_untouched(target, before)
    pystack = Path(sysconfig.get_path("scripts")) / "pystack"
    reading = run_reader(pystack if pystack.exists() else "pystack", "core", tmp_path / "core", python)
    for function in ("main_waits", "held_in_alpha", "held_in_beta"):
        assert re.search(rf", in {function}$", reading.out, re.MULTILINE), reading.out
    assert len(re.findall(r", in innermost$", reading.out, re.MULTILINE)) == 2
    assert reading.out.count("Traceback for thread") == 3
    assert "on demand" in reading.out or "signal" not in reading.out.lower()


@pytest.fixture(scope="module")
def jdk() -> Path:
    """The folder with the programs of the JDK that jhsdb belongs to."""
    return Path(os.path.realpath(shutil.which("jhsdb") or "")).parent


@pytest.fixture(scope="module")
def jvm(jdk, tmp_path_factory):
    """A JVM with known threads and objects."""
    if shutil.which("jhsdb") is None:
        pytest.skip("jhsdb is not installed")
    folder = tmp_path_factory.mktemp("jvm")
    subprocess.run([jdk / "javac", "-d", folder, SOURCES / "Held.java"], check=True)
    command = [jdk / "java", "-Xmx64m", "-XX:-UsePerfData", "-cp", folder, "Held"]
    with start_target(command, folder, shared_state=False) as target:
        yield target


@pytest.mark.needs("jhsdb", "javac")
def test_jhsdb_shows_java_frames_in_a_core_of_the_default_choice(jvm, jdk, tmp_path):
    core = tmp_path / "core"
    run_corepipe(jvm.pid, "--mode", "snapshot", output=core)
    assert_running(jvm.pid)  # a JVM opens and closes descriptors of its own accord
    assert_java_frames(jdk, core)


@pytest.mark.needs("jhsdb", "javac")
def test_jhsdb_shows_java_frames_and_counts_every_object_in_a_core_of_the_preset_java(jvm, jdk, tmp_path):
    core = tmp_path / "core"
    run_corepipe(jvm.pid, "--mode", "buffer", "--preset", "java", output=core)
    assert_running(jvm.pid)
    assert_java_frames(jdk, core)
    histogram = run_reader(jdk / "jhsdb", "jmap", "--histo", "--core", core, "--exe", jdk / "java")
    (count,) = re.findall(r"^\s*\d+:\s+(\d+)\s+\d+\s+Held\$Marker", histogram.out, re.MULTILINE)
    assert int(count) == 12345


def assert_java_frames(jdk: Path, core: Path) -> None:
    stacks = run_reader(jdk / "jhsdb", "jstack", "--core", core, "--exe", jdk / "java")
    for thread, method in (("alpha", "heldInAlpha"), ("beta", "heldInBeta"), ("gamma", "heldInGamma")):
        assert re.search(rf'^"{thread}" ', stacks.out, re.MULTILINE), stacks.out[-3000:]
        assert f"Held.{method}()" in stacks.out
    assert "Held.main(java.lang.String[])" in stacks.out


@pytest.mark.needs("pystack", "gcore")
@pytest.mark.tells("readers", "pystack `core`", "Python")
@pytest.mark.parametrize("mode", ["direct", "snapshot"])
def test_pystack_says_what_it_says_of_gcores_core(tmp_path, mode):
    python = os.path.realpath(sys.executable)
    with start_target([python, SOURCES / "held.py"], tmp_path, shared_state=False) as target:
        target.stop()
        run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
        run_reader("gcore", "-o", tmp_path / "gcore", target.pid)
    pystack = Path(sysconfig.get_path("scripts")) / "pystack"

    def frames(core: Path) -> list[str]:
        out = run_reader(pystack if pystack.exists() else "pystack", "core", core, python, "--locals").out
        return out[out.index("Traceback for thread") :].splitlines()

    mine = frames(tmp_path / "core")
    assert mine == frames(tmp_path / f"gcore.{target.pid}")
    assert sum("Traceback for thread" in line for line in mine) == 3
