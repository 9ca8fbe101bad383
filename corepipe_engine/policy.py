"""Which regions go into the core, each with its reason.

The default imitates vma_dump_size in fs/coredump.c, as seen from outside: a mapping has an anon_vma where smaps
counts anonymous or swapped pages, and is shared where VmFlags has `sh`.
"""

from __future__ import annotations

import bisect
import enum
import fnmatch
import functools
import mmap
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .elf import round_up
from .errors import UsageError
from .regions import Region, RegionKind


class FilterBit(enum.IntEnum):
    """Bits of /proc/PID/coredump_filter (core(5))."""

    ANON_PRIVATE = 1 << 0
    ANON_SHARED = 1 << 1
    MAPPED_PRIVATE = 1 << 2
    MAPPED_SHARED = 1 << 3
    ELF_HEADERS = 1 << 4
    HUGETLB_PRIVATE = 1 << 5
    HUGETLB_SHARED = 1 << 6
    DAX_PRIVATE = 1 << 7
    DAX_SHARED = 1 << 8


DEFAULT_FILTER = 0x33


class Preset(str, enum.Enum):
    """Named choices of what goes in."""

    KERNEL = "kernel"
    FULL = "full"
    JAVA = "java"
    STACKS = "stacks"

    def __str__(self) -> str:
        return self.value


class Extent(enum.IntEnum):
    """How much of a region goes into the core."""

    NONE = 0
    FIRST_PAGE = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Decision:
    """How much of a region goes in, and why, in a few words."""

    extent: Extent
    reason: str

    @property
    def included(self) -> bool:
        """True where at least a page goes in."""
        return self.extent is not Extent.NONE


@functools.lru_cache(maxsize=256)
def _decided(extent: Extent, reason: str) -> Decision:
    """Return the decision, one object for all regions that it is made of: there may be many."""
    return Decision(extent, reason)


HeaderProbe = Callable[[Region], bool]
"""Tells whether a file mapping's first page is worth keeping: the file is executable, or begins with the ELF magic."""


def _by_bit(bits: int, bit: FilterBit, what: str) -> Decision:
    number = bit.bit_length() - 1
    if bits & bit:
        return _decided(Extent.ALL, f"{what} (filter bit {number})")
    return _decided(Extent.NONE, f"{what}: filter bit {number} is off")


def _why_dontdump(region: Region) -> str:
    """Who set VM_DONTDUMP: the kernel does so too, for what it maps for devices and for memory of some kinds."""
    if "io" in region.flags:
        return "device memory"
    if "dp" in region.flags:
        return "droppable memory (MAP_DROPPABLE)"
    if "lo" in region.flags and region.path.startswith(b"/secretmem"):
        return "secret memory (memfd_secret)"
    return "MADV_DONTDUMP"


def decide_as_kernel(region: Region, bits: int, is_elf: HeaderProbe) -> Decision:
    """Return what the kernel would do with the region under that coredump_filter (fs/coredump.c, vma_dump_size)."""
    if region.kind is RegionKind.VDSO:
        return _decided(Extent.ALL, "vDSO, always dumped")
    if region.kind is RegionKind.VVAR:
        # The kernel writes zeros in its place: not even it can read these pages from outside.
        return _decided(Extent.NONE, "vvar: only the process itself can read it")
    if region.kind is RegionKind.VSYSCALL:
        if region.perms.startswith("r"):
            return _decided(Extent.ALL, "vsyscall page, always dumped")
        return _decided(Extent.NONE, "vsyscall page: execute-only, cannot be read")
    if "dd" in region.flags:
        return _decided(Extent.NONE, _why_dontdump(region))
    if region.kind is RegionKind.HUGETLB:
        if region.shared:
            return _by_bit(bits, FilterBit.HUGETLB_SHARED, "shared huge pages")
        return _by_bit(bits, FilterBit.HUGETLB_PRIVATE, "private huge pages")
    if "io" in region.flags:
        return _decided(Extent.NONE, "device memory")
    if region.shared:
        if region.kind is RegionKind.SHMEM and (region.deleted or not region.path.startswith(b"/")):
            return _by_bit(bits, FilterBit.ANON_SHARED, "shared anonymous memory")
        if region.deleted:
            return _by_bit(bits, FilterBit.ANON_SHARED, "shared mapping of a deleted file")
        return _by_bit(bits, FilterBit.MAPPED_SHARED, "shared file mapping")
    has_anonymous_pages = region.anonymous + region.swap > 0
    if has_anonymous_pages and bits & FilterBit.ANON_PRIVATE:
        what = "written pages of a private file mapping" if region.file_backed else "private anonymous memory"
        return _decided(Extent.ALL, f"{what} (filter bit 0)")
    if not region.file_backed:
        if has_anonymous_pages:
            return _decided(Extent.NONE, "private anonymous memory: filter bit 0 is off")
        return _decided(Extent.NONE, "never touched")
    if bits & FilterBit.MAPPED_PRIVATE:
        return _decided(Extent.ALL, "private file mapping (filter bit 2)")
    if bits & FilterBit.ELF_HEADERS and region.offset == 0 and region.perms.startswith("r") and is_elf(region):
        return _decided(Extent.FIRST_PAGE, "ELF header page (filter bit 4)")
    return _decided(Extent.NONE, "private file mapping: filter bit 2 is off")


