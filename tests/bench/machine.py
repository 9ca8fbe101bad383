"""The machine that the figures belong to."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """What a reader must know of this machine, by name."""
    return {
        "CPU": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "RAM": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / (1 << 20):.0f} GiB",
        "kernel": platform.release(),
        "virtual": "yes" if "hypervisor" in _field("/proc/cpuinfo", "flags").split() else "no",
        "huge pages": _huge_pages(),
        "Python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _huge_pages() -> str:
    try:
        words = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().split()
    except OSError:
        return "none"
    return next((word.strip("[]") for word in words if word.startswith("[")), "unknown")
