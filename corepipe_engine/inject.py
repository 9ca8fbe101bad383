"""System calls run inside a stopped thread, over a safety net: the thread finds home though this process is killed.

Before anything else, frames are laid into memory that nobody uses. An injected call runs with its stack pointer at the
first of them; while we live, the thread never gets further than the exit stop of the call, and its registers are set
back from here. When we are killed, the kernel lets the thread run: it returns from the call into the frames, and
rt_sigreturn brings it back to where it was, with all registers and its signal mask.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from . import ptrace
from .arch import Gadgets, SafetyNet, SystemCall, ThreadState
from .errors import CorepipeError, DumpFailedError, ModeUnavailableError, NoSuchProcessError
from .freeze import Freeze
from .gadgets import injection_of
from .procfs import ProcDir
from .stepping import NotBegunError, StuckError, run_to_exit
from .watchdog import end_at_once

ALL_SIGNALS = (1 << 64) - 1
REAP_HELPER = (0xFFFFFFFF, 0, 0xA0000000, 0)
"""wait4(-1, 0, __WCLONE | __WNOTHREAD, 0): of a thread's own children those whose end sends no SIGCHLD."""


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
