"""The target's mappings, worked out before the stop: in the stop it only has to be seen that they still hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .mappings import parse_maps
from .policy import is_hotspot
from .preconditions import is_copied, is_private_hugetlb
from .procfs import PAGE_SIZE, ProcDir
from .regions import Region, RegionKind


@dataclass(frozen=True, slots=True)
class KnownMaps:
    """What maps said, with the flags that smaps gave of the same mappings.

    special: what a fork does not carry (preconditions.is_copied); stacks: main stacks, of which there is one at most;
    private_hugetlb: whether huge pages are mapped privately; hotspot: whether it is a JVM.
    """

    text: bytes
    regions: list[Region]
    special: list[Region]
    stacks: list[Region]
    private_hugetlb: bool
    hotspot: bool
    _before: Sequence[Region]

    @classmethod
    def of(cls, text: bytes, before: Sequence[Region]) -> KnownMaps:
        """Work out what maps says; before: the regions of smaps a moment earlier."""
        regions = with_flags(parse_maps(text), before)
        return cls(
            text,
            regions,
            [region for region in regions if is_copied(region)],
            [region for region in regions if region.kind is RegionKind.STACK],
            any(is_private_hugetlb(region) for region in regions),
            is_hotspot(regions),
            before,
        )

    def now(self, text: bytes) -> KnownMaps:
        """Return what holds when maps says this: most often the same, and nothing is left to do."""
        return self if text == self.text else KnownMaps.of(text, self._before)

    def not_carried(self, task: ProcDir, copy: ProcDir) -> list[Region]:
        """Return what a copy that was just forked from the stopped task does not have, whatever smaps said before.

        Where their sizes differ by just what was known, nothing else is missing: the fork took each mapping's pages off
        that it left out (kernel/fork.c, dup_mmap). The reading of maps, slow with many mappings, is spared then.
        """
        left_out = sum(region.size for region in self.special if "dc" in region.flags)
        if _address_space(task) - left_out == _address_space(copy):
            return self.special
        carried = {region.start for region in parse_maps(copy.read("maps"))}
        return [region for region in self.regions if is_copied(region) or region.start not in carried]


def _address_space(process: ProcDir) -> int:
    """Bytes of all mappings of a process."""
    return int(process.read("statm").split()[0]) * PAGE_SIZE


def with_flags(regions: Iterable[Region], before: Sequence[Region]) -> list[Region]:
    """Return regions of maps with the flags and counts that smaps told of the same mappings a moment before.

    Both ascend by address.
    """
    result = []
    position = 0
    for region in regions:
        while position < len(before) and before[position].start < region.start:
            position += 1
        old = before[position] if position < len(before) else region
        if old.start == region.start and (old.perms[3:4], old.inode, old.path) == (
            region.perms[3:4],
            region.inode,
            region.path,
        ):
            if (old.end, old.perms, old.offset) == (region.end, region.perms, region.offset):
                region = old  # the same object, not a copy: there may be many
            else:
                region = replace(old, end=region.end, perms=region.perms, offset=region.offset)
        result.append(region)
    return result
