"""System calls run inside a stopped thread, over a safety net: the thread finds home though this process is killed.

Before anything else, frames are laid into memory that nobody uses. An injected call runs with its stack pointer at the
first of them; while we live, the thread never gets further than the exit stop of the call, and its registers are set
back from here. When we are killed, the kernel lets the thread run: it returns from the call into the frames, and
rt_sigreturn brings it back to where it was, with all registers and its signal mask.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

from . import ptrace
from .arch import Arch, Gadgets, Injection, SafetyNet, SystemCall, ThreadState
from .errors import CorepipeError, DumpFailedError, ModeUnavailableError, NoSuchProcessError
from .freeze import Freeze, StoppedThread
from .memory import Buffer, ProcessMemory
from .procfs import PAGE_SIZE, ProcDir
from .regions import Region, RegionKind
from .watchdog import end_at_once

ALL_SIGNALS = (1 << 64) - 1
REAP_HELPER = (0xFFFFFFFF, 0, 0xA0000000, 0)
"""wait4(-1, 0, __WCLONE | __WNOTHREAD, 0): of a thread's own children those whose end sends no SIGCHLD."""
CALL_SECONDS = 60.0
"""How long a call may take: the fork of a very large process takes seconds."""
ENTRY_SECONDS = 2.0
"""How long a thread may take to begin a call: it only needs a processor."""
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.1
"""How long a wait lasts at the most should the SIGCHLD that ends it go astray."""
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
    from array import array

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


class Injector:
    """Runs system calls in one stopped thread of a frozen target. A context manager: first the net, home at the end.

    Errors on entering: ModeUnavailableError. patches: (address, original bytes) of the memory that holds something
    else while we are inside: the net, and the thread's struct rseq, in which the kernel keeps the processor's number.
    """

    def __init__(self, freeze: Freeze, task: ProcDir, state: ThreadState, gadgets: Gadgets, room: int) -> None:
        self.injection = injection_of(freeze.arch)
        self.tid = state.tid
        self.gadgets = gadgets
        self.patches: tuple[tuple[int, bytes], ...] = ()
        self.net: SafetyNet
        self._freeze = freeze
        self._task = task
        self._state = state
        self._room = room
        self._mem_fd = -1
        self._away = self._lost = False

    def __enter__(self) -> Injector:
        self.net = self.injection.safety_net(self._state, self.gadgets, self._room, REAP_HELPER)
        try:
            self._mem_fd = self._task.open("mem", os.O_RDWR)
            original = os.pread(self._mem_fd, len(self.net.image), self.net.address)
            if len(original) != len(self.net.image):
                raise OSError
            self.patches = ((self.net.address, original), *self._rseq())
            if os.pwrite(self._mem_fd, self.net.image, self.net.address) != len(self.net.image):
                os.pwrite(self._mem_fd, original, self.net.address)
                raise OSError
        except OSError as error:
            self._close()
            raise ModeUnavailableError("the target's main stack cannot be written to") from error
        if self._freeze.threads[self.tid].at_entry:
            self._leave_call()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, (CorepipeError, OSError)):
            end_at_once(f"{type(error).__name__} in the middle of a snapshot")
        try:
            self.home()
            if not self._lost:
                with contextlib.suppress(OSError):
                    os.pwrite(self._mem_fd, self.patches[0][1], self.patches[0][0])
            self._close()
        except BaseException as failure:
            end_at_once(f"{type(failure).__name__} on the way back from a snapshot")

    def _rseq(self) -> tuple[tuple[int, bytes], ...]:
        try:
            address, size = ptrace.rseq_area(self.tid)
            return ((address, os.pread(self._mem_fd, size, address)),) if address else ()
        except (OSError, OverflowError):
            return ()

    def _close(self) -> None:
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
            self._mem_fd = -1

    def _leave_call(self) -> None:
        """Let the thread, which has just entered a call of its own, make one that does nothing instead."""
        thread = self._freeze.threads[self.tid]
        try:
            with self._running():
                for note_type, data in self.injection.instead(self._state, self.gadgets, self.net.home_stack):
                    ptrace.set_regset(self.tid, note_type, data)
                ptrace.set_signal_mask(self.tid, ALL_SIGNALS)
                thread.at_entry = False
                run_to_exit(thread, entered=True)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def home(self) -> None:
        """Set the thread back to where it was. Its signal mask goes first: from then on the net is not needed.

        Where that fails it was killed, or runs: then the net stays, and brings it home.
        """
        if not self._away:
            return
        self._away = False
        try:
            ptrace.set_signal_mask(self.tid, self._state.signals_blocked)
            for note_type, data in self.injection.way_home(self._state):
                ptrace.set_regset(self.tid, note_type, data)
        except OSError:
            self._lost = True
            self._freeze.lose(self.tid)

    def call(
        self,
        call: SystemCall,
        arguments: tuple[int, ...],
        on_clone: Callable[[int], None] = lambda tid: None,
        mask: int = ALL_SIGNALS,
        on_signal: Callable[[], int | None] = lambda: None,
    ) -> int:
        """Run a call in the thread and return its result (-errno for an error).

        on_clone gets the id of a process that the call made, which is ours, stopped. mask: signals blocked meanwhile.
        on_signal: asked at a signal that is about to be delivered; see run_to_exit. Errors: NoSuchProcessError,
        DumpFailedError.
        """
        registers = self.injection.registers_for(
            self._state.general, self.gadgets, call, arguments, self.net.home_stack
        )
        with self._running():
            ptrace.set_regset(self.tid, ptrace.NT_PRSTATUS, registers)
            # from here on the net holds: it gives back the mask that is set next
            ptrace.set_signal_mask(self.tid, mask)
            run_to_exit(self._freeze.threads[self.tid], on_clone, on_signal)
            return self.injection.result(ptrace.get_regset(self.tid, ptrace.NT_PRSTATUS))

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """For the time of a call the thread is away from home. Errors: see call."""
        self._away = True
        try:
            yield
        except ProcessLookupError as error:
            raise NoSuchProcessError(f"process {self._freeze.process.pid} was killed while it stood still") from error
        except NotBegunError as error:
            raise ModeUnavailableError(f"thread {self.tid} does not run: its cgroup may be frozen") from error
        except StuckError as error:
            self._lost, self._away = True, False
            self._freeze.lose(self.tid)
            raise DumpFailedError(f"a system call inside thread {self.tid} does not end") from error


