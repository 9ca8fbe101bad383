"""What speaks against a snapshot of a process, as far as it can be seen without touching it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .arch import Arch
from .errors import CorepipeError
from .headroom import is_frozen, target_memory_limit
from .permissions import CAP_SYS_ADMIN, has_capability
from .procfs import ProcDir, TaskStatus
from .regions import Region, RegionKind
from .reporter import format_bytes

_LEAST_HEADROOM: Final = 32 << 20
_WRITTEN_SHARE: Final = 10
_USERFAULTFD_FLAGS: Final = frozenset({"um", "uw", "ui"})
SHARED_BUDGET: Final = 256 << 20
"""Bytes of shared memory that `--shared auto` copies inside the stop; what is larger is read live."""
BUFFER_HEADROOM: Final = 256 << 20
"""What a copy in RAM must leave free."""
SECCOMP_STRICT: Final = 1
SECCOMP_FILTER: Final = 2


def is_copied(region: Region) -> bool:
    """Return whether a fork does not carry the region: it must be copied before the target runs on.

    Shared memory is not frozen by it, MADV_DONTFORK and MADV_WIPEONFORK say so themselves, and a child's huge pages of
    a private hugetlb mapping may be taken away from it (mm/hugetlb.c, unmap_ref_private).
    """
    return region.shared or region.kind is RegionKind.HUGETLB or "dc" in region.flags or "wf" in region.flags


def memory_need(status: TaskStatus) -> int:
    """Return the bytes that a snapshot is expected to take: page tables, and pages written while it is streamed."""
    return status.vm_pte + max(_LEAST_HEADROOM, status.rss_anonymous // _WRITTEN_SHARE)


def snapshot_refusal(process: ProcDir, status: TaskStatus, arch: Arch, regions: Sequence[Region]) -> str:
    """Return in a line why a snapshot is out of the question, empty if nothing speaks against it so far."""
    if arch.injection is None:
        return f"system calls cannot be run inside {arch.name} programs yet"
    if status.shadow_stack:
        return "the target has a shadow stack (CET), which forbids the way back"
    if status.seccomp == SECCOMP_STRICT:
        return "the target is in seccomp's strict mode"
    if status.seccomp == SECCOMP_FILTER and not has_capability(CAP_SYS_ADMIN):
        return "the target has a seccomp filter, and only CAP_SYS_ADMIN may look into it"
    if any(region.flags & _USERFAULTFD_FLAGS for region in regions):
        return "the target uses userfaultfd, whose other end might have to answer to the fork"
    if len(status.ns_tgids) > 1 and process.readlink("ns/pid") != process.readlink("ns/pid_for_children"):
        return "the target's children would be in another pid namespace"
    try:
        if is_frozen(process):
            return "the target's cgroup is frozen"
        room = target_memory_limit(process)
    except (CorepipeError, ValueError):
        return ""
    need = memory_need(status)
    if need > room:
        return f"a snapshot may need {format_bytes(need)}, and the target can get no more than {format_bytes(room)}"
    return ""


def inherits_orphans(status: TaskStatus) -> bool:
    """Return whether the target is the init of its pid namespace: what its children leave behind becomes its own."""
    return bool(status.ns_tgids) and status.ns_tgids[-1] == 1
