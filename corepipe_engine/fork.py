"""A copy-on-write snapshot of a frozen target, made by calls run inside one of its threads.

In that thread a helper is cloned that shares the target's memory; the helper forks the snapshot and ends; the thread
reaps it. The snapshot, an orphan, belongs to init or to the nearest subreaper: the target has no child to notice. It
stands still until the end, and then runs into the exit that its stack leads to, all signals blocked; so it does, too,
if this process should die.
Sources: kernel/fork.c (copy_process), kernel/exit.c (find_new_reaper, reparent_leader), kernel/ptrace.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Final

from . import ptrace
from .arch import Gadgets, SystemCall, ThreadState
from .capture import Context
from .choice import EVERY_DESCRIPTOR, HELPER_FLAGS, SNAPSHOT_FLAGS, calls_of_the_snapshot, check_thread
from .errors import CorepipeError, DumpFailedError, ModeUnavailableError, NoSuchProcessError
from .freeze import Freeze, StoppedThread
from .gadgets import find_room, injection_of
from .headroom import prefer_as_victim
from .inject import ALL_SIGNALS, Injector
from .procfs import ProcDir
from .ptrace import WALL
from .regions import Region
from .registers import ThreadRegisters
from .splice import PagePipes, SnapshotCalls, open_pipes
from .stepping import NotBegunError, StuckError, kill_tracee, run_to_exit, wait_for

_RETRIES: Final = 8
_EXIT_SECONDS: Final = 2.0
_REAP_SECONDS: Final = 1.0
_INITIAL_PID_NAMESPACE: Final = "pid:[4026531836]"
_ERESTARTNOINTR: Final = 513
_TRACED: Final = ptrace.Option.TRACESYSGOOD | ptrace.Option.TRACECLONE
_PF_EXITING, _PF_SIGNALED = 0x4, 0x400
_CHILD_CODES: Final = frozenset({os.CLD_KILLED, os.CLD_EXITED, os.CLD_DUMPED})


class SnapshotProcess:
    """The copy: a stopped process of ours.

    ns_pid: its id as the target sees it. inherited: the target is its parent. pidfd: -1 once closed.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.inherited = False
        self.ns_pid = pid
        self._gone = False
        self.folder = ProcDir(pid)
        self.pidfd = os.pidfd_open(pid)

    def check(self) -> None:
        """Raise DumpFailedError if the copy is gone: what was read of it lately may be nothing but zeros."""
        if self._gone or self._dying():
            raise DumpFailedError(
                "the snapshot was killed before it had been streamed, most likely because memory ran out; "
                "the target is untouched and runs",
                "free some memory, or choose less: --preset stacks, --exclude; --mode buffer",
            )

    def _dying(self) -> bool:
        """Whether it has ended or is about to: its memory goes long before its pidfd tells of the end."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        try:
            return bool(poller.poll(0) or self.folder.stat().flags & (_PF_EXITING | _PF_SIGNALED))
        except CorepipeError:
            return True

    def end(self) -> None:
        """Let it run out into its exit; a second call does nothing.

        Its status is 0: who inherits it may take a child that was killed for a crash of its own, as PostgreSQL's
        postmaster does where it is pid 1 of a container. What does not end so within a moment is killed.
        """
        if self._gone:
            return
        self._gone = True
        deadline = time.monotonic() + _EXIT_SECONDS
        with contextlib.suppress(OSError):
            ptrace.resume(self.pid)
            while time.monotonic() < deadline:
                status = ptrace.poll_stop(self.pid)
                if status is None:
                    time.sleep(0.0005)
                elif os.WIFSTOPPED(status):
                    ptrace.resume(self.pid)
                else:
                    return
        kill_tracee(self.pid)

    def cpu_seconds(self) -> float:
        """Return the processor time that it took so far, 0 where the kernel does not tell or it is gone."""
        try:
            return int(self.folder.read("schedstat").split()[0]) / 1e9
        except (CorepipeError, ValueError, IndexError):
            return 0.0

    def zombie_parent(self) -> int:
        """Return who has left it lying as a zombie, 0 if it is gone or belongs to the host's init, which reaps."""
        deadline = time.monotonic() + _REAP_SECONDS
        while True:
            try:
                stat = self.folder.stat()
            except CorepipeError:
                return 0
            if stat.state != "Z" or (stat.ppid == 1 and os.readlink("/proc/self/ns/pid") == _INITIAL_PID_NAMESPACE):
                return 0
            if time.monotonic() >= deadline:
                return stat.ppid
            time.sleep(0.005)

    def close(self) -> None:
        """Give back what we hold of it; end() comes first."""
        self.folder.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def pid_seen_by(process: ProcDir, pid: int) -> int:
    """Return a process's id in the pid namespace of another, 0 if it has none there or has ended."""
    try:
        level = len(process.status().ns_tgids) or 1
        with contextlib.closing(ProcDir(pid)) as folder:
            ns_tgids = folder.status().ns_tgids
    except CorepipeError:
        return 0
    return ns_tgids[level - 1] if len(ns_tgids) >= level else pid


