"""A small load on a server: every connection asks, checks the answer, and asks again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from ..support.waiting import eventually

Ask = Callable[[int], None]
"""Sends request number N over one connection and checks its answer; raises where anything is wrong."""
Connect = Callable[[], AbstractContextManager[Ask]]
CONNECTIONS = 4
_PAUSE_SECONDS = 0.001


@dataclass
class Load:
    """What the clients have met so far: answers for each connection, what failed, the longest wait."""

    answers: list[int]
    failures: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0

    @property
    def requests(self) -> int:
        return sum(self.answers)

    def goes_on(self, requests: int = 3) -> None:
        """Return when every connection has got so many answers more; fail at the first thing that went wrong."""
        before = list(self.answers)

        def answered() -> bool:
            assert not self.failures, self.failures
            return all(now - old >= requests for now, old in zip(self.answers, before, strict=True))

        eventually("every connection is answered", answered)


@contextlib.contextmanager
def load_on(connect: Connect, connections: int = CONNECTIONS) -> Iterator[Load]:
    """Ask over several connections at once until the body ends; a failure of any of them fails the test."""
    load, over = Load([0] * connections), threading.Event()

    def converse(index: int) -> None:
        try:
            with connect() as ask:
                number = index
                while not over.is_set():
                    begun = time.monotonic()
                    ask(number)
                    load.longest_seconds = max(load.longest_seconds, time.monotonic() - begun)
                    load.answers[index] += 1
                    number += connections
                    over.wait(_PAUSE_SECONDS)
        except Exception as error:
            load.failures.append(f"connection {index}, after {load.answers[index]} answers: {error!r}")

    threads = [threading.Thread(target=converse, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    try:
        load.goes_on(1)
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not load.failures, load.failures
