"""Fixtures for all tests, and the check that says what this machine lacks."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from .support.programs import installed
from .support.tables import Tables, tell, tell_row
from .support.targets import Target, TargetBuilder, start_target
from .support.turns import turn

__all__ = ["tell", "tell_row"]

_PACKAGES = {
    "gcc": "gcc",
    "musl-gcc": "musl-tools",
    "gcc -m32": "lib32gcc-$(gcc -dumpversion | cut -d. -f1)-dev libc6-dev-i386",
    "gdb": "gdb",
    "gcore": "gdb",
    "lldb": "lldb",
    "eu-readelf": "elfutils",
    "eu-stack": "elfutils",
    "eu-unstrip": "elfutils",
    "readelf": "binutils",
    "zstd": "zstd",
    "jhsdb": "openjdk-17-jdk-headless",
    "java": "openjdk-17-jdk-headless",
    "javac": "openjdk-17-jdk-headless",
    "node": "nodejs",
    "nginx": "nginx",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "tmux": "tmux",
    "pystack": "python3-venv  # then: pip install '.[test]'",
}
"""Program -> Debian package."""


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tables", action="store_true", help="rewrite the README's tables of what works")


def pytest_configure(config: pytest.Config) -> None:
    # a shell's background job begins with these ignored, and so would corepipe, which we tell to end by them
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    config.addinivalue_line("markers", "alone: changes what all processes of the machine feel; no other test meanwhile")
    config.addinivalue_line("markers", "tells(table, row, column): the README's cell that this test is the proof of")
    if config.getoption("--tables"):
        config.pluginmanager.register(Tables())
    config.addinivalue_line("markers", "needs(*programs): skip where a program is not installed; in CI that fails")
    config.addinivalue_line("markers", "live: traces other processes, which takes root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with turn(item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_report_header(config: pytest.Config) -> list[str]:
    missing = sorted(name for name in _PACKAGES if not installed(name))
    lines = []
    if missing:
        packages = " ".join(sorted({_PACKAGES[name] for name in missing}))
        lines.append(f"missing: {', '.join(missing)}; their tests are skipped. apt install {packages}")
    if os.geteuid() != 0:
        lines.append("not root: the tests that dump live processes are skipped")
    return lines


def _needed(item: pytest.Item) -> list[str]:
    """Programs without which a test cannot run."""
    names = [name for marker in item.iter_markers("needs") for name in marker.args]
    if "build_target" in getattr(item, "fixturenames", ()):
        names.append("gcc")
    return names


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing: dict[str, str] = {}
    for item in items:
        for name in _needed(item):
            if not installed(name):
                missing[name] = _PACKAGES.get(name, name)
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))
        if item.get_closest_marker("live") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="only root may dump any process"))
    if missing and _in_ci():
        packages = " ".join(sorted(set(missing.values())))
        raise pytest.UsageError(
            f"CI must run every test; missing: {', '.join(sorted(missing))}: apt install {packages}"
        )
    if _in_ci() and os.geteuid() != 0:
        raise pytest.UsageError("CI must run every test; the live ones need root")


@pytest.fixture(scope="session")
def build_target() -> Iterator[TargetBuilder]:
    """Compiles tests/targets/NAME.c once; returns the path of the program, which every user may run."""
    folder = Path(tempfile.mkdtemp(prefix="corepipe-targets-"))
    folder.chmod(0o755)
    yield TargetBuilder(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder in which every user may write."""
    folder = Path(tempfile.mkdtemp(prefix="corepipe-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def spawn_target(build_target: TargetBuilder, tmp_path: Path) -> Iterator[Callable[..., Target]]:
    """spawn_target(name, *arguments, **options) starts a compiled target; it is ready on return and ended afterwards.

    flags: the compiler's. Other options are those of support.targets.start_target and subprocess.Popen.
    """
    started: list[Target] = []

    def spawn(name: str, *arguments: object, flags: Sequence[str] = (), **options: object) -> Target:
        command = [build_target(name, *flags), *(str(argument) for argument in arguments)]
        target = start_target(command, tmp_path, **options)  # type: ignore[arg-type]
        started.append(target)
        return target

    yield spawn
    for target in started:
        target.end()
