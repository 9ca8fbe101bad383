"""All threads of a process stopped at one instant, their registers, and always the way back.

SEIZE and INTERRUPT leave no signal behind: if this process dies at any point, the kernel detaches every thread and
it runs on. Threads that were stopped by a signal before stay stopped (the kernel restores the group stop on detach).
Source: ptrace(2), kernel/ptrace.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import ptrace
from .arch import Arch, ThreadState
from .errors import CorepipeError, DumpFailedError, NoSuchProcessError, NotPermittedError, StopDeadlineError
from .permissions import explain_refusal
from .procfs import ProcessHandle, parse_stat, parse_status
from .registers import RegisterReader, ThreadRegisters
from .stopclock import StopClock
from .watchdog import Watchdog, end_at_once, reap_dead

STALL_SECONDS = 0.5
"""How long a thread in uninterruptible sleep may keep the others waiting."""
ATTACH_SECONDS = 10.0
"""How long a thread that only lacks a processor may: it has to run once to stop."""
_GROUP_STOP_SIGNALS = frozenset({signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


@dataclass(slots=True)
class StoppedThread:
    """A thread in a ptrace stop. signal_number is the signal its stop took, to be handed back; 0 for none.

    at_entry: it has entered a system call, and makes it when it is let run.
    """

    tid: int
    signal_number: int = 0
    group_stopped: bool = False
    at_entry: bool = False


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """CPU times of a thread (clock ticks) and the thread id that the target sees."""

    namespace_tid: int
    utime_ticks: int
    stime_ticks: int


@dataclass(frozen=True, slots=True)
class _Stopped:
    """See arch.StoppedTask."""

    process: ProcessHandle
    tid: int
    files: Mapping[tuple[int, str], bytes]

    def set_regset(self, note_type: int, data: bytes) -> None:
        ptrace.set_regset(self.tid, note_type, data)

    def read(self, name: str) -> bytes:
        return self.process.read(f"task/{self.tid}/{name}")

    def before(self, name: str) -> bytes:
        return self.files.get((self.tid, name), b"")


def _signal_waits(tid: int) -> bool:
    """Whether a signal that the thread does not block is queued for it or its process. OSError as ptrace gives it."""
    blocked = ptrace.get_signal_mask(tid)
    queued = (*ptrace.pending_signals(tid, shared=False), *ptrace.pending_signals(tid, shared=True))
    return any(not blocked >> (signal_info.number - 1) & 1 for signal_info in queued)


class Freeze:
    """A context manager: inside it every thread of the process is stopped, after it none is.

    Must be entered, used and left in one OS thread. deadline is CLOCK_MONOTONIC seconds, None for no bound.
    Errors on entering: NoSuchProcessError, NotPermittedError, StopDeadlineError, DumpFailedError (a thread that does
    not stop), and what check() raises, which is asked while waiting; the target runs again before they are raised.
    """

    def __init__(
        self,
        process: ProcessHandle,
        arch: Arch,
        max_stop: float | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.process = process
        self.arch = arch
        self.clock = StopClock()
        self.threads: dict[int, StoppedThread] = {}
        self.deadline: float | None = None
        self._max_stop = max_stop
        self._check = check
        self._seized: set[int] = set()
        self._attached = False
        self._watchdog = Watchdog(lambda: tuple(self._seized), self._overdue)
        self._times: dict[int, ThreadTimes] = {}
        self._files: dict[tuple[int, str], bytes] = {}
        self._restarts: dict[int, bytes | None] = {}
        self._reader: RegisterReader | None = None
        self._old_mask: set[int] | None = None
        self._in_namespace: bool | None = None

    def prepare(self) -> None:
        """Do what is slow, shortly before the freeze: read CPU times of all threads, make room for their registers."""
        tids = self.process.tids()
        for tid in tids:
            self._read_times(tid)
            for name in self.arch.files_before:
                with contextlib.suppress(CorepipeError):
                    self._files[tid, name] = self.process.read(f"task/{tid}/{name}")
        self._reader = RegisterReader(self.arch, len(tids))

    def __enter__(self) -> Freeze:
        # SIGTSTP and its kin must not stop us while the target waits; SIGCHLD wakes the wait for a stop.
        self._old_mask = signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
        )
        self._watchdog.start()
        self.clock.start()
        if self._max_stop is not None:
            self.deadline = self.clock.started + self._max_stop
        try:
            self._stop_all()
        except NoSuchProcessError as error:
            self.release()
            if self.process.alive():
                raise DumpFailedError(
                    f"process {self.process.pid} started another program (exec) while it was being stopped",
                    "try again",
                ) from error
            raise
        except BaseException:
            self.release()
            raise
        self._attached = True
        self.clock.step("attach")
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    @property
    def frozen(self) -> bool:
        """True from the first stop to the last detach."""
        return bool(self._seized)

    def check_alive(self) -> None:
        """Raise NoSuchProcessError when the target was killed while it stood still: nothing else ends its threads."""
        if self._watchdog.dead & self.threads.keys():
            raise NoSuchProcessError(f"process {self.process.pid} was killed while it stood still")

    def _overdue(self) -> str:
        """Why the target should run again by now; asked by the watchdog's thread."""
        now = time.monotonic()
        if not self._seized:
            return ""
        if self.deadline is not None and now > self.deadline:
            return f"the stop is past its limit of {self._max_stop:g} s (--max-stop)"
        if not self._attached and now > self.clock.started + ATTACH_SECONDS + STALL_SECONDS:
            return f"process {self.process.pid} could not be stopped in {ATTACH_SECONDS:g} s"
        try:
            self._check()
        except CorepipeError as error:
            return error.message
        return ""

    def check_deadline(self) -> None:
        """Raise StopDeadlineError when --max-stop is over."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise StopDeadlineError(
                f"the stop reached its limit of {self._max_stop:g} s (--max-stop); the target runs again",
                "give it more time, or choose less: --preset stacks, --exclude",
            )

    def release(self) -> None:
        """Let every thread go; a second call does nothing. Never raises."""
        try:
            self._release()
        except BaseException as error:
            end_at_once(f"{type(error).__name__} while the target was let go")

    def _release(self) -> None:
        if not self._seized:
            self._watchdog.stop()
            self._restore_mask()
            return
        running = set()
        for tid in self._seized:
            thread = self.threads.get(tid)
            if thread is None:
                running.add(tid)
                continue
            self._undo_interruption(thread)
            self._detach(tid, thread.signal_number)
        self._stop_to_detach(running)
        self.clock.stop()
        self._watchdog.stop()
        self._seized.clear()
        self._restore_mask()

    def registers(self) -> list[ThreadRegisters]:
        """Return the registers of all threads, the leader first, others by id. Errors: as thread_registers."""
        found = []
        for tid in sorted(self.threads, key=lambda tid: (tid != self.process.pid, tid)):
            self.check_deadline()
            found.append(self.thread_registers(tid))
        self.clock.step("registers")
        return found

    def thread_states(self) -> list[ThreadState]:
        """Return the state of all threads, in the order of registers(). Errors: as thread_registers."""
        return self.states(self.registers())

    def states(self, registers: list[ThreadRegisters]) -> list[ThreadState]:
        """Return what the core tells of the threads, and give back the memory that their registers were read into.

        The threads may run again by now; registers is empty afterwards.
        """
        found = [self.state(one) for one in registers]
        registers.clear()
        self._reader = None
        return found

    # stopping ------------------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        while True:
            new = [tid for tid in self.process.tids() if tid not in self._seized and self._seize(tid)]
            if not new:
                break
            for tid in new:
                self._wait(tid)
            self._check()
        if not self.threads:
            raise NoSuchProcessError(f"process {self.process.pid} has no thread left to stop")
        if not self.process.alive():
            raise NoSuchProcessError(f"process {self.process.pid} ended while it was being stopped")

    def _seize(self, tid: int) -> bool:
        """Seize one thread and ask it to stop; False if it has ended meanwhile."""
        try:
            ptrace.seize(tid, ptrace.Option.TRACESYSGOOD)
        except OSError as error:
            if self._ended(tid):
                return False
            if error.errno in (errno.EPERM, errno.EACCES):
                raise explain_refusal(self.process) from error
            raise DumpFailedError(f"cannot attach to thread {tid}: {error.strerror}") from error
        self._seized.add(tid)
        try:
            ptrace.interrupt(tid)
        except ProcessLookupError:
            pass
        return True

    def _ended(self, tid: int) -> bool:
        try:
            state = parse_stat(self.process.read(f"task/{tid}/stat")).state
        except NoSuchProcessError:
            return True
        return state in "ZX"

    def _wait(self, tid: int) -> None:
        """Wait until a seized thread has stopped or ended."""
        begun = 0.0
        while True:
            try:
                # most have stopped by now, while the others were seized: the first look costs nothing
                status = ptrace.wait_stop(tid, self._patience()) if begun else ptrace.poll_stop(tid)
            except ChildProcessError:
                self._forget(tid)
                return
            if status is None and not begun:
                begun = time.monotonic()
                continue
            if status is None:
                self.check_deadline()
                self._check()
                if time.monotonic() - begun >= STALL_SECONDS and self._stalled(tid, time.monotonic() - begun):
                    return
                continue
            if os.WIFSTOPPED(status):
                self.book_stop(tid, status)
            else:
                self._forget(tid)
            return

    def _patience(self) -> float:
        if self.deadline is None:
            return STALL_SECONDS
        return min(STALL_SECONDS, max(self.deadline - time.monotonic(), 0.0))

    def _stalled(self, tid: int, waited: float) -> bool:
        """Return True if the thread has ended, False to wait on; raise if it will not stop."""
        try:
            stat = parse_stat(self.process.read(f"task/{tid}/stat"))
        except NoSuchProcessError:
            self._forget(tid)
            return True
        if stat.state in "ZX":  # a leader that exits while others run reports nothing until they have ended
            self._forget(tid)
            return True
        if stat.state == "D" or waited >= ATTACH_SECONDS:
            wchan = self._wchan(tid)
            name = stat.comm.decode("utf-8", "replace")
            why = "is in uninterruptible sleep (state D)" if stat.state == "D" else f"did not stop (state {stat.state})"
            raise DumpFailedError(
                f"thread {tid} ({name!r}) {why} in {wchan.decode('utf-8', 'replace') or 'an unknown kernel function'}; "
                "all threads run again",
                f"wait for it and try again; sudo cat /proc/{self.process.pid}/task/{tid}/stack   # where it waits",
            )
        return False

    def _wchan(self, tid: int) -> bytes:
        """Return the kernel function a thread waits in, empty where the kernel does not tell (it says 0 then)."""
        try:
            return self.process.read(f"task/{tid}/wchan").removeprefix(b"0")
        except (NoSuchProcessError, NotPermittedError, DumpFailedError):
            return b""

    def book_stop(self, tid: int, status: int) -> None:
        """Note what a thread's stop (a wait status) was for."""
        number = os.WSTOPSIG(status)
        if status >> 16 == ptrace.EVENT_STOP:
            self.threads[tid] = StoppedThread(tid, 0, group_stopped=number in _GROUP_STOP_SIGNALS)
        elif status >> 16 or number == ptrace.SYSCALL_STOP:
            self.threads[tid] = StoppedThread(tid)
        else:
            self.threads[tid] = StoppedThread(tid, number & 0x7F)

    def moved(self, tid: int) -> None:
        """A thread is let run on: what was read of its registers does not hold any more."""
        self._restarts.pop(tid, None)

    def lose(self, tid: int) -> None:
        """A thread that was stopped runs, and not where it was: it is let go by stopping it again, as it is then."""
        self.threads.pop(tid, None)
        self.moved(tid)

    def _forget(self, tid: int) -> None:
        self._seized.discard(tid)
        self.threads.pop(tid, None)

    # reading -------------------------------------------------------------------------------------------------------

    def _read_times(self, tid: int) -> None:
        try:
            stat = parse_stat(self.process.read(f"task/{tid}/stat"))
            namespace_tid = tid
            if self._namespaced:
                namespace_tid = parse_status(self.process.read(f"task/{tid}/status")).ns_pids[-1]
        except (NoSuchProcessError, IndexError):
            return
        self._times[tid] = ThreadTimes(namespace_tid, stat.utime_ticks, stat.stime_ticks)

    @property
    def _namespaced(self) -> bool:
        if self._in_namespace is None:
            self._in_namespace = len(self.process.status().ns_pids) > 1
        return self._in_namespace

    def thread_registers(self, tid: int) -> ThreadRegisters:
        """Return the registers of one thread. Errors: NoSuchProcessError, DumpFailedError."""
        if self._reader is None:
            self._reader = RegisterReader(self.arch, len(self.threads))
        try:
            registers = self._reader.read(tid)
            registers.signals_blocked = ptrace.get_signal_mask(tid)
            registers.signals_pending = self._pending(tid)
        except ProcessLookupError as error:  # SIGKILL ends even a stopped thread, and with it all others
            raise NoSuchProcessError(f"process {self.process.pid} was killed while it stood still") from error
        except (OSError, LookupError) as error:
            raise DumpFailedError(f"cannot read the registers of thread {tid}: {error}") from error
        general = registers.general
        if len(general) != self.arch.general_size:
            raise DumpFailedError(
                f"thread {tid} has {len(general)} bytes of registers where {self.arch.name} has "
                f"{self.arch.general_size}; it runs code of another machine mode"
            )
        with contextlib.suppress(OSError, CorepipeError):
            self._restarts[tid] = self._restarted(tid, general)
        if tid not in self._times:
            self._read_times(tid)
        return registers

    def state(self, registers: ThreadRegisters) -> ThreadState:
        """Return what the core tells of a thread; it may run again by now."""
        assert self._reader is not None
        tid = registers.tid
        times = self._times.get(tid) or ThreadTimes(tid, 0, 0)
        return ThreadState(
            tid,
            times.namespace_tid,
            registers.general,
            self._reader.regsets(registers),
            registers.signals_pending,
            registers.signals_blocked,
            times.utime_ticks,
            times.stime_ticks,
        )

    def _pending(self, tid: int) -> int:
        """Return the thread's pending signals, with the one its stop took; /proc is asked only if there are any."""
        mask = 0
        if ptrace.has_pending_signal(tid, shared=False):
            with contextlib.suppress(NoSuchProcessError):
                mask = parse_status(self.process.read(f"task/{tid}/status")).signals_pending
        taken = self.threads[tid].signal_number
        return mask | (1 << (taken - 1) if taken else 0)

    # letting go ----------------------------------------------------------------------------------------------------

    def _undo_interruption(self, thread: StoppedThread) -> None:
        """Spare the thread an EINTR that only our stop caused: the call is restarted unless a handler runs."""
        tid = thread.tid
        if thread.signal_number or thread.group_stopped:
            return
        with contextlib.suppress(OSError, CorepipeError):
            if tid not in self._restarts:
                self._restarts[tid] = self._restarted(tid, ptrace.get_regset(tid, ptrace.NT_PRSTATUS))
            restarted = self._restarts[tid]
            if restarted is not None and (self.arch.restart_yields_to_handlers or not _signal_waits(tid)):
                ptrace.set_regset(tid, ptrace.NT_PRSTATUS, restarted)

    def _restarted(self, tid: int, general: bytes) -> bytes | None:
        """Return the registers that undo an interruption, None where there is none. OSError, CorepipeError."""
        if len(general) != self.arch.general_size:
            return None
        return self.arch.restart_interrupted(general, _Stopped(self.process, tid, self._files))

    def _detach(self, tid: int, signal_number: int) -> None:
        try:
            ptrace.detach(tid, signal_number)
        except OSError:
            self._reap(tid)

    def _reap(self, tid: int) -> None:
        """Take the status of a thread that was killed, or it would stay as our zombie and its parent hear nothing."""
        deadline = time.monotonic() + STALL_SECONDS
        while not reap_dead((tid,)) and time.monotonic() < deadline:
            time.sleep(0.0005)

    def _stop_to_detach(self, running: set[int]) -> None:
        """Let threads go that are seized but have not stopped yet: detaching needs a stop.

        A thread in uninterruptible sleep stays seized until this process ends; then the kernel lets it go.
        """
        for tid in running:
            with contextlib.suppress(OSError):
                ptrace.interrupt(tid)
        deadline = time.monotonic() + STALL_SECONDS
        while running and time.monotonic() < deadline:
            for tid in tuple(running):
                try:
                    status = ptrace.poll_stop(tid)
                except OSError:
                    running.discard(tid)
                    continue
                if status is None:
                    continue
                running.discard(tid)
                if os.WIFSTOPPED(status):
                    self.book_stop(tid, status)
                    self._undo_interruption(self.threads[tid])
                    self._detach(tid, self.threads[tid].signal_number)
            time.sleep(0.001)

    def _restore_mask(self) -> None:
        if self._old_mask is not None:
            mask, self._old_mask = self._old_mask, None
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
