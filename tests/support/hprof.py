"""What is in a heap dump: records counted by kind.

Format: "HPROF Agent", heapDumper.cpp of HotSpot; big endian throughout.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from pathlib import Path

_ELEMENT_BYTES = {2: 0, 4: 1, 5: 2, 6: 4, 7: 8, 8: 1, 9: 2, 10: 4, 11: 8}
"""Basic type -> size; 0 stands for an identifier."""
_HEAP_DUMP, _HEAP_DUMP_SEGMENT = 0x0C, 0x1C
_ROOTS = {0xFF: 0, 0x01: -1, 0x02: 8, 0x03: 8, 0x04: 4, 0x05: 0, 0x06: 4, 0x07: 0, 0x08: 8}
"""Root record -> bytes behind its identifier; -1 for a second identifier."""
_CLASS, _INSTANCE, _OBJECTS, _PRIMITIVES = 0x20, 0x21, 0x22, 0x23


def count_records(path: Path) -> Counter[str]:
    """Return how many records of each kind a heap dump holds, and the bytes of all arrays and instances.

    ValueError where its records do not fill the file exactly.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return _Parser(data).counts


class _Parser:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.counts: Counter[str] = Counter()
        name_end = data.find(b"\0")
        if not data[:name_end].startswith(b"JAVA PROFILE 1.0."):
            raise ValueError("not a heap dump")
        self.word = self._number(name_end + 1, 4)
        position = name_end + 13
        while position < len(data):
            tag, length = data[position], self._number(position + 5, 4)
            position += 9
            self.counts[f"record {tag:#x}"] += 1
            if tag in (_HEAP_DUMP, _HEAP_DUMP_SEGMENT):
                self._segment(position, position + length)
            position += length
        if position != len(data):
            raise ValueError(f"the last record ends at {position}, the file at {len(data)}")

    def _number(self, position: int, size: int) -> int:
        return int.from_bytes(self.data[position : position + size], "big")

    def _segment(self, position: int, end: int) -> None:
        while position < end:
            kind = self.data[position]
            self.counts[f"heap record {kind:#x}"] += 1
            position = self._heap_record(kind, position + 1)
        if position != end:
            raise ValueError(f"a heap record ends at {position}, its segment at {end}")

    def _heap_record(self, kind: int, position: int) -> int:
        """Return where the record ends whose body begins at position."""
        word = self.word
        if kind in _ROOTS:
            more = _ROOTS[kind]
            return position + word + (word if more < 0 else more)
        if kind == _CLASS:
            return self._class(position)
        if kind == _INSTANCE:
            size = self._number(position + 2 * word + 4, 4)
            self.counts["instance bytes"] += size
            return position + 2 * word + 8 + size
        if kind == _OBJECTS:
            size = self._number(position + word + 4, 4) * word
            self.counts["object array bytes"] += size
            return position + 2 * word + 8 + size
        if kind == _PRIMITIVES:
            count, element = struct.unpack_from(">IB", self.data, position + word + 4)
            size = count * _ELEMENT_BYTES[element]
            self.counts["primitive array bytes"] += size
            return position + word + 9 + size
        raise ValueError(f"heap record of the unknown kind {kind:#x} at {position - 1}")

    def _class(self, position: int) -> int:
        position += 7 * self.word + 8
        constants = self._number(position, 2)
        position += 2
        for _ in range(constants):
            position += 3 + self._size(self.data[position + 2])
        statics = self._number(position, 2)
        position += 2
        for _ in range(statics):
            position += self.word + 1 + self._size(self.data[position + self.word])
        return position + 2 + self._number(position, 2) * (self.word + 1)

    def _size(self, element: int) -> int:
        return _ELEMENT_BYTES[element] or self.word
