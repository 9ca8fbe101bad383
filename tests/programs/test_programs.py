"""Programs that people run serve on while they are dumped: no client meets an error, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..support import proc
from ..support.checks import assert_running
from ..support.engine import assert_nothing_left, run_corepipe
from ..support.readers import run_gdb
from ..support.snapshots import streaming
from ..support.waiting import eventually
from . import servers
from .clients import saved_again_and_again
from .load import Load, load_on
from .servers import Server

pytestmark = pytest.mark.live
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))
DUMPS = 20 if SOAK else 3
SINKS = ("cat > /dev/null", "zstd -1 > /dev/null")
QUIET_ANSWERS = 200 if SOAK else 10
BAD_LINE = re.compile(
    "error|warn|alert|crit|emerg|fatal|panic|exception|interrupt|terminat|crash|unmatched", re.IGNORECASE
)

STARTS = {
    "java-serial": (servers.java("-XX:+UseSerialGC"), ("java", "javac")),
    "java-g1": (servers.java("-XX:+UseG1GC", allocate=True), ("java", "javac")),
    "java-zgc": (servers.java("-XX:+UseZGC", "-Xmx32m", allocate=True), ("java", "javac")),
    "python": (servers.script("python3", "serving.py"), ("python3",)),
    "node": (servers.script("node", "serving.js"), ("node",)),
    "nginx": (servers.nginx(), ("nginx",)),
    "nginx-init": (servers.nginx(as_init=True), ("nginx", "unshare")),
    "redis": (servers.redis(), ("redis-server",)),
    "redis-init": (servers.redis(as_init=True), ("redis-server", "unshare")),
    "postgres": (servers.postgres(), ("postgres", "initdb", "setpriv")),
    "postgres-init": (servers.postgres(as_init=True), ("postgres", "initdb", "setpriv", "unshare")),
}
"""How to start a server, and the programs that it takes. init: as pid 1 of a pid namespace, as in a container."""


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One of STARTS; it runs until the tests of the next begin."""
    start, _ = STARTS[request.param]
    with tempfile.TemporaryDirectory(prefix="corepipe-server-") as folder:
        os.chmod(folder, 0o755)
        with start(Path(folder)) as started:
            yield started


def case(start: str, role: str = "server", row: str = "", gdb: bool = True) -> Any:
    """A parameter set: which server, which of its processes is dumped, what the README's row says behind both.

    gdb: whether the last core is opened; once a program is enough.
    """
    identity = start if role == "server" else f"{start}-{role}"
    return pytest.param(start, role, row, gdb or SOAK, id=identity, marks=pytest.mark.needs(*STARTS[start][1]))


def bad_lines(server: Server) -> set[str]:
    """Kinds of lines in the server's log that complain: lines without their numbers."""
    lines = server.log.read_text("utf-8", "replace").splitlines()
    return {re.sub(r"\d+", "N", line) for line in lines if BAD_LINE.search(line)}


@dataclass
class Watched:
    """A process that is dumped while its clients are answered."""

    server: Server
    pid: int
    folder: Path
    load: Load
    quiet_seconds: float = 0.0
    stops: dict[str, list[float]] = field(default_factory=dict)

    def dump(self, mode: str, sink: str) -> dict[str, Any]:
        """One dump, after which every client must be answered, and nothing of it be left; returns its report."""
        report = self.folder / "report.json"
        outcome = run_corepipe(self.pid, "--mode", mode, "--pipe", sink, "--report", report)
        assert_nothing_left(outcome.pid)
        told = outcome.report(report)
        assert (told["fallbacks"], told["unreadable"], told["shared_live"]) == ([], [], [])
        assert "zombie" not in outcome.stderr
        self.stops.setdefault(told["mode"], []).append(told["stop_seconds"])
        self.load.goes_on()
        return told


@contextlib.contextmanager
def watched(server: Server, role: str, folder: Path) -> Iterator[Watched]:
    """The process with that role under load; afterwards it is as it was, and its log holds nothing that is new."""
    with load_on(server.connect) as load:
        pid = server.role(role)
        children, descriptors = proc.children(pid), set(proc.descriptors(pid).items())
        load.goes_on(QUIET_ANSWERS)
        children &= proc.children(pid)  # what came and went is the program's own
        descriptors &= set(proc.descriptors(pid).items())
        before = bad_lines(server)
        target = Watched(server, pid, folder, load, load.longest_seconds)
        load.longest_seconds = 0.0
        yield target
        assert_running(pid)
        eventually("no child is left", lambda: proc.children(pid) == children)
        eventually("the descriptors are as before", lambda: set(proc.descriptors(pid).items()) == descriptors)
        load.goes_on()
    assert bad_lines(server) <= before