class Fork:
    """Makes the snapshot of a frozen target. run() leaves the target as it was, whatever happens."""

    def __init__(self, context: Context, freeze: Freeze, task: ProcDir, state: ThreadState, gadgets: Gadgets) -> None:
        self.injection = injection_of(freeze.arch)
        self.snapshot: SnapshotProcess | None = None
        self.patches: tuple[tuple[int, bytes], ...] = ()
        self._context = context
        self._freeze = freeze
        self._task = task
        self._state = state
        self._gadgets = gadgets
        self._helper = 0
        self._helper_ns_pid = 0
        self._exit_stack = self._scratch = 0
        self._allowed: frozenset[SystemCall] = frozenset()

    def run(self, regions: list[Region], threads: Sequence[ThreadRegisters]) -> SnapshotProcess:
        """Return the snapshot. Errors: ModeUnavailableError, NoSuchProcessError, DumpFailedError."""
        tid = self._state.tid
        leader = next((thread for thread in threads if thread.tid == self._freeze.process.pid), None)
        pointer = None if leader is None else self._context.arch.stack_pointer(leader.general)
        room = find_room(self._task, regions, pointer, self.injection.net_bytes(self._state))
        self._allowed = calls_of_the_snapshot(tid, self._gadgets, self.injection)
        options = _TRACED | check_thread(self._freeze, tid, self._gadgets, self.injection)
        try:
            ptrace.set_options(tid, options)
        except ProcessLookupError as error:
            raise NoSuchProcessError(f"process {self._freeze.process.pid} was killed while it stood still") from error
        except OSError as error:
            raise ModeUnavailableError("the target's seccomp filter forbids it, and cannot be suspended") from error
        try:
            with Injector(self._freeze, self._task, self._state, self._gadgets, room) as injector:
                self._make(injector)
                self.patches = injector.patches
            with contextlib.suppress(OSError):
                ptrace.set_options(tid, ptrace.Option.TRACESYSGOOD)
        except BaseException:
            if self.snapshot is not None:
                self.snapshot.end()
                self.snapshot.close()
            raise
        assert self.snapshot is not None
        return self.snapshot

    def _make(self, injector: Injector) -> None:
        self._exit_stack, self._scratch = injector.net.exit_stack, injector.net.address
        try:
            self._clone_helper(injector)
            self._fork_snapshot(injector)
        finally:
            if self._helper:
                self._end_helper(injector)
        snapshot = self.snapshot
        if snapshot is None:
            return
        snapshot.ns_pid = pid_seen_by(self._freeze.process, snapshot.pid)
        snapshot.inherited = snapshot.folder.stat().ppid == self._freeze.process.pid

    def let_go(self) -> bool:
        """Give the snapshot a process group and an empty descriptor table of its own; the target may run meanwhile.

        Signals to the target's group are not meant for it: one that stops the group would keep it from its exit. With
        the target's descriptors it would hold its sockets and locks, should the target exec or end. False where it
        keeps these: a filter may be in the way, and close_range(CLOSE_RANGE_UNSHARE) came with Linux 5.9.
        """
        if SystemCall.SETPGID in self._allowed:
            with contextlib.suppress(OSError):
                self._calls().run(SystemCall.SETPGID, (0, 0))
        if SystemCall.CLOSE_RANGE not in self._allowed:
            return False
        try:
            return self._calls().run(SystemCall.CLOSE_RANGE, EVERY_DESCRIPTOR) == 0
        except OSError:
            return False

    def open_pipes(self) -> PagePipes | None:
        """Return pipes that the snapshot fills with its pages, None where that cannot be had.

        Comes after let_go: the pipes must not show up among the target's descriptors.
        """
        snapshot = self.snapshot
        if snapshot is None or not {SystemCall.PIPE2, SystemCall.VMSPLICE} <= self._allowed:
            return None
        elf = self._context.arch.elf
        return open_pipes(self._calls(), snapshot.folder, snapshot.pidfd, self._scratch, elf)

    def _calls(self) -> SnapshotCalls:
        assert self.snapshot is not None
        return SnapshotCalls(self.snapshot.pid, self.injection, self._gadgets, self._state.general, self._exit_stack)

    def _clone_helper(self, injector: Injector) -> None:
        arguments = self.injection.clone_arguments(HELPER_FLAGS, injector.net.exit_stack)

        def born(pid: int) -> None:
            self._helper = pid

        for _ in range(_RETRIES):
            result = injector.call(SystemCall.CLONE, arguments, born)
            if result != -_ERESTARTNOINTR:
                break
        if result <= 0 or not self._helper:
            raise refused(result)
        self._helper_ns_pid = result
        try:
            wait_for(self._helper)  # it is born stopped
        except (StuckError, ProcessLookupError) as error:
            raise DumpFailedError("the helper process was killed at birth", "try again") from error

    def _fork_snapshot(self, injector: Injector) -> None:
        helper, injection = self._helper, self.injection
        arguments = injection.clone_arguments(SNAPSHOT_FLAGS, injector.net.exit_stack)
        exit_stack = injector.net.exit_stack
        registers = injection.registers_for(self._state.general, self._gadgets, SystemCall.CLONE, arguments, exit_stack)

        def born(pid: int) -> None:
            self.snapshot = SnapshotProcess(pid)

        thread = StoppedThread(helper)
        try:
            for _ in range(_RETRIES):
                ptrace.set_regset(helper, ptrace.NT_PRSTATUS, registers)
                run_to_exit(thread, born)
                result = injection.result(ptrace.get_regset(helper, ptrace.NT_PRSTATUS))
                if result != -_ERESTARTNOINTR:
                    break
            if result <= 0 or self.snapshot is None:
                raise refused(result)
            wait_for(self.snapshot.pid)
            ptrace.set_options(self.snapshot.pid, ptrace.Option.TRACESYSGOOD)
        except (NotBegunError, StuckError, ProcessLookupError) as error:
            raise DumpFailedError("the snapshot was killed at birth", "try again") from error
        prefer_as_victim(self.snapshot.pid)

    def _end_helper(self, injector: Injector) -> None:
        """Let the helper run out into its exit, and let the target's thread reap it."""
        helper, self._helper = self._helper, 0
        ns_pid = self._helper_ns_pid or pid_seen_by(self._freeze.process, helper)
        try:
            ptrace.resume(helper)
            while os.WIFSTOPPED(wait_for(helper, 2.0)):
                ptrace.resume(helper)
        except (OSError, StuckError):
            kill_tracee(helper)
        except BaseException:
            kill_tracee(helper)
            if ns_pid:
                injector.call(SystemCall.WAIT4, (ns_pid, 0, WALL, 0))
            raise
        if ns_pid:
            injector.call(SystemCall.WAIT4, (ns_pid, 0, WALL, 0))


