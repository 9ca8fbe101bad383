"""Which thread of a frozen target may run the calls that make a snapshot, and what it takes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from . import ptrace
from .arch import CallState, Gadgets, Injection, SystemCall
from .errors import CorepipeError, ModeUnavailableError, NoSuchProcessError
from .freeze import Freeze
from .gadgets import CodeReader
from .inject import REAP_HELPER
from .preconditions import SECCOMP_FILTER, thread_refusal
from .procfs import PAGE_SIZE, ProcDir, parse_status
from .ptrace import WALL
from .registers import ThreadRegisters
from .seccomp import Action, FilterError, verdict
from .stepping import ENTRY_SECONDS, NotBegunError, StuckError, run_to_entry, wait_for

_CLONE_VM, _CLONE_FS, _CLONE_FILES = 0x100, 0x200, 0x400
HELPER_FLAGS: Final = _CLONE_VM | _CLONE_FS | _CLONE_FILES
SNAPSHOT_FLAGS: Final = _CLONE_FILES
"""The descriptor table is shared at first, so that no file is opened twice; see Fork.let_go. The file system
context is not: while it is shared, the target may not change its mount namespace, nor gain rights by exec."""
_CLOSE_RANGE_UNSHARE: Final = 2
EVERY_DESCRIPTOR: Final = (0, 0xFFFFFFFF, _CLOSE_RANGE_UNSHARE)
"""Arguments of close_range: all descriptors, in a table of its own."""
_LATER_CALLS: Final = {
    SystemCall.CLOSE_RANGE: EVERY_DESCRIPTOR,
    SystemCall.SETPGID: (0, 0),
    SystemCall.PIPE2: (PAGE_SIZE, os.O_CLOEXEC),
    SystemCall.VMSPLICE: (1, PAGE_SIZE, 1, 2),
}
_RETRIES: Final = 8


def choose_thread(
    freeze: Freeze, task: ProcDir, threads: list[ThreadRegisters], injection: Injection
) -> ThreadRegisters:
    """Return the thread to run calls in: one that loses nothing by it. Errors: ModeUnavailableError.

    Not one that is about to get a signal, nor one inside a restartable sequence, which the kernel would forget about.
    Last choice is a sleeper that only the kernel can restart: should we die, it sees one EINTR. Where all threads are
    about to get a signal, the first is let take it, and its place in threads is brought up to date. What is returned
    are the registers to go home with.
    """
    chosen = _settled(freeze, task, threads, injection)
    if chosen is None and _take_signal(freeze, threads[0].tid):
        threads[0] = freeze.thread_registers(threads[0].tid)
        chosen = _settled(freeze, task, threads, injection)
    if chosen is None:
        reasons = filter(None, (injection.forbidden(dict(thread.sets)) for thread in threads))
        raise ModeUnavailableError(
            next(reasons, "no thread of the target can be used: all have a signal or a restartable sequence on")
        )
    return chosen


def _take_signal(freeze: Freeze, tid: int) -> bool:
    """Let a thread go as far as the first instruction of its signal's handler; False if it is interrupted for ever."""
    try:
        for _ in range(_RETRIES):
            freeze.moved(tid)
            ptrace.interrupt(tid)
            ptrace.resume(tid, freeze.threads[tid].signal_number)
            status = wait_for(tid, ENTRY_SECONDS)
            if not os.WIFSTOPPED(status):
                raise ProcessLookupError(tid)
            freeze.book_stop(tid, status)
            if not freeze.threads[tid].signal_number:
                return True
    except ProcessLookupError as error:
        raise NoSuchProcessError(f"process {freeze.process.pid} was killed while it stood still") from error
    except StuckError as error:
        freeze.lose(tid)
        raise ModeUnavailableError(f"thread {tid} does not stop again") from error
    return False


def _settled(
    freeze: Freeze, task: ProcDir, threads: Sequence[ThreadRegisters], injection: Injection
) -> ThreadRegisters | None:
    """Return the best of the threads, where its call is to be restarted it is known how; None if there is none."""
    while True:
        chosen, state = _best(freeze, task, threads, injection)
        if chosen is None or state is not CallState.UNCLEAR:
            return chosen
        entered = _enter_call(freeze, chosen.tid)
        if entered is not None:
            return replace(chosen, general=injection.settled(chosen.general, entered))


def _best(
    freeze: Freeze, task: ProcDir, threads: Sequence[ThreadRegisters], injection: Injection
) -> tuple[ThreadRegisters | None, CallState]:
    last: tuple[ThreadRegisters | None, CallState] = None, CallState.OUTSIDE
    with contextlib.closing(CodeReader(task, injection.system_call_bytes)) as code_at:
        for registers in threads:
            thread = freeze.threads.get(registers.tid)
            if thread is None or thread.signal_number or injection.forbidden(dict(registers.sets)):
                continue
            state = injection.call_state(registers.general, code_at)
            if state is CallState.INSIDE:
                return registers, state
            if state is CallState.OUTSIDE:
                if _outside_restartable_sequence(task, registers, injection):
                    return registers, state
            elif last[0] is None:
                last = registers, state
    return last


