"""Address spaces that exist only in the tests, with everything the regions screen needs: the same on every machine."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from corepipe_engine.arch import ARCHES
from corepipe_engine.inspection import Inspection, has_holes
from corepipe_engine.options import DumpOptions, Holes
from corepipe_engine.plan import DumpPlan, make_plan
from corepipe_engine.policy import DEFAULT_FILTER, Decision, Extent
from corepipe_engine.procfs import TaskStatus
from corepipe_engine.regions import Region, RegionKind
from corepipe_tui.selection import Selection

from .fakes import FIRST_PID

PAGE = 4096
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_ARCH = ARCHES[0]


def region(
    start: int, size: int, touched: int, perms: str, kind: RegionKind, path: bytes = b"", **fields: object
) -> Region:
    values: dict[str, object] = {
        "offset": 0,
        "dev": "fe:01" if path.startswith(b"/") else "00:00",
        "inode": 4711 if path.startswith(b"/") else 0,
        "flags": frozenset({"rd", "sh"} if perms[3] == "s" else {"rd"}),
        "rss": touched,
        "anonymous": touched if kind in (RegionKind.ANON, RegionKind.HEAP, RegionKind.STACK) or perms[1] == "w" else 0,
        "swap": 0,
    }
    values.update(fields)
    return Region(start, start + size, perms, path=path, kind=kind, **values)  # type: ignore[arg-type]


def server(hostile: bytes = b"") -> list[Region]:
    """The mappings of a server: heap, arenas, libraries, shared memory, thread stacks; one path may be hostile."""
    regions = []
    for offset, size, perms in (
        (0, 44, "r--p"),
        (44, 612, "r-xp"),
        (656, 180, "r--p"),
        (840, 24, "r--p"),
        (864, 8, "rw-p"),
    ):
        kib, program = offset * KIB, b"/usr/bin/checkout"
        regions.append(region(0x55D0_C000_0000 + kib, size * KIB, size * KIB, perms, RegionKind.FILE, program))
    regions.append(region(0x55D0_C212_3000, 412 * MIB, 405 * MIB, "rw-p", RegionKind.HEAP, b"[heap]", swap=3 * MIB))
    at = 0x7F10_0000_0000
    for index in range(8):
        regions.append(region(at, 64 * MIB - 132 * KIB, 132 * KIB, "---p", RegionKind.ANON, anonymous=0, rss=0))
        regions[-1] = region(at, (3 + index) * MIB, (2 + index) * MIB, "rw-p", RegionKind.ANON)
        at += 64 * MIB
    regions.append(region(at, 2 * GIB, 1340 * MIB, "rw-p", RegionKind.ANON))
    at += 2 * GIB + 64 * MIB
    regions.append(
        region(at, 256 * MIB, 96 * MIB, "rw-s", RegionKind.SHMEM, b"/dev/shm/checkout-queue", inode=77, dev="00:19")
    )
    at += 512 * MIB
    regions.append(
        region(at, 512 * MIB, 310 * MIB, "r--s", RegionKind.SHARED_FILE, b"/var/lib/checkout/prices.db", anonymous=0)
    )
    at += 1 * GIB
    for index in range(6):
        regions.append(region(at, 8 * MIB, 48 * KIB + index * PAGE, "rw-p", RegionKind.ANON))
        at += 8 * MIB + PAGE
    for name in (b"libc.so.6", b"libm.so.6", b"libssl.so.3", b"libcrypto.so.3", b"libstdc++.so.6", b"libgcc_s.so.1"):
        for size, perms in ((160, "r--p"), (1364, "r-xp"), (332, "r--p"), (16, "r--p"), (8, "rw-p")):
            path = b"/usr/lib/x86_64-linux-gnu/" + name
            regions.append(region(at, size * KIB, size * KIB, perms, RegionKind.FILE, path))
            at += size * KIB
    if hostile:
        regions.append(region(at, 64 * KIB, 64 * KIB, "rw-p", RegionKind.FILE, b"/srv/" + hostile))
        at += 64 * KIB
    regions.append(
        region(at, 16 * KIB, 0, "rw-s", RegionKind.DEVICE, b"/dev/dri/renderD128", flags=frozenset({"io", "sh"}))
    )
    regions.append(region(0x7FFC_B000_0000, 132 * KIB, 68 * KIB, "rw-p", RegionKind.STACK, b"[stack]"))
    regions.append(region(0x7FFC_B010_0000, 16 * KIB, 0, "r--p", RegionKind.VVAR, b"[vvar]", flags=frozenset({"io"})))
    regions.append(region(0x7FFC_B010_4000, 8 * KIB, 8 * KIB, "r-xp", RegionKind.VDSO, b"[vdso]"))
    return regions


def many(count: int) -> list[Region]:
    """Mappings as a program with many small arenas, files and stacks has them, two pages each, a page apart."""
    kinds = (RegionKind.ANON, RegionKind.FILE, RegionKind.ANON, RegionKind.SHMEM)
    paths = (b"", b"/usr/lib/jvm/lib/module-%d.so", b"", b"/dev/shm/segment-%d")
    perms = ("rw-p", "r--p", "rw-p", "rw-s")
    return [
        region(
            0x7000_0000_0000 + index * 3 * PAGE,
            2 * PAGE,
            PAGE,
            perms[index % 4],
            kinds[index % 4],
            paths[index % 4] % index if paths[index % 4] else b"",
        )
        for index in range(count)
    ]


def _plan(regions: Sequence[Region], decisions: Sequence[Decision], options: DumpOptions) -> DumpPlan:
    runs = array("Q")
    sparse = [has_holes(item) for item in regions]
    for item, holes in zip(regions, sparse, strict=True):
        if holes and item.rss:
            runs.extend((item.start, item.start + item.rss))
    return make_plan(
        regions,
        decisions,
        sparse,
        runs,
        notes_bytes=29_432,
        elf=_ARCH.elf,
        machine=_ARCH.machine,
        page_size=PAGE,
        holes_as_zeros=options.holes is Holes.ZERO,
    )


def selection(
    regions: Sequence[Region], pid: int = FIRST_PID, options: DumpOptions | None = None, **fields: object
) -> Selection:
    """What load_selection would return for a process with these mappings, of each of which the first `rss` bytes are
    touched; fields are those of Inspection.
    """
    options = options or DumpOptions()
    decisions = [options.policy.decide(item, DEFAULT_FILTER, lambda item: True, []) for item in regions]
    plan = _plan(regions, decisions, options)
    whole = _plan(regions, [Decision(Extent.ALL, "")] * len(regions), options)
    status = TaskStatus(
        b"checkout", "S", pid, 0, 1000, 1000, 1000, (pid,), (pid,), (pid,), (pid,), False, 41,
        1900 * MIB, 3 * MIB, 4 * MIB, 0, 0, False, 0, 0, 0,
    )  # fmt: skip
    values: dict[str, object] = {
        "pid": pid,
        "arch": _ARCH,
        "status": status,
        "comm": b"checkout",
        "exe": b"/usr/bin/checkout",
        "threads": 41,
        "filter_bits": DEFAULT_FILTER,
        "plan": plan,
        "stop_seconds": 0.0612,
        "mode": "snapshot",
    }
    values.update(fields)
    return Selection(Inspection(**values), whole.regions, options)  # type: ignore[arg-type]


def loader(regions: Sequence[Region], **fields: object) -> Callable[[int, DumpOptions], Selection]:
    """What make_app(load=...) takes."""
    return lambda pid, options: selection(regions, pid, options, **fields)
