"""Asks the kernel what a seccomp filter says.

    python seccomp_oracle.py

Reads lines "PROGRAM ARGUMENT0 ... ARGUMENT4" (hexadecimal), each time forks a child that puts itself under the filter
and makes system call NUMBER with them, argument 5 being 0, 12 and 24 in turn. Writes what came of it: three errno
values, or "signal N", or "refused".
"""

from __future__ import annotations

import ctypes
import os
import sys

NUMBER = 1000
"""No such system call exists."""
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (ctypes.c_long,) + (ctypes.c_uint64,) * 6


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _child(program: bytes, arguments: list[int], out: int) -> None:
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filter_program = _Program(len(program) // 8, program)
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_program)):
        os.write(out, b"refused")
        return
    values = []
    for shift in (0, 12, 24):
        ctypes.set_errno(0)
        _libc.syscall(NUMBER, *arguments, shift)
        values.append(str(ctypes.get_errno()))
    os.write(out, " ".join(values).encode())


def main() -> None:
    for line in sys.stdin:
        program, *arguments = line.split()
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(bytes.fromhex(program), [int(word, 16) for word in arguments], write_end)
            os._exit(0)
        os.close(write_end)
        said = os.read(read_end, 100).decode()
        os.close(read_end)
        _, status = os.waitpid(pid, 0)
        print(f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said, flush=True)


if __name__ == "__main__":
    main()
