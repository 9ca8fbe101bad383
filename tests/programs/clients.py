"""Clients that check every answer: HTTP, redis, and PostgreSQL's protocol."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from .load import Ask

ANSWER_SECONDS = 30.0
"""A client that waits longer is a client lost."""


def _unix(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    connection.connect(str(path))
    return connection


@contextlib.contextmanager
def digests(port: int) -> Iterator[Ask]:
    """HTTP, kept alive: the SHA-256 of the number in the path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    connection.connect()
    keep = connection.sock

    def ask(number: int) -> None:
        connection.request("GET", f"/{number}")
        answer = connection.getresponse()
        body = answer.read()
        assert (answer.status, body) == (200, hashlib.sha256(str(number).encode()).hexdigest().encode())
        assert connection.sock is keep, "the server has closed the connection"

    with contextlib.closing(connection):
        yield ask


@contextlib.contextmanager
def static_files(path: Path, files: list[bytes]) -> Iterator[Ask]:
    """HTTP over a unix socket, kept alive: file N of those in turn."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = keep = _unix(path)

    def ask(number: int) -> None:
        connection.request("GET", f"/{number % len(files)}")
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200
        assert body == files[number % len(files)]
        assert connection.sock is keep, "the server has closed the connection"

    with contextlib.closing(connection):
        yield ask


class Redis:
    """One connection to a redis server."""

    def __init__(self, path: Path) -> None:
        self._socket = _unix(path)
        self._file = self._socket.makefile("rb")

    def __call__(self, *words: object) -> bytes | int | None:
        """Run a command. Errors: AssertionError with what the server complains of."""
        parts = [str(word).encode() if not isinstance(word, bytes) else word for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        line = self._file.readline()
        kind, rest = line[:1], line[1:].strip()
        assert kind in (b"+", b":", b"$"), line
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if int(rest) < 0:
            return None
        data = self._file.read(int(rest) + 2)
        return data[:-2]

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def redis_keys(path: Path) -> Iterator[Ask]:
    """Keys of its own that are set, read back, counted and deleted."""
    with contextlib.closing(Redis(path)) as redis:
        name = f"client:{id(redis):x}"
        asked = 0

        def ask(number: int) -> None:
            nonlocal asked
            asked += 1
            value = hashlib.sha512(str(number).encode()).digest() * 16
            assert redis("SET", f"{name}:{number % 1000}", value) == b"OK"
            assert redis("INCR", name) == asked
            assert redis("GET", f"{name}:{number % 1000}") == value

        yield ask


@contextlib.contextmanager
def saved_again_and_again(path: Path) -> Iterator[Callable[[], int]]:
    """Let redis fork and save in the background, once more as soon as it is done; yields how often it has done so."""
    over, saves, failures = threading.Event(), [0], []

    def save() -> None:
        try:
            with contextlib.closing(Redis(path)) as redis:
                while not over.is_set():
                    assert redis("BGSAVE") == b"Background saving started"
                    while b"rdb_bgsave_in_progress:1" in redis("INFO", "persistence"):
                        over.wait(0.002)
                    assert b"rdb_last_bgsave_status:ok" in redis("INFO", "persistence")
                    saves[0] += 1
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        yield lambda: saves[0]
    finally:
        over.set()
        thread.join()
    assert not failures, failures


class Postgres:
    """One connection to a PostgreSQL server: version 3 of its protocol, simple queries, text results."""

    def __init__(self, path: Path, user: str) -> None:
        self._socket = _unix(path)
        self._file = self._socket.makefile("rb")
        words = b"user\0" + user.encode() + b"\0database\0postgres\0application_name\0load\0\0"
        self._socket.sendall(struct.pack(">ii", 8 + len(words), 3 << 16) + words)
        self._rows()
        self.backend = int(self("select pg_backend_pid()")[0][0])

    def __call__(self, query: str) -> list[list[str]]:
        """Run a query and return its rows. Errors: AssertionError with what the server complains of."""
        text = query.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack(">i", 4 + len(text)) + text)
        return self._rows()

    def _rows(self) -> list[list[str]]:
        """Read up to ReadyForQuery. A notice or a warning of the server is as bad as an error."""
        rows = []
        while True:
            head = self._file.read(5)
            assert len(head) == 5, "the server has closed the connection"
            kind, (length,) = head[:1], struct.unpack(">i", head[1:])
            body = self._file.read(length - 4)
            assert kind not in (b"E", b"N"), body
            if kind == b"D":
                rows.append(self._fields(body))
            elif kind == b"Z":
                return rows

    @staticmethod
    def _fields(body: bytes) -> list[str]:
        (count,), at, fields = struct.unpack_from(">h", body), 2, []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", body, at)
            fields.append(body[at + 4 : at + 4 + length].decode())
            at += 4 + max(length, 0)
        return fields

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def queries(path: Path, user: str) -> Iterator[Ask]:
    """Sums over a table in shared buffers, sums that keep the processor busy, and a counter that is updated."""
    with contextlib.closing(Postgres(path, user)) as postgres:
        postgres("create temporary table counted as select 0 as value")
        asked = 0

        def ask(number: int) -> None:
            nonlocal asked
            asked += 1
            first = number % 1000 * 10
            assert postgres(
                f"select sum(length(filler)), sum(n) from many where n >= {first} and n < {first + 10}"
            ) == [["5000", str(10 * first + 45)]]
            assert postgres("select sum(i) from generate_series(1, 3000) i") == [["4501500"]]
            assert postgres("update counted set value = value + 1 returning value") == [[str(asked)]]

        yield ask
