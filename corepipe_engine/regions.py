"""What a mapping of the target *is*: address range, permissions, backing, and the kind that follows from them."""

from __future__ import annotations

import enum
import mmap
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

_PAGE = mmap.PAGESIZE
DELETED_SUFFIX = b" (deleted)"
SHMEM_PREFIXES = (b"/dev/shm/", b"/memfd:", b"/SYSV", b"/dev/zero")


class RegionKind(str, enum.Enum):
    """What backs a mapping. The value is the word that `--include`, `--exclude` and the reports use."""

    HEAP = "heap"
    STACK = "stack"
    ANON = "anon"
    FILE = "file"
    SHARED_FILE = "shared-file"
    SHMEM = "shmem"
    HUGETLB = "hugetlb"
    DEVICE = "device"
    VDSO = "vdso"
    VVAR = "vvar"
    VSYSCALL = "vsyscall"

    def __str__(self) -> str:
        return self.value


SPECIAL_KINDS = frozenset({RegionKind.VDSO, RegionKind.VVAR, RegionKind.VSYSCALL})
"""Kinds that the kernel makes for every process."""


@dataclass(frozen=True, slots=True)
class Region:
    """One mapping (VMA), or a piece of one that `--include`/`--exclude` cut out.

    start, end, offset, rss, anonymous, swap, hugetlb and mapped_elsewhere (pages that others map too) are bytes; path
    is as in /proc/PID/maps (raw bytes); flags are the two-letter VmFlags of /proc/PID/smaps, empty where smaps could
    not be had; links is the number of names that the file of a shared mapping has (st_nlink), -1 where that is not
    known.
    """

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    inode: int
    path: bytes
    kind: RegionKind
    flags: frozenset[str] = frozenset()
    rss: int = 0
    anonymous: int = 0
    swap: int = 0
    hugetlb: int = 0
    links: int = -1
    mapped_elsewhere: int = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """True where writes reach other processes (VM_SHARED, VmFlag `sh`).

        The `s` of maps also stands for shared mappings of files opened read-only, which the kernel treats as
        private ones; it decides only where smaps could not be had.
        """
        return "sh" in self.flags if self.flags else self.perms[3:4] == "s"

    @property
    def served(self) -> bool:
        """True where somebody else fills in pages when they are touched (userfaultfd: missing, minor).

        To read a page that is not there yet means to wait for him, and he may be standing still.
        """
        return bool(self.flags & {"um", "ui"})

    @property
    def copied_on_write(self) -> bool:
        """True where private pages belong to others too until somebody writes: after a fork, or merged by KSM."""
        return not self.shared and self.anonymous > 0 and self.mapped_elsewhere > 0

    @property
    def private_anonymous(self) -> bool:
        """True where a page that is not present is a page of zeros, and nothing else."""
        return not self.shared and self.perms[3:4] == "p" and not self.file_backed and self.kind not in SPECIAL_KINDS

    @property
    def file_backed(self) -> bool:
        """True where the mapping belongs to a file (which may be deleted, or a memfd)."""
        return self.inode != 0 or self.path.startswith(b"/")

    @property
    def deleted(self) -> bool:
        """True where the file has no name left.

        The path tells of the one by which it was opened: the file may have others, or that may be its name.
        """
        return self.links == 0 if self.links >= 0 else self.path.endswith(DELETED_SUFFIX)

    @property
    def file_path(self) -> bytes:
        """Path of the mapped file as the kernel writes it into NT_FILE, empty for memory without one."""
        if not self.file_backed:
            return b""
        return self.path if self.path.startswith(b"/") else b"/dev/zero (deleted)"

    def piece(self, start: int, end: int) -> Region:
        """Return the part [start, end) of this mapping; its counts are in proportion.

        They are rounded up: a piece of a mapping that has pages must never pass for one that was never touched.
        """

        def part(count: int) -> int:
            share = -(-count * (end - start) // (self.size * _PAGE)) * _PAGE
            return min(share, end - start)

        return replace(
            self,
            start=start,
            end=end,
            offset=self.offset + start - self.start if self.file_backed else self.offset,
            rss=part(self.rss),
            anonymous=part(self.anonymous),
            swap=part(self.swap),
            hugetlb=part(self.hugetlb),
            mapped_elsewhere=part(self.mapped_elsewhere),
        )


def classify(perms: str, inode: int, path: bytes, flags: frozenset[str]) -> RegionKind:
    """Return the kind of a mapping from what maps and smaps say about it.

    Sources: proc_pid_maps(5); show_map_vma in fs/proc/task_mmu.c.
    """
    if path.startswith(b"["):
        if path == b"[vdso]":
            return RegionKind.VDSO
        if path.startswith(b"[vvar"):
            return RegionKind.VVAR
        if path == b"[vsyscall]":
            return RegionKind.VSYSCALL
        if path == b"[heap]":
            return RegionKind.HEAP
        if path.startswith(b"[stack"):
            return RegionKind.STACK
    if "ht" in flags:
        return RegionKind.HUGETLB
    if "io" in flags or "pf" in flags:
        return RegionKind.DEVICE
    shared = "sh" in flags if flags else perms[3:4] == "s"
    if path.startswith(b"[anon_shmem:") or (shared and path.startswith(SHMEM_PREFIXES)):
        return RegionKind.SHMEM
    if inode != 0 or path.startswith(b"/"):
        return RegionKind.SHARED_FILE if shared else RegionKind.FILE
    return RegionKind.ANON


def copied_on_write(regions: Iterable[Region]) -> array[int]:
    """Return start, end, ... of the regions whose private pages belong to others too. Regions ascend by address."""
    spans: array[int] = array("Q")
    for region in regions:
        if region.copied_on_write:
            spans.extend((region.start, region.end))
    return spans


def split_at(regions: Iterable[Region], boundaries: Iterable[int]) -> list[Region]:
    """Return the regions, each cut at the boundaries (addresses) that lie inside it. Regions ascend by address."""
    cuts = sorted(set(boundaries))
    if not cuts:
        return list(regions)
    result: list[Region] = []
    position = 0
    for region in regions:
        while position < len(cuts) and cuts[position] <= region.start:
            position += 1
        start = region.start
        while position < len(cuts) and cuts[position] < region.end:
            result.append(region.piece(start, cuts[position]))
            start = cuts[position]
            position += 1
        result.append(region if start == region.start else region.piece(start, region.end))
    return result
