"""Colours of region kinds: the palette of Okabe and Ito, which people with any colour vision can tell apart."""

from __future__ import annotations

from corepipe_engine.regions import RegionKind

KIND_COLORS: dict[str, str] = {
    RegionKind.HEAP.value: "#E69F00",
    RegionKind.STACK.value: "#56B4E9",
    RegionKind.ANON.value: "#009E73",
    RegionKind.FILE.value: "#8A93A5",
    RegionKind.SHARED_FILE.value: "#D55E00",
    RegionKind.SHMEM.value: "#CC79A7",
    RegionKind.HUGETLB.value: "#0072B2",
    RegionKind.DEVICE.value: "#6B6B6B",
    RegionKind.VDSO.value: "#B8A9C9",
    RegionKind.VVAR.value: "#6B6B6B",
    RegionKind.VSYSCALL.value: "#6B6B6B",
}
