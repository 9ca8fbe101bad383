"""Where calls can be run in a target: instructions in its own code, and memory that nobody uses."""

from __future__ import annotations

import os
from array import array

from .arch import Arch, Gadgets, Injection
from .errors import ModeUnavailableError
from .memory import Buffer, ProcessMemory
from .procfs import PAGE_SIZE, ProcDir
from .regions import Region, RegionKind

_HANDLER_ROOM_BYTES = 32 << 10
_STACK_IN_USE_BYTES = 64 << 10
_SEARCH_BYTES = 1 << 18
_PREFERRED = (b"/libc.so", b"/libc-", b"/ld-musl", b"/ld-linux")


def injection_of(arch: Arch) -> Injection:
    """Return how calls are run on this machine. Errors: ModeUnavailableError."""
    if arch.injection is None:
        raise ModeUnavailableError(f"system calls cannot be run inside {arch.name} programs yet")
    return arch.injection


def find_gadgets(task: ProcDir, regions: list[Region], injection: Injection) -> Gadgets:
    """Return the gadgets in the target's mapped program code, the C library's first. Errors: ModeUnavailableError."""
    code = [
        region
        for region in regions
        if region.perms.startswith("r-x") and region.kind in (RegionKind.FILE, RegionKind.VDSO) and not region.shared
    ]
    code.sort(key=lambda region: not any(name in region.path for name in _PREFERRED))
    found: list[int] = [0, 0]
    memory, buffer = ProcessMemory(task), Buffer(_SEARCH_BYTES)
    try:
        for region in code:
            _search(memory, buffer, region, injection, found)
            if all(found):
                return Gadgets(*found)
    finally:
        memory.close()
        buffer.close()
    raise ModeUnavailableError("the target's code holds no system call that could be used (no C library)")


def _search(memory: ProcessMemory, buffer: Buffer, region: Region, injection: Injection, found: list[int]) -> None:
    patterns, alignment = injection.gadget_patterns, injection.code_alignment
    longest = max(len(pattern) for alternatives in patterns for pattern in alternatives)
    position = region.start
    while position < region.end and not all(found):
        data = _read(memory, buffer, position, min(_SEARCH_BYTES, region.end - position))
        for index, alternatives in enumerate(patterns):
            for pattern in alternatives:
                at = data.find(pattern)
                while at % alignment and at >= 0:
                    at = data.find(pattern, at + 1)
                if at >= 0 and not found[index]:
                    found[index] = position + at
        step = max(len(data) - longest, 1) if len(data) > longest else len(data)
        position += max(step // alignment * alignment, alignment)


def _read(memory: ProcessMemory, buffer: Buffer, address: int, length: int) -> bytes:
    memory.read(array("Q", (address, length)), buffer, array("Q", (0, length)))
    return bytes(buffer.view[:length])


class CodeReader:
    """Reads instructions of a stopped thread: called with an address it returns bytes, none where there is no code."""

    def __init__(self, task: ProcDir, size: int) -> None:
        self._task = task
        self._size = size
        self._fd = -1

    def __call__(self, address: int) -> bytes:
        """Return the instruction at the address."""
        try:
            if self._fd < 0:
                self._fd = self._task.open("mem")
            return os.pread(self._fd, self._size, address)
        except (OSError, OverflowError):
            return b""

    def close(self) -> None:
        """Close what was opened for it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def check_gadgets(task: ProcDir, gadgets: Gadgets, injection: Injection) -> None:
    """Make sure that the gadgets are still there, now that nothing moves. Errors: ModeUnavailableError."""
    memory, buffer = ProcessMemory(task), Buffer(PAGE_SIZE)
    try:
        for address, alternatives in zip(
            (gadgets.system_call, gadgets.sigreturn), injection.gadget_patterns, strict=True
        ):
            if not any(_read(memory, buffer, address, len(pattern)) == pattern for pattern in alternatives):
                raise ModeUnavailableError("the target's code changed while it was looked at")
    finally:
        memory.close()
        buffer.close()


def find_room(task: ProcDir, regions: list[Region], stack_pointer: int | None, size: int) -> int:
    """Return an address, aligned to a page, from which on size bytes are used by nobody; handlers find room below.

    That is the low end of the main thread's stack, far below where the main thread stands (stack_pointer). Where it
    stands elsewhere (an alternative stack, goroutines) or has ended, the low end must be untouched: then no call ever
    went as deep, and nothing that is still to be returned to lies above. Errors: ModeUnavailableError.
    """
    stack = next((region for region in regions if region.kind is RegionKind.STACK), None)
    needed = _HANDLER_ROOM_BYTES + (size + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
    carried = stack is not None and not stack.flags & {"dc", "wf"}
    if stack is None or not carried or stack.size < needed + PAGE_SIZE or "w" not in stack.perms:
        raise ModeUnavailableError("the target's main stack has no room to work in")
    room = stack.start + _HANDLER_ROOM_BYTES
    on_it = stack_pointer is not None and stack.start <= stack_pointer < stack.end
    if on_it and stack_pointer is not None and stack_pointer - stack.start >= needed + _STACK_IN_USE_BYTES:
        return room
    if not _untouched(task, stack.start, _HANDLER_ROOM_BYTES) or not _all_zeros(
        task, room, needed - _HANDLER_ROOM_BYTES
    ):
        raise ModeUnavailableError("the target's main stack is in use down to its end")
    return room


def _all_zeros(task: ProcDir, address: int, length: int) -> bool:
    """Whether the range was never touched, or holds zeros as we left it."""
    if _untouched(task, address, length):
        return True
    memory, buffer = ProcessMemory(task), Buffer(length)
    try:
        return not any(_read(memory, buffer, address, length))
    finally:
        memory.close()
        buffer.close()


def _untouched(task: ProcDir, address: int, length: int) -> bool:
    fd = task.open("pagemap")
    try:
        data = os.pread(fd, length // PAGE_SIZE * 8, address // PAGE_SIZE * 8)
    finally:
        os.close(fd)
    return len(data) == length // PAGE_SIZE * 8 and not any(byte & 0xC0 for byte in data[7::8])
