"""Settings of the whole machine that a test changes and gives back: huge pages, swap, KSM, vm.max_map_count."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_PAGE = 4096
KSM = Path("/sys/kernel/mm/ksm")


@contextlib.contextmanager
def shm_folder() -> Iterator[Path]:
    """A new folder in /dev/shm."""
    folder = Path(f"/dev/shm/corepipe-test-{os.urandom(6).hex()}")
    folder.mkdir()
    try:
        yield folder
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@contextlib.contextmanager
def setting(path: Path, value: str) -> Iterator[bool]:
    """Write a value to a file of /proc/sys or /sys for a while. Yields whether it took it."""
    try:
        before = path.read_text().strip()
        path.write_text(value)
    except OSError:
        yield False
        return
    try:
        yield path.read_text().strip() == value
    finally:
        path.write_text(before)


@contextlib.contextmanager
def huge_pages(count: int) -> Iterator[bool]:
    """So many free huge pages of 2 MiB, and no more. Yields False where they cannot be had."""
    path = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not path.exists():
        yield False
        return
    free = int((path.parent / "free_hugepages").read_text())
    with setting(path, str(int(path.read_text()) + max(count - free, 0))) as granted:
        yield granted


@contextlib.contextmanager
def swap_file(path: Path, size: int) -> Iterator[bool]:
    """A swap area in a new file. Yields False where the machine grants none: in a container, on a file system without.

    The header is that of mkswap(8): union swap_header in include/linux/swap.h.
    """
    header = bytearray(_PAGE)
    struct.pack_into("<3I", header, 1024, 1, size // _PAGE - 1, 0)
    header[_PAGE - 10 :] = b"SWAPSPACE2"
    with path.open("wb") as file:
        path.chmod(0o600)
        file.write(header)
        for _ in range(_PAGE, size, 1 << 20):  # written, not reserved: a swap file has no holes
            file.write(bytes(min(1 << 20, size - file.tell())))
    name = os.fsencode(path)
    granted = _libc.swapon(name, 0) == 0
    try:
        yield granted
    finally:
        if granted and _libc.swapoff(name):
            raise OSError(ctypes.get_errno(), "swapoff")
        path.unlink()


def page_out(pid: int, address: int, size: int) -> None:
    """Ask the kernel to reclaim memory of another process now: process_madvise(2), MADV_PAGEOUT, Linux 5.10."""
    pidfd = os.pidfd_open(pid)
    try:
        area = (ctypes.c_uint64 * 2)(address, size)
        if _libc.syscall(440, pidfd, area, ctypes.c_size_t(1), 21, 0) < 0:
            raise OSError(ctypes.get_errno(), "process_madvise")
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def merging() -> Iterator[bool]:
    """Let ksmd merge equal pages at full speed. Yields False where the kernel has no KSM."""
    with contextlib.ExitStack() as stack:
        names = (("sleep_millisecs", "0"), ("pages_to_scan", "10000"), ("run", "1"))
        granted = [stack.enter_context(setting(KSM / name, value)) for name, value in names]
        yield all(granted)
