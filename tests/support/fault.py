"""Runs the engine again and again, killed with SIGKILL after its first step, its second, its third ...

    python fault.py PID MODE FIRST STEP [ARGUMENT ...]

FAULT_KIND=raise in the environment: a MemoryError comes out of the step instead, and the engine ends by itself.

A step is a ptrace call, a wait that brought something, a write into the target, or a kill. The engine is forked from
this process, which has imported it already: a point takes milliseconds. After each run a line "POINT STATUS" is
printed, and a line of standard input is waited for; the first run that ends by itself is the last: "end STATUS POINTS",
and what it said on standard error.
"""

from __future__ import annotations

import os
import signal
import sys

from corepipe_engine import ptrace
from corepipe_engine.__main__ import main


class Fault:
    """Counts steps; the one of that number is the last."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.done = 0

    def step(self) -> None:
        self.done += 1
        if self.done == self.last:
            if os.environ.get("FAULT_KIND") == "raise":
                raise MemoryError("made by the test")
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, function, counts=lambda result: True):
        def wrapped(*arguments, **options):
            try:
                result = function(*arguments, **options)
            except BaseException:
                self.step()
                raise
            if counts(result):
                self.step()
            return result

        return wrapped


def run(point: int, arguments: list[str], steps_fd: int, errors_fd: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.dup2(errors_fd, 2)
    fault = Fault(point)
    ptrace.call, ptrace.seize = fault.after(ptrace.call), fault.after(ptrace.seize)
    os.pwrite = fault.after(os.pwrite)
    ptrace.poll_stop = fault.after(ptrace.poll_stop, lambda status: status is not None)
    status = main(arguments)
    os.write(steps_fd, str(fault.done).encode())
    os._exit(status)


def loop() -> None:
    pid, mode, first, step = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    point = first
    while True:
        errors = os.memfd_create("errors")
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            os.close(read_end)
            run(point, [pid, "--mode", mode, *sys.argv[5:]], write_end, errors)
        os.close(write_end)
        _, status = os.waitpid(child, 0)
        steps = os.read(read_end, 100).decode() or str(point)
        os.close(read_end)
        if os.WIFEXITED(status) and (int(steps) < point or not os.WEXITSTATUS(status)):
            print(f"end {os.WEXITSTATUS(status)} {steps}", flush=True)
            os.write(2, os.pread(errors, 10_000, 0))
            return
        os.close(errors)
        print(f"{point} {status}", flush=True)
        if not sys.stdin.readline():
            return
        point += step


loop()
