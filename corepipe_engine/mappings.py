"""The text of /proc/PID/maps and smaps -> Regions.

Sources: proc_pid_maps(5), proc_pid_smaps(5), fs/proc/task_mmu.c. There may be 65,000 mappings, and smaps has 25 lines
of each: only the lines that are used are looked at, and equal strings, paths, flag sets and sizes become one object.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .errors import DumpFailedError
from .regions import Region, classify

_FLAGS = b"\nVmFlags:"


def not_understood(name: str, text: bytes) -> DumpFailedError:
    """Return the error for a file of /proc that has another format than was expected."""
    return DumpFailedError(f"cannot understand /proc/PID/{name}: {text[:200]!r}")


class _Texts(dict[bytes, str]):
    def __missing__(self, raw: bytes) -> str:
        return self.setdefault(raw, raw.decode("ascii"))


class _Paths(dict[bytes, bytes]):
    def __missing__(self, raw: bytes) -> bytes:
        # a newline is the only byte that the kernel escapes (seq_file_path, "\n")
        return self.setdefault(raw, raw.replace(b"\\012", b"\n"))


class _FlagSets(dict[bytes, frozenset[str]]):
    def __missing__(self, raw: bytes) -> frozenset[str]:
        return self.setdefault(raw, frozenset(raw.decode("ascii", "replace").split()))


class _Sizes(dict[bytes, int]):
    """Numbers of kB -> bytes."""

    def __missing__(self, raw: bytes) -> int:
        return self.setdefault(raw, int(raw) * 1024)


class _Counts(NamedTuple):
    """What smaps tells of a mapping beyond its line in maps. Bytes; see Region."""

    flags: frozenset[str] = frozenset()
    rss: int = 0
    anonymous: int = 0
    swap: int = 0
    hugetlb: int = 0
    mapped_elsewhere: int = 0


_NO_COUNTS = _Counts()


class _Parser:
    """Makes the Regions of one file."""

    def __init__(self) -> None:
        self._texts = _Texts()
        self._paths = _Paths()
        self._flag_sets = _FlagSets()
        self._sizes = _Sizes()
        self._end = 0
        # Where there are very many mappings most look like others: stacks, guard pages, pages protected one by one.
        self.counts = functools.lru_cache(maxsize=256)(self._counts)

    def region(self, line: bytes, counts: _Counts = _NO_COUNTS) -> Region:
        """Return one mapping: its line, and what smaps tells of it."""
        try:
            span, raw_perms, offset, dev, raw_inode, *rest = line.split(None, 5)
            raw_start, _, raw_end = span.partition(b"-")
            start = int(raw_start, 16)
            if start == self._end:  # most often: then one object does for both
                start = self._end
            self._end = int(raw_end, 16)
            perms, inode = self._texts[raw_perms], int(raw_inode)
            path = self._paths[rest[0]] if rest else b""
            flags, rss, anonymous, swap, hugetlb, mapped_elsewhere = counts
            return Region(
                start,
                self._end,
                perms,
                int(offset, 16),
                self._texts[dev],
                inode,
                path,
                classify(perms, inode, path, flags),
                flags,
                rss,
                anonymous,
                swap,
                hugetlb,
                mapped_elsewhere=mapped_elsewhere,
            )
        except ValueError as error:
            raise not_understood("maps", line) from error

    def _counts(self, lines: bytes) -> _Counts:
        """Return what the lines tell; each begins with a newline, and VmFlags is the last."""
        try:
            return _Counts(
                self._flag_sets[lines[lines.rindex(_FLAGS) + len(_FLAGS) :]],
                self._size(lines, b"\nRss:"),
                self._size(lines, b"\nAnonymous:"),
                self._size(lines, b"\nSwap:"),
                self._size(lines, b"\nShared_Hugetlb:") + self._size(lines, b"\nPrivate_Hugetlb:"),
                self._size(lines, b"\nShared_Clean:") + self._size(lines, b"\nShared_Dirty:"),
            )
        except ValueError as error:
            raise not_understood("smaps", lines) from error

    def _size(self, lines: bytes, name: bytes) -> int:
        at = lines.find(name)
        return self._sizes[lines[at + len(name) : lines.index(b"kB", at)]] if at >= 0 else 0


def parse_maps(text: bytes) -> Iterator[Region]:
    """Yield the mappings in /proc/PID/maps, ascending; counts and flags are empty."""
    parser = _Parser()
    position = 0
    while position < len(text):
        end = text.find(b"\n", position)
        end = len(text) if end < 0 else end
        if end > position:
            yield parser.region(text[position:end])
        position = end + 1


def parse_smaps(chunks: Iterable[bytes]) -> Iterator[Region]:
    """Yield the mappings in /proc/PID/smaps, given as successive pieces of the file of any size."""
    parser = _Parser()
    rest = b""
    for chunk in chunks:
        text = rest + chunk
        position = 0
        while (flags := text.find(_FLAGS, position)) >= 0 and (end := text.find(b"\n", flags + 1)) >= 0:
            line_end = text.index(b"\n", position)
            yield parser.region(text[position:line_end], parser.counts(text[line_end:end]))
            position = end + 1
        rest = text[position:]