def refused(result: int) -> ModeUnavailableError:
    """Return the error for a clone that failed with -errno."""
    number = -result
    name = errno.errorcode.get(number, str(number))
    if number == errno.EAGAIN:
        return ModeUnavailableError(
            f"the kernel grants the target no further process ({name}): RLIMIT_NPROC, or pids.max of its cgroup"
        )
    if number == errno.ENOMEM:
        return ModeUnavailableError(f"the kernel grants no memory for a fork ({name}); vm.overcommit_memory may be 2")
    return ModeUnavailableError(f"the target may not clone ({name})")


def reap_inherited(injector: Injector, snapshot: SnapshotProcess, process: ProcDir) -> None:
    """End a snapshot whose parent is the target, from inside a stop: the target sees neither a SIGCHLD nor a zombie.

    A SIGCHLD does not queue: where a child of the target's own ended just now, the signal stands for both and stays.
    """
    if not snapshot.ns_pid:  # 0 would stand for any child of the process group
        raise DumpFailedError("the target's name for the snapshot is not known")
    alive = _living_children(process)
    snapshot.end()
    tid = injector.tid

    def is_ours(info: ptrace.SignalInfo) -> bool:
        return info.number == signal.SIGCHLD and info.pid == snapshot.ns_pid and info.code in _CHILD_CODES

    def answer() -> int | None:
        if not is_ours(ptrace.signal_info(tid)):
            return None
        ended = alive - _living_children(process) - {snapshot.pid}
        if not ended:
            return 0
        _tell_of(process, min(ended), tid)
        ptrace.set_signal_mask(tid, ALL_SIGNALS)  # what is blocked when it is handed on waits for the process again
        return signal.SIGCHLD

    mask = ALL_SIGNALS
    with contextlib.suppress(OSError):
        if any(is_ours(info) for info in ptrace.pending_signals(tid, shared=True)):
            mask &= ~(1 << (signal.SIGCHLD - 1))
    injector.call(SystemCall.WAIT4, (snapshot.ns_pid, 0, WALL, 0), mask=mask, on_signal=answer)


def _living_children(process: ProcDir) -> set[int]:
    """Return the pids of a process's children that have not ended; none where the kernel does not list them."""
    living = set()
    with contextlib.suppress(CorepipeError):
        for tid in process.tids():
            for pid in process.read(f"task/{tid}/children").split():
                with contextlib.suppress(CorepipeError), contextlib.closing(ProcDir(int(pid))) as child:
                    if child.stat().state not in "ZX":
                        living.add(int(pid))
    return living


def _tell_of(process: ProcDir, pid: int, tid: int) -> None:
    """Make the SIGCHLD that a thread is about to get tell of that zombie, as far as it can be known."""
    with contextlib.suppress(CorepipeError, OSError, IndexError), contextlib.closing(ProcDir(pid)) as child:
        seen = child.status().ns_tgids[len(process.status().ns_tgids) - 1]
        status = int(child.read("stat").split()[-1])
        if os.WIFEXITED(status):
            ptrace.set_sender(tid, seen, os.CLD_EXITED, os.WEXITSTATUS(status))
        else:
            ptrace.set_sender(tid, seen, os.CLD_DUMPED if os.WCOREDUMP(status) else os.CLD_KILLED, os.WTERMSIG(status))