class StuckError(Exception):
    """A thread that was to run one system call has not come back."""


class NotBegunError(Exception):
    """A thread that was to run one system call has not begun it, and is stopped again."""


def wait_for(tid: int, seconds: float = CALL_SECONDS) -> int:
    """Return the wait status of a tracee once it has stopped or ended. Errors: StuckError, ProcessLookupError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            status = ptrace.wait_stop(tid, min(max(deadline - time.monotonic(), 0.0), _LOOK_SECONDS))
        except ChildProcessError as error:
            raise ProcessLookupError(tid) from error
        if status is not None:
            return status
        if time.monotonic() >= deadline:
            raise StuckError(tid)


@contextlib.contextmanager
def sigchld_blocked() -> Iterator[None]:
    """Outside of a freeze: SIGCHLD must be blocked where a stop is waited for."""
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def run_to_entry(thread: StoppedThread) -> bool:
    """Let a stopped thread run on to the entry stop of the call that it stands at; False if a signal comes first.

    The signal is kept for the detach. Errors: NotBegunError, StuckError, ProcessLookupError.
    """
    while True:
        ptrace.resume_to_system_call(thread.tid)
        status = _wait_for_entry(thread.tid)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(thread.tid)
        if status >> 16:
            continue
        if os.WSTOPSIG(status) == ptrace.SYSCALL_STOP:
            return True
        thread.signal_number = os.WSTOPSIG(status)
        return False


def run_to_exit(
    thread: StoppedThread,
    on_clone: Callable[[int], None] = lambda tid: None,
    on_signal: Callable[[], int | None] = lambda: None,
    entered: bool = False,
) -> None:
    """Let a stopped thread run through one system call, from before its entry (or from there) to its exit stop.

    A signal that is about to be delivered on the way is kept for the detach where on_signal returns None; else what it
    returns takes the signal's place at once, 0 for no signal. Errors: NotBegunError, StuckError, ProcessLookupError.
    """
    seen, answer = int(entered), 0
    while seen < 2:
        ptrace.resume_to_system_call(thread.tid, answer)
        answer = 0
        status = wait_for(thread.tid) if seen else _wait_for_entry(thread.tid)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(thread.tid)
        number, event = os.WSTOPSIG(status), status >> 16
        if event == ptrace.EVENT_CLONE:
            on_clone(ptrace.event_message(thread.tid))
        elif event:
            continue  # a stop of the whole group begins or ends: it takes hold again at the detach
        elif number == ptrace.SYSCALL_STOP:
            seen += 1
        elif (wanted := on_signal()) is not None:
            answer = wanted
        elif number == signal.SIGSTOP:
            answer = number  # its stop, and the SIGCONT that ends it, are the kernel's to keep: it holds at the detach
        elif not thread.signal_number:
            thread.signal_number = number


def _wait_for_entry(tid: int) -> int:
    """As wait_for; a thread that does not get as far as the entry of its call is stopped where it is."""
    try:
        return wait_for(tid, ENTRY_SECONDS)
    except StuckError:
        ptrace.interrupt(tid)
        status = wait_for(tid, ENTRY_SECONDS)
    if os.WIFSTOPPED(status) and status >> 16 == ptrace.EVENT_STOP:
        raise NotBegunError(tid)
    return status  # it came after all; the stop that was asked for follows, and is passed over


def kill_tracee(pid: int) -> None:
    """End a process of ours that is traced, and take its status."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            status = ptrace.poll_stop(pid)
            if status is not None and not os.WIFSTOPPED(status):
                return
            time.sleep(0.0005)
