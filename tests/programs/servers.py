"""Real programs as servers: started on sockets of their own, ready when they answer, ended with all their children."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..support import proc
from ..support.programs import program_path
from ..support.targets import SOURCES, start_target
from ..support.waiting import eventually
from .clients import Postgres, Redis, digests, queries, redis_keys, static_files
from .load import Connect

AS_INIT = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Makes a command pid 1 of a pid namespace of its own, as in a container."""
NOBODY = 65534


@dataclass
class Server:
    """A program that serves. pid: its first process; log: what it prints."""

    version: str
    pid: int
    connect: Connect
    log: Path

    def role(self, name: str) -> int:
        """Return the process with that role: itself, or "worker" or "backend": a child that answers clients."""
        if name not in ("worker", "backend"):
            return self.pid
        return eventually(f"there is a {name}", lambda: self._serving(name))

    def _serving(self, name: str) -> int:
        found = []
        for child in proc.children(self.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"worker process" in command or b"[local]" in command:
                    found.append(child)
        return min(found, default=0)


Start = Callable[[Path], contextlib.AbstractContextManager[Server]]


def version_of(*command: str) -> str:
    """Return the first number with dots that a program tells as its version."""
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    found = re.search(r"\d+(\.\d+)+", told.stdout + told.stderr)
    assert found, told
    return found[0]


@contextlib.contextmanager
def _own(command: Sequence[str | Path], folder: Path, name: str) -> Iterator[Server]:
    """A program of tests/targets that tells its port."""
    log = folder / "log"
    with log.open("wb") as output, start_target(
        command, folder, shared_state=False, stdout=output, stderr=output
    ) as target:  # fmt: skip
        yield Server(name, target.pid, lambda: digests(target.number("port")), log)


@functools.cache
def _compiled(source: str) -> str:
    """Return the folder with the classes of tests/targets/SOURCE; it lasts as long as this Python."""
    folder = tempfile.mkdtemp(prefix="corepipe-classes-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([program_path("javac"), "-d", folder, SOURCES / source], check=True)
    return folder


def java(*options: str, allocate: bool = False) -> Start:
    """com.sun.net.httpserver, with a thread that sleeps, and on demand one that makes garbage all the time."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Server]:
        program = program_path("java")
        command = [
            program,
            "-Xmx64m",
            *options,
            "-cp",
            _compiled("Serving.java"),
            "Serving",
            *(["allocate"] if allocate else []),
        ]
        with _own(command, folder, f"java {version_of(program, '-version')}") as server:
            yield server

    return start


def script(program: str, source: str) -> Start:
    """A server in a scripting language, which has children that come and go."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Server]:
        path = program_path(program)
        with _own([path, SOURCES / source, "children"], folder, f"{program} {version_of(path, '--version')}") as server:
            yield server

    return start


@contextlib.contextmanager
def _started(command: Sequence[str | Path], log: Path, as_init: bool) -> Iterator[int]:
    """Start a server in a session of its own; yield the pid of its first process, and end all of it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*(AS_INIT if as_init else ()), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    pid = 0
    try:
        if as_init:
            eventually("there is an init", lambda: process.poll() is not None or proc.children(process.pid))
        pid = min(proc.children(process.pid)) if as_init else process.pid
        yield pid
    finally:
        if as_init and pid:
            os.kill(pid, signal.SIGKILL)  # its namespace goes with it; unshare itself passes no SIGTERM on
        process.terminate()
        process.wait()


def _wait_for_answers(server: Server) -> None:
    def answers() -> bool:
        try:
            with server.connect() as ask:
                ask(0)
        except (OSError, AssertionError):
            return False
        return True

    eventually("the server answers", answers)


_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log notice; user nobody nogroup;
events {{ }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s; sendfile on;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen unix:{folder}/socket; root {folder}/files; }}
}}
"""


def nginx(as_init: bool = False) -> Start:
    """A master and a worker that serves static files of 1 KiB to 256 KiB."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Server]:
        files = [os.urandom(1 << 10 + 2 * index) for index in range(5)]
        (folder / "files").mkdir()
        for index, data in enumerate(files):
            (folder / "files" / str(index)).write_bytes(data)
        (folder / "conf").write_text(_NGINX.format(folder=folder))
        program = program_path("nginx")
        command = [program, "-p", folder, "-c", folder / "conf", "-e", folder / "log"]
        with _started(command, folder / "log", as_init) as pid:
            server = Server(
                f"nginx {version_of(program, '-v')}",
                pid,
                lambda: static_files(folder / "socket", files),
                folder / "log",
            )

            _wait_for_answers(server)
            yield server

    return start


def redis(as_init: bool = False) -> Start:
    """20 MB of keys, in memory alone."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Server]:
        program, socket = program_path("redis-server"), folder / "socket"
        command = [program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        with _started(command, folder / "log", as_init) as pid:
            server = Server(
                f"redis {version_of(program, '--version')}", pid, lambda: redis_keys(socket), folder / "log"
            )
            _wait_for_answers(server)
            with contextlib.closing(Redis(socket)) as client:
                for number in range(2000):
                    client("SET", f"filler:{number}", bytes([number % 251]) * 10000)
            yield server

    return start


def _let_in(socket: Path) -> Postgres | None:
    try:
        return Postgres(socket, "owner")
    except (OSError, AssertionError):
        return None


def postgres(as_init: bool = False) -> Start:
    """A cluster of its own, of a user without rights, with a table of 5 MB in its shared buffers of 128 MB."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Server]:
        data, program = folder / "data", program_path("postgres")
        data.mkdir()
        for path in (folder, data):
            os.chown(path, NOBODY, NOBODY)
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        initdb = [program_path("initdb"), "--no-sync", "-A", "trust", "-U", "owner", "--locale=C", "-D", data]
        subprocess.run([*as_nobody, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        settings = (f"unix_socket_directories={folder}", "listen_addresses=", "fsync=off", "shared_buffers=128MB")
        command = [*as_nobody, program, "-D", data, *(word for setting in settings for word in ("-c", setting))]
        socket = folder / ".s.PGSQL.5432"
        with _started(command, folder / "log", as_init) as pid:
            server = Server(
                f"postgres {version_of(program, '--version')}", pid, lambda: queries(socket, "owner"), folder / "log"
            )
            with contextlib.closing(eventually("postgres lets us in", lambda: _let_in(socket))) as client:
                client("create table many as select n, repeat('x', 500) as filler from generate_series(0, 9999) n")
                client("create index on many (n)")
            yield server

    return start
