"""Memory tags on their way into a core: read by ptrace, so by the tracing thread alone, piece by piece.

Source: Documentation/arch/arm64/memory-tagging-extension.rst (PTRACE_PEEKMTETAGS, core dump support).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from . import ptrace
from .arch import Arch
from .errors import NoSuchProcessError
from .plan import DumpPlan
from .procfs import PAGE_SIZE

PIECE_BYTES: Final = 1 << 21
"""Memory whose tags are asked for at once, in bytes."""
_GRANULE_BYTES: Final = 16


class TagReader(Protocol):
    """Gives the tags of memory as a core holds them."""

    def read(self, address: int, length: int) -> bytes:
        """Return the tags of so many bytes of memory, whole pages. Errors: NoSuchProcessError."""


class TracedTags:
    """Tags of a stopped tracee."""

    def __init__(self, tid: int, arch: Arch) -> None:
        self._tid = tid
        self._arch = arch

    def read(self, address: int, length: int) -> bytes:
        """See TagReader. A page that has no tags has zeros."""
        tags = bytearray()
        while len(tags) * _GRANULE_BYTES < length:
            done = len(tags) * _GRANULE_BYTES
            try:
                found = ptrace.peek_tags(self._tid, address + done, (length - done) // _GRANULE_BYTES)
            except ProcessLookupError as error:
                raise NoSuchProcessError("the process ended while the tags of its memory were read") from error
            except OSError:
                found = b""
            tags += found or bytes((PAGE_SIZE - (address + done) % PAGE_SIZE) // _GRANULE_BYTES)
        return self._arch.pack_tags(bytes(tags[: length // _GRANULE_BYTES]))


class KeptTags:
    """Tags that are read now, while the target stands still. check is asked between the pieces; it may raise."""

    def __init__(self, plan: DumpPlan, source: TagReader, check: Callable[[], None] = lambda: None) -> None:
        self._kept: dict[int, bytes] = {}
        for address, length in pieces(plan.tagged):
            check()
            self._kept[address] = source.read(address, length)

    def read(self, address: int, length: int) -> bytes:
        """See TagReader; the pieces are those of pieces()."""
        return self._kept[address]


def tags_of(plan: DumpPlan, tid: int, arch: Arch) -> TracedTags | None:
    """Return the reader for a plan's tags, None if it has none. tid: a stopped tracee with that memory."""
    return TracedTags(tid, arch) if plan.tagged else None


def pieces(tagged: array[int]) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of the memory whose tags are read at once; tagged: (address, bytes, ...)."""
    for index in range(0, len(tagged), 2):
        address, left = tagged[index], tagged[index + 1]
        while left:
            step = min(left, PIECE_BYTES)
            yield address, step
            address, left = address + step, left - step
