"""What speaks against a snapshot of a process, as far as it can be seen without touching it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .arch import Arch
from .errors import CorepipeError
from .headroom import dies_as_a_whole, is_frozen, target_memory_limit
from .permissions import CAP_SYS_ADMIN, has_capability
from .procfs import ProcDir, TaskStatus
from .regions import SHMEM_PREFIXES, Region, RegionKind
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

    Shared memory is not frozen by it, nor is a private mapping of a memory file, or one of a shared file that was
    opened for reading: others write to it. MADV_DONTFORK and MADV_WIPEONFORK say so themselves, and a child's huge
    pages may be taken away from it (mm/hugetlb.c, unmap_ref_private).
    """
    if may_be_live(region) or region.kind is RegionKind.HUGETLB or "dc" in region.flags or "wf" in region.flags:
        return True
    return region.perms[3:4] == "p" and region.path.startswith(SHMEM_PREFIXES)


def may_be_live(region: Region) -> bool:
    """Return whether others may write to the region's pages, so that it can be read live at all."""
    return region.shared or region.perms[3:4] == "s"


def memory_need(status: TaskStatus, whole: bool = False) -> int:
    """Return the bytes that a snapshot is expected to take: page tables, and pages written while it is streamed.

    whole: as if the target wrote to all of its pages meanwhile.
    """
    share = status.rss_anonymous if whole else status.rss_anonymous // _WRITTEN_SHARE
    return status.vm_pte + max(_LEAST_HEADROOM, share)


def is_private_hugetlb(region: Region) -> bool:
    """Return whether a fork would endanger the target's own huge pages.

    A page that is shared with a child is copied at the next write, and where the pool has none left, the writer gets
    SIGBUS unless the mapping has a reservation of its own (mm/hugetlb.c, hugetlb_wp).
    """
    if region.path.startswith(b"/anon_hugepage") and not region.flags:
        return not region.shared
    return region.kind is RegionKind.HUGETLB and not region.shared and region.hugetlb > 0


def thread_refusal(status: TaskStatus) -> str:
    """Return in a line why no call can be run in a thread with that status, empty if nothing speaks against it."""
    if status.shadow_stack:
        return "the target has a shadow stack (CET), which forbids the way back"
    if status.seccomp == SECCOMP_STRICT:
        return "the target is in seccomp's strict mode"
    if status.seccomp == SECCOMP_FILTER and not has_capability(CAP_SYS_ADMIN):
        return "the target has a seccomp filter, and only CAP_SYS_ADMIN may look into it"
    return ""


def snapshot_refusal(process: ProcDir, status: TaskStatus, arch: Arch, regions: Sequence[Region]) -> str:
    """Return in a line why a snapshot is out of the question, empty if nothing speaks against it so far."""
    if arch.injection is None:
        return f"system calls cannot be run inside {arch.name} programs yet"
    reason = thread_refusal(status)
    if reason:
        return reason
    if any(region.flags & _USERFAULTFD_FLAGS for region in regions):
        return "the target uses userfaultfd, whose other end might have to answer to the fork"
    if process.readlink("ns/pid") != process.readlink("ns/pid_for_children"):
        return "the target's children would be in another pid namespace"
    if any(is_private_hugetlb(region) for region in regions):
        return "the target has private huge pages (hugetlb), of which a fork may take its next write"
    if arch.tags is not None and any(is_copied(region) and arch.tags.vm_flag in region.flags for region in regions):
        return "the target has tagged memory that a fork does not carry"
    try:
        if is_frozen(process):
            return "the target's cgroup is frozen"
        room, whole = target_memory_limit(process), dies_as_a_whole(process)
    except (CorepipeError, ValueError):
        return ""
    need = memory_need(status, whole)
    if need > room:
        return f"a snapshot may need {format_bytes(need)}, and the target can get no more than {format_bytes(room)}"
    return ""


def inherits_orphans(status: TaskStatus) -> bool:
    """Return whether the target is the init of its pid namespace: what its children leave behind becomes its own."""
    return bool(status.ns_tgids) and status.ns_tgids[-1] == 1