def _enter_call(freeze: Freeze, tid: int) -> bytes | None:
    """Let a thread go as far as the entry of the call that it stands at: there it is known how that is to be restarted.

    Nothing of the call is done there, and if we die it is made. Return the registers; None if a signal comes first.
    """
    thread = freeze.threads[tid]
    try:
        freeze.moved(tid)
        if not run_to_entry(thread):
            return None
        thread.at_entry = True
        return ptrace.get_regset(tid, ptrace.NT_PRSTATUS)
    except NotBegunError as error:
        raise ModeUnavailableError(f"thread {tid} does not run: its cgroup may be frozen") from error
    except ProcessLookupError as error:
        raise NoSuchProcessError(f"process {freeze.process.pid} was killed while it stood still") from error
    except StuckError as error:
        freeze.lose(tid)
        raise ModeUnavailableError(f"thread {tid} does not stop again") from error


def _outside_restartable_sequence(task: ProcDir, thread: ThreadRegisters, injection: Injection) -> bool:
    """Whether the thread is in no rseq critical section (struct rseq and rseq_cs, include/uapi/linux/rseq.h)."""
    try:
        address, _ = ptrace.rseq_area(thread.tid)
    except OSError:
        return False
    if not address:
        return True
    try:
        fd = task.open("mem")
        try:
            section = int.from_bytes(os.pread(fd, 8, address + 8), "little")
            if not section:
                return True
            start, length = (int.from_bytes(os.pread(fd, 8, section + offset), "little") for offset in (8, 16))
        finally:
            os.close(fd)
    except (OSError, OverflowError):
        return False
    return not start <= injection.instruction_pointer(thread.general) < start + length


def check_thread(freeze: Freeze, tid: int, gadgets: Gadgets, injection: Injection) -> ptrace.Option:
    """Return the ptrace options that running calls in this thread needs (0 for none). Errors: ModeUnavailableError.

    Filters, shadow stacks and the namespace of its children are a thread's own, not its process's.
    """
    process = freeze.process
    status = parse_status(process.read(f"task/{tid}/status"))
    reason = thread_refusal(status)
    if reason:
        raise ModeUnavailableError(reason)
    if process.readlink(f"task/{tid}/ns/pid_for_children") != process.readlink(f"task/{tid}/ns/pid"):
        raise ModeUnavailableError("the target's children would be in another pid namespace")
    return check_seccomp(tid, gadgets, injection) if status.seccomp == SECCOMP_FILTER else ptrace.Option(0)


def seccomp_programs(tid: int) -> list[bytes]:
    """Return the filters of a stopped thread. OSError where they may not be looked into."""
    programs: list[bytes] = []
    while (program := ptrace.seccomp_filter(tid, len(programs))) is not None:
        programs.append(program)
    return programs


def calls_of_the_snapshot(tid: int, gadgets: Gadgets, injection: Injection) -> frozenset[SystemCall]:
    """Return which calls the snapshot may make later on: it inherits the thread's filters."""
    try:
        programs = seccomp_programs(tid)
    except OSError as error:
        # EINVAL: there are none. Without CAP_SYS_ADMIN, and under a filter of our own, nobody is told even that.
        return frozenset(_LATER_CALLS if error.errno == errno.EINVAL or _has_no_filter(tid) else ())
    address = gadgets.system_call + injection.system_call_bytes
    allowed = set()
    for call, arguments in _LATER_CALLS.items():
        with contextlib.suppress(FilterError):
            action = verdict(programs, injection.number(call), injection.audit_arch, address, arguments)
            if action in (Action.ALLOW, Action.LOG):
                allowed.add(call)
    return frozenset(allowed)


def _has_no_filter(tid: int) -> bool:
    with contextlib.suppress(CorepipeError), contextlib.closing(ProcDir(tid)) as folder:
        return not parse_status(folder.read("status")).seccomp
    return False


def check_seccomp(tid: int, gadgets: Gadgets, injection: Injection) -> ptrace.Option:
    """Return the option that a thread's seccomp filters make necessary (0 for none). Errors: ModeUnavailableError.

    The way home must be free without us, and no call may kill; one that is refused with an error can be let through
    by suspending the filters, and without us fails harmlessly.
    """
    try:
        programs = seccomp_programs(tid)
    except OSError as error:
        raise ModeUnavailableError(f"the target's seccomp filter cannot be looked into ({error.strerror})") from error
    clone = injection.clone_arguments(SNAPSHOT_FLAGS, 1)
    helper = injection.clone_arguments(HELPER_FLAGS, 1)
    calls = (
        (SystemCall.SIGRETURN, (), False),
        (SystemCall.EXIT, (0,), False),
        (SystemCall.CLONE, helper, True),
        (SystemCall.CLONE, clone, True),
        (SystemCall.WAIT4, (1, 0, WALL, 0), True),
        (SystemCall.WAIT4, REAP_HELPER, True),
    )
    address = gadgets.system_call + injection.system_call_bytes
    suspend = ptrace.Option(0)
    for call, arguments, may_fail in calls:
        try:
            action = verdict(programs, injection.number(call), injection.audit_arch, address, arguments)
        except FilterError as error:
            raise ModeUnavailableError("the target's seccomp filter cannot be understood") from error
        if action in (Action.ALLOW, Action.LOG):
            continue
        if action is Action.ERRNO and may_fail:
            suspend = ptrace.Option.SUSPEND_SECCOMP
            continue
        raise ModeUnavailableError(f"the target's seccomp filter forbids {call.name.lower()} ({action.name})")
    return suspend