def assert_gdb_sees_every_thread(target: Watched, core: Path) -> None:
    """gdb finds the threads that the process had before and after, and none that it never had."""
    before = set(proc.tids(target.pid))
    program = Path(os.readlink(f"/proc/{target.pid}/exe"))
    report = target.dump("snapshot", f"cat > {core}")
    after = set(proc.tids(target.pid))
    listed = run_gdb(program, core, "info threads").out
    core.unlink()
    found = [int(tid) for tid in re.findall(r"^[* ] +\d+ +.*?LWP (\d+)\)", listed, re.MULTILINE)]
    assert len(found) == report["threads"]
    assert before & after <= set(found)


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits to be reaped."""
    try:
        return proc.status_field(pid, "State")[0] in "ZX"
    except (OSError, KeyError):
        return True


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def row_of(server: Server, role: str, row: str) -> str:
    return ", ".join([server.version, *([] if role == "server" else [role]), *([row] if row else [])])


def cells_of(target: Watched) -> dict[str, str]:
    """The README's row."""
    return {
        "dumps": str(len(target.stops["snapshot"])),
        "answers": f"{target.load.requests:,}",
        "errors": str(len(target.load.failures)),
        "stop: median": milliseconds(statistics.median(target.stops["snapshot"])),
        "longest": milliseconds(max(target.stops["snapshot"])),
        "in mode buffer": milliseconds(max(target.stops["buffer"])),
        "slowest answer": milliseconds(target.load.longest_seconds),
        "without dumps": milliseconds(target.quiet_seconds),
    }


@pytest.mark.needs("gdb", "zstd")
@pytest.mark.parametrize(
    ("server", "role", "row", "gdb"),
    [
        case("java-serial", row="Serial GC"),
        case("java-g1", row="G1, allocating", gdb=False),
        case("java-zgc", row="ZGC of 32 MiB, allocating", gdb=False),
        case("python", row="asyncio, with children that come and go"),
        case("node", row="with children that come and go"),
        case("nginx", "master", gdb=False),
        case("nginx", "worker"),
        case("redis"),
        case("postgres", "postmaster", gdb=False),
        case("postgres", "backend"),
    ],
    indirect=["server"],
)
def test_a_program_serves_on_while_it_is_dumped(server, role, row, gdb, tmp_path, tell_row):
    with watched(server, role, tmp_path) as target:
        for number in range(DUMPS - 1):
            assert target.dump("auto", SINKS[number % 2])["mode"] == "snapshot"
        if gdb:
            assert_gdb_sees_every_thread(target, tmp_path / "core")
        target.dump("buffer", SINKS[0])
    tell_row("programs", row_of(server, role, row), cells_of(target))


@pytest.mark.needs("zstd")
@pytest.mark.parametrize("server", ["redis"], indirect=True)
@pytest.mark.needs("redis-server")
def test_redis_saves_in_the_background_while_it_is_dumped(server, tmp_path, tell_row):
    """Its children are forks like the snapshot, and it reaps them itself."""
    socket = server.log.parent / "socket"
    with saved_again_and_again(socket) as saves:
        eventually("it has saved without a dump", saves)
    with watched(server, "server", tmp_path) as target, saved_again_and_again(socket) as saves:
        for number in range(DUMPS):
            before = saves()
            assert target.dump("auto", SINKS[number % 2])["mode"] == "snapshot"
            eventually("one more has been saved", lambda before=before: saves() > before)
        target.dump("buffer", SINKS[0])
    tell_row("programs", row_of(server, "server", "saving in the background all the time"), cells_of(target))


@pytest.mark.needs("unshare")
@pytest.mark.parametrize(
    ("server", "role", "row", "gdb"),
    [
        case("nginx-init", "master"),
        case("nginx-init", "worker"),
        case("redis-init"),
        case("postgres-init", "postmaster"),
        case("postgres-init", "backend"),
    ],
    indirect=["server"],
)
def test_a_program_that_is_pid_1_of_a_container_takes_the_copy_for_no_child_of_its_own(
    server, role, row, gdb, tmp_path
):
    """It inherits the snapshot, whichever of its processes is dumped; PostgreSQL takes a killed child for a crash.

    So the snapshot exits with 0, even if corepipe is killed.
    """
    with watched(server, role, tmp_path) as target:
        assert proc.status_field(server.pid, "NSpid").split()[-1] == "1"
        for number in range(DUMPS if SOAK else 2):
            assert target.dump("auto", SINKS[number % 2])["mode"] == "snapshot"
        if role != "server":  # one without children of its own would never reap it
            with streaming(target.pid) as stream:
                stream.engine.kill()
                eventually("the snapshot is gone", lambda: ended(stream.snapshot))
                target.load.goes_on()
