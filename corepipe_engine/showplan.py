"""`corepipe PID --plan`: what would be dumped, as a table or as JSON. The target is not touched."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Iterator
from typing import Any

from .inspection import Inspection, inspect_process, open_target
from .options import DumpOptions
from .plan import PlannedRegion, obstacle
from .report import omitted_by_reason
from .reporter import format_bytes, printable


def plan_record(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as plain data; sizes in bytes, addresses as numbers."""
    plan = inspection.plan
    return {
        "pid": inspection.pid,
        "comm": inspection.comm.decode("utf-8", "backslashreplace"),
        "exe": inspection.exe.decode("utf-8", "backslashreplace"),
        "arch": inspection.arch.name,
        "threads": inspection.threads,
        "coredump_filter": f"{inspection.filter_bits:#x}",
        "mode": inspection.mode,
        "fallbacks": list(inspection.fallbacks),
        "stop_seconds_estimated": inspection.stop_seconds,
        "core_bytes": inspection.core_bytes,
        "segments": plan.segments,
        "holes_bytes": plan.hole_bytes,
        "obstacle": error.message if (error := obstacle(plan)) else "",
        "omitted": omitted_by_reason(plan),
        "regions": [_region_record(planned) for planned in plan.regions],
    }


def _region_record(planned: PlannedRegion) -> dict[str, Any]:
    region = planned.region
    return {
        "start": region.start,
        "end": region.end,
        "perms": region.perms,
        "kind": region.kind.value,
        "path": region.path.decode("utf-8", "backslashreplace"),
        "included": planned.decision.included,
        "reason": planned.decision.reason,
        "file_bytes": planned.file_bytes,
        "hole_bytes": planned.hole_bytes,
        "zero_bytes": planned.zero_bytes,
        "rss": region.rss,
        "swap": region.swap,
    }


def show_plan(pid: int, options: DumpOptions, as_json: bool, verbose: bool) -> int:
    """Print the plan to standard output and return the exit status. Errors: CorepipeError."""
    with contextlib.closing(open_target(pid)) as process:
        inspection = inspect_process(process, options)
    unmatched = options.policy.unmatched([planned.region for planned in inspection.plan.regions])
    if as_json:
        import json

        json.dump({**plan_record(inspection), "notices": unmatched}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        for line in itertools.chain(_lines(inspection), unmatched):
            sys.stdout.write(line + "\n")
    sys.stdout.flush()
    return 0


def _lines(inspection: Inspection) -> Iterator[str]:
    plan = inspection.plan
    sizes = functools.lru_cache(format_bytes)
    yield f"{'ADDRESS RANGE':33} PERM {'KIND':11} {'SIZE':>11} {'IN CORE':>11}  REASON, MAPPING"
    for planned in plan.regions:
        region = planned.region
        mark = "*" if planned.decision.included else " "
        address = f"{region.start:x}-{region.end:x}"
        yield (
            f"{mark} {address:31} {region.perms[:4]} {region.kind:11} {sizes(region.size):>11} "
            f"{sizes(planned.file_bytes):>11}  {planned.decision.reason}{_mapped(region.path)}"
        )
    included = sum(planned.decision.included for planned in plan.regions)
    yield ""
    yield (
        f"{included} of {len(plan.regions)} regions, core {inspection.core_bytes} bytes "
        f"({format_bytes(inspection.core_bytes)}), {format_bytes(plan.hole_bytes)} never touched and left out"
    )
    if error := obstacle(plan):
        yield f"not possible: {error.message}"
        yield error.hint
    yield from inspection.fallbacks
    yield f"{inspection.threads} threads, stop about {inspection.stop_seconds * 1000:.0f} ms ({inspection.mode})"


def _mapped(path: bytes) -> str:
    if not path:
        return ""
    return "  " + printable(path.decode("utf-8", "backslashreplace")).replace("\n", "\\n").replace("\t", "\\t")