@dataclass(frozen=True, slots=True)
class Selector:
    """What `--include` and `--exclude` name: an address range, a kind, or a glob over the mapped path."""

    text: str
    start: int = 0
    end: int = 0
    kind: RegionKind | None = None
    glob: re.Pattern[bytes] | None = None

    def matches(self, region: Region) -> bool:
        """Return whether the region (a piece that does not straddle this selector's range) is meant."""
        if self.kind is not None:
            return region.kind is self.kind
        if self.glob is not None:
            return self.glob.fullmatch(region.path) is not None
        return self.start <= region.start and region.end <= self.end


def _is_glob(text: str) -> bool:
    return text.startswith("[") or not {"/", "*", "?"}.isdisjoint(text)


_RANGE = re.compile(r"(?:0x)?([0-9a-fA-F]+)-(?:0x)?([0-9a-fA-F]+)")


def parse_selector(text: str) -> Selector:
    """Return the selector for START-END (hexadecimal addresses), a kind's name, or a path glob. Errors: UsageError.

    A range is widened to whole pages: a segment begins on a page, and the kernel counts touched memory in pages.
    """
    for kind in RegionKind:
        if text == kind.value:
            return Selector(text, kind=kind)
    match = _RANGE.fullmatch(text)
    if match:
        start, end = int(match[1], 16), int(match[2], 16)
        if start >= end:
            raise UsageError(f"the address range {text} is empty", "give it as START-END in hexadecimal")
        return Selector(text, start=start // mmap.PAGESIZE * mmap.PAGESIZE, end=round_up(end, mmap.PAGESIZE))
    if _is_glob(text):
        pattern = fnmatch.translate(text if not text.startswith("[") else "[[]" + text[1:])
        # a byte-wise copy of the pattern: paths are bytes, and need not be valid in any encoding
        return Selector(text, glob=re.compile(pattern.encode("utf-8", "surrogateescape"), re.DOTALL))
    kinds = ", ".join(kind.value for kind in RegionKind)
    raise UsageError(
        f"{text!r} names no region",
        f"use START-END (hexadecimal), a path glob such as '*/libjvm.so', or one of: {kinds}",
    )


def parse_selectors(text: str) -> list[Selector]:
    """Return the selectors of one option: a path glob, or kinds and ranges in a list with commas. Errors: UsageError.

    A path may hold commas itself, so a glob stands alone; behind a kind or a range it would be meant as a second one.
    """
    words = text.split(",")
    if _is_glob(text):
        if len(words) > 1 and not _is_glob(words[0]):
            raise UsageError(
                f"{text!r} is a list with a path glob in it, and paths may hold commas",
                "repeat the option for the glob",
            )
        words = [text]
    return [parse_selector(word) for word in words]


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole choice: a preset, the filter bits, then --include and --exclude in the order they were given.

    filter_bits: None stands for the target's own coredump_filter. rules: (include?, selector), the last that matches
    wins.
    """

    preset: Preset = Preset.KERNEL
    filter_bits: int | None = None
    rules: tuple[tuple[bool, Selector], ...] = ()

    def boundaries(self) -> list[int]:
        """Return the addresses at which regions must be cut before decide() is asked."""
        return [
            address
            for _, selector in self.rules
            if selector.kind is None and selector.glob is None
            for address in (selector.start, selector.end)
        ]

    def unmatched(self, regions: Sequence[Region]) -> list[str]:
        """Return a line for each rule that means none of the regions (cut at boundaries()): most likely a slip."""
        return [
            f"{'--include' if include else '--exclude'} {selector.text} names no mapping of the process"
            for include, selector in self.rules
            if not any(selector.matches(region) for region in regions)
        ]

    def decide(
        self,
        region: Region,
        target_filter: int,
        is_elf: HeaderProbe,
        stack_pointers: Sequence[int] = (),
        hotspot: bool = False,
    ) -> Decision:
        """Return the decision for one region.

        target_filter: the target's coredump_filter; stack_pointers: of all threads, ascending, for the preset `stacks`;
        hotspot: the target is a JVM, which has set bits of its filter by itself.
        """
        bits = target_filter if self.filter_bits is None else self.filter_bits
        if hotspot and self.filter_bits is None and _is_on_disk(region):
            decision = self._decide_by_preset(region, bits & ~FilterBit.MAPPED_PRIVATE, is_elf, stack_pointers)
            if not decision.included and bits & FilterBit.MAPPED_PRIVATE and self.preset in _PRESETS_BY_FILTER:
                decision = _decided(Extent.NONE, "unchanged file on disk (filter bit 2 was set by HotSpot itself)")
        else:
            decision = self._decide_by_preset(region, bits, is_elf, stack_pointers)
        for include, selector in reversed(self.rules):
            if selector.matches(region):
                if not include:
                    return _decided(Extent.NONE, f"--exclude {selector.text}")
                if region.kind in _UNREADABLE_KINDS:
                    return decision
                return _decided(Extent.ALL, f"--include {selector.text}")
        return decision

    def _decide_by_preset(
        self, region: Region, bits: int, is_elf: HeaderProbe, stack_pointers: Sequence[int]
    ) -> Decision:
        if self.preset is Preset.FULL:
            return _decide_full(region, bits, is_elf)
        if self.preset is Preset.JAVA:
            return _decide_java(region, bits, is_elf)
        if self.preset is Preset.STACKS:
            return _decide_stacks(region, is_elf, stack_pointers)
        return decide_as_kernel(region, bits, is_elf)


_UNREADABLE_KINDS = frozenset({RegionKind.DEVICE, RegionKind.VVAR, RegionKind.VSYSCALL})
"""Kinds whose preset decision stands: reading them fails, or has effects on a device."""
ALL_BITS = 0x1FF


_PRESETS_BY_FILTER = frozenset({Preset.KERNEL, Preset.JAVA})
CDS_SUFFIX = b".jsa"


def is_hotspot(regions: Iterable[Region]) -> bool:
    """Return whether the regions are those of a JVM."""
    return any(region.path.endswith(b"/libjvm.so") for region in regions)


def _is_on_disk(region: Region) -> bool:
    """Return whether a region is a part of a file that the process has not changed and cannot change.

    HotSpot sets bit 2 of its own coredump_filter for the sake of its CDS archive (-XX:+DumpPrivateMappingsInCore, the
    default; os_linux.cpp). Taken at its word that means 120 MB of lib/modules, and every index file that a search
    engine has mapped. The serviceability agent looks for none of it in a core, and reads binaries from the disk.
    """
    if region.kind is not RegionKind.FILE or region.deleted or region.path.endswith(CDS_SUFFIX):
        return False
    return "w" not in region.perms and not region.anonymous + region.swap


def _decide_full(region: Region, bits: int, is_elf: HeaderProbe) -> Decision:
    decision = decide_as_kernel(region, ALL_BITS, is_elf)
    return _decided(decision.extent, "preset full") if decision.included else decision


def _decide_java(region: Region, bits: int, is_elf: HeaderProbe) -> Decision:
    """Heaps may be shared (memfd) or huge pages; the CDS archive is a file that jhsdb reads through the core."""
    wanted = bits | FilterBit.ANON_PRIVATE | FilterBit.ANON_SHARED | FilterBit.ELF_HEADERS
    wanted |= FilterBit.HUGETLB_PRIVATE | FilterBit.HUGETLB_SHARED
    if region.path.endswith(CDS_SUFFIX) and "dd" not in region.flags:
        return _decided(Extent.ALL, "CDS archive (preset java)")
    return decide_as_kernel(region, wanted, is_elf)


SMALL_ANONYMOUS = 1 << 20
"""Anonymous mappings up to this size go into `stacks`: the dynamic linker keeps its link_map list in such."""


def _decide_stacks(region: Region, is_elf: HeaderProbe, stack_pointers: Sequence[int]) -> Decision:
    kernel = decide_as_kernel(region, FilterBit.ANON_PRIVATE | FilterBit.ELF_HEADERS, is_elf)
    if not kernel.included:
        return kernel
    if region.kind in (RegionKind.STACK, RegionKind.VDSO, RegionKind.VSYSCALL):
        return _decided(kernel.extent, "preset stacks")
    if bisect.bisect_left(stack_pointers, region.start) != bisect.bisect_left(stack_pointers, region.end):
        return _decided(kernel.extent, "stack of a thread (preset stacks)")
    if region.file_backed or kernel.extent is Extent.FIRST_PAGE:
        return _decided(kernel.extent, "data of a mapped file (preset stacks)")
    if region.size <= SMALL_ANONYMOUS:
        return _decided(kernel.extent, "small anonymous mapping (preset stacks)")
    return _decided(Extent.NONE, "not a stack (preset stacks)")
