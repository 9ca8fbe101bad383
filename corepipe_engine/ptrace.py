"""The ptrace and wait calls through ctypes, and nothing else. Errors are OSError, with the kernel's errno.

Source: ptrace(2), include/uapi/linux/ptrace.h.
"""

from __future__ import annotations

import ctypes
import enum
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


class Request(enum.IntEnum):
    """Requests of ptrace(2) that corepipe uses."""

    CONT = 7
    SYSCALL = 24
    DETACH = 17
    SETOPTIONS = 0x4200
    GETEVENTMSG = 0x4201
    GETREGSET = 0x4204
    SETREGSET = 0x4205
    SEIZE = 0x4206
    INTERRUPT = 0x4207
    GETSIGINFO = 0x4202
    SETSIGINFO = 0x4203
    PEEKSIGINFO = 0x4209
    GETSIGMASK = 0x420A
    SETSIGMASK = 0x420B
    SECCOMP_GET_FILTER = 0x420C
    PEEKMTETAGS = 33
    GET_RSEQ_CONFIGURATION = 0x420F


class Option(enum.IntFlag):
    """PTRACE_O_*."""

    TRACESYSGOOD = 0x01
    TRACECLONE = 0x08
    SUSPEND_SECCOMP = 0x200000


SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
EVENT_CLONE: Final = 3
EVENT_STOP: Final = 128
PEEKSIGINFO_SHARED: Final = 1
WALL: Final = 0x40000000
_SIGINFO_SIZE: Final = 128

NT_PRSTATUS: Final = 1


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """si_signo, si_code and si_pid of a signal."""

    number: int
    code: int
    pid: int


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _PeekArguments(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("count", ctypes.c_int32))


def _function(library: ctypes.CDLL) -> Callable[[int, int, int, int], int]:
    function = library.ptrace
    function.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = ctypes.c_long
    result: Callable[[int, int, int, int], int] = function
    return result


# SEIZE may wait for an exec that waits for our watchdog. All else returns at once: it keeps the interpreter's lock, so
# that no other thread of ours gets a turn at the target's expense.
_seize = _function(ctypes.CDLL(None, use_errno=True))
_ptrace = _function(ctypes.PyDLL(None, use_errno=True))

_BUFFER_SIZE: Final = 1 << 16
_buffer = ctypes.create_string_buffer(_BUFFER_SIZE)
_buffer_address = ctypes.addressof(_buffer)
_iovec = _Iovec()
_iovec_address = ctypes.addressof(_iovec)
_mask = ctypes.c_uint64()
_mask_address = ctypes.addressof(_mask)
_message = ctypes.c_ulong()
_peek_arguments = _PeekArguments()
_peek_address = ctypes.addressof(_peek_arguments)

# Of every thread in the stop: looking these up in their class takes a tenth of the call.
_GETREGSET: Final = int(Request.GETREGSET)
_GETSIGMASK: Final = int(Request.GETSIGMASK)
_PEEKSIGINFO: Final = int(Request.PEEKSIGINFO)
_INTERRUPT: Final = int(Request.INTERRUPT)
_DETACH: Final = int(Request.DETACH)
_SEIZE: Final = int(Request.SEIZE)


def call(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    """Make one ptrace call and return its result."""
    result = _ptrace(request, tid, address, data)
    if result == -1:
        _fail()
    return result


def _fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def seize(tid: int, options: int = 0) -> None:
    """PTRACE_SEIZE: become the tracer; the thread runs on."""
    if _seize(_SEIZE, tid, 0, options) == -1:
        _fail()


def interrupt(tid: int) -> None:
    """PTRACE_INTERRUPT: ask for a stop, which wait_stop then reports."""
    call(_INTERRUPT, tid)


def detach(tid: int, signal_number: int = 0) -> None:
    """PTRACE_DETACH: let the stopped thread go, with the signal that its stop had taken."""
    call(_DETACH, tid, 0, signal_number)


def get_regset(tid: int, note_type: int) -> bytes:
    """PTRACE_GETREGSET: return the register set, of the size the kernel gives."""
    return ctypes.string_at(_buffer_address, get_regset_at(tid, note_type, _buffer_address, _BUFFER_SIZE))


def get_regset_at(tid: int, note_type: int, address: int, room: int) -> int:
    """PTRACE_GETREGSET into our memory at address, where there are `room` bytes: return how many it took."""
    _iovec.base, _iovec.length = address, room
    call(_GETREGSET, tid, note_type, _iovec_address)
    length: int = _iovec.length
    return length


def set_regset(tid: int, note_type: int, data: bytes) -> None:
    """PTRACE_SETREGSET: write the register set back."""
    source = ctypes.create_string_buffer(data, len(data))
    _iovec.base, _iovec.length = ctypes.addressof(source), len(data)
    call(Request.SETREGSET, tid, note_type, _iovec_address)


def get_signal_mask(tid: int) -> int:
    """PTRACE_GETSIGMASK: return the blocked signals as a 64-bit mask."""
    call(_GETSIGMASK, tid, 8, _mask_address)
    value: int = _mask.value
    return value


def set_signal_mask(tid: int, mask: int) -> None:
    """PTRACE_SETSIGMASK: block these signals (64-bit mask)."""
    _mask.value = mask
    call(Request.SETSIGMASK, tid, 8, _mask_address)


def set_options(tid: int, options: int) -> None:
    """PTRACE_SETOPTIONS: replace the PTRACE_O_* options of a stopped tracee."""
    call(Request.SETOPTIONS, tid, 0, options)


def resume_to_system_call(tid: int, signal_number: int = 0) -> None:
    """PTRACE_SYSCALL: run to the next entry or exit of a system call; 0: the signal its stop took is not delivered."""
    call(Request.SYSCALL, tid, 0, signal_number)


def resume(tid: int, signal_number: int = 0) -> None:
    """PTRACE_CONT, with the signal that the stop had taken, or without one."""
    call(Request.CONT, tid, 0, signal_number)


def signal_info(tid: int) -> SignalInfo:
    """PTRACE_GETSIGINFO of a thread in a signal-delivery stop."""
    call(Request.GETSIGINFO, tid, 0, _buffer_address)
    return _parse_siginfo(0)


def set_sender(tid: int, pid: int, code: int, status: int) -> None:
    """PTRACE_SETSIGINFO: make the SIGCHLD of a signal-delivery stop tell of another child; the user id stays."""
    call(Request.GETSIGINFO, tid, 0, _buffer_address)
    struct.pack_into("<i", _buffer, 8, code)
    struct.pack_into("<i", _buffer, 16, pid)
    struct.pack_into("<i", _buffer, 24, status)
    call(Request.SETSIGINFO, tid, 0, _buffer_address)


def pending_signals(tid: int, shared: bool) -> list[SignalInfo]:
    """PTRACE_PEEKSIGINFO: return the signals queued for the thread, or (shared) for its process."""
    _peek_arguments.offset, _peek_arguments.count = 0, _BUFFER_SIZE // _SIGINFO_SIZE
    _peek_arguments.flags = PEEKSIGINFO_SHARED if shared else 0
    count = call(Request.PEEKSIGINFO, tid, _peek_address, _buffer_address)
    return [_parse_siginfo(index * _SIGINFO_SIZE) for index in range(count)]


def _parse_siginfo(offset: int) -> SignalInfo:
    number, _, code, pid = struct.unpack_from("<3i4xi", _buffer, offset)
    return SignalInfo(number, code, pid)


def seccomp_filter(tid: int, index: int) -> bytes | None:
    """PTRACE_SECCOMP_GET_FILTER: return a filter program (struct sock_filter[]), None behind the last one.

    OSError: EACCES without CAP_SYS_ADMIN, EINVAL without filters or support.
    """
    try:
        count = call(Request.SECCOMP_GET_FILTER, tid, index, 0)
        program = ctypes.create_string_buffer(max(count, 1) * 8)
        call(Request.SECCOMP_GET_FILTER, tid, index, ctypes.addressof(program))
    except FileNotFoundError:
        return None
    return program.raw[: count * 8]


def rseq_area(tid: int) -> tuple[int, int]:
    """PTRACE_GET_RSEQ_CONFIGURATION: return address and bytes of the thread's struct rseq, (0, 0) if it has none."""
    call(Request.GET_RSEQ_CONFIGURATION, tid, 24, _buffer_address)
    address, size = struct.unpack_from("<QI", _buffer)
    return address, size


def has_pending_signal(tid: int, shared: bool) -> bool:
    """PTRACE_PEEKSIGINFO: return whether a signal is queued for the thread, or (shared) for its process."""
    _peek_arguments.offset, _peek_arguments.count = 0, 1
    _peek_arguments.flags = PEEKSIGINFO_SHARED if shared else 0
    return call(_PEEKSIGINFO, tid, _peek_address, _buffer_address) > 0


def peek_tags(tid: int, address: int, count: int) -> bytes:
    """PTRACE_PEEKMTETAGS: return the tags of granules from the address on, a byte each; fewer where they end.

    OSError: EOPNOTSUPP or EIO where there are none.
    """
    tags = ctypes.create_string_buffer(count)
    _iovec.base, _iovec.length = ctypes.addressof(tags), count
    call(Request.PEEKMTETAGS, tid, address, _iovec_address)
    return tags.raw[: _iovec.length]


def event_message(tid: int) -> int:
    """PTRACE_GETEVENTMSG: return what belongs to the event stop, for a clone the new thread's id."""
    call(Request.GETEVENTMSG, tid, 0, ctypes.addressof(_message))
    return int(_message.value)


_STOPS_AND_ENDS = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT | WALL


def poll_stop(tid: int) -> int | None:
    """Return the wait status of a thread that stopped or ended, None while it runs. ECHILD if it is not ours.

    An end is taken; a stop is only looked at, so a second call tells of it again until the thread is let run. A stop
    that was taken is forgotten if we are killed, and so is the signal it was for (kernel/exit.c, wait_task_stopped).
    """
    found = os.waitid(os.P_PID, tid, _STOPS_AND_ENDS)
    if found is None:
        return None
    if found.si_code in (os.CLD_TRAPPED, os.CLD_STOPPED):
        return found.si_status << 8 | 0x7F
    pid, status = os.waitpid(tid, os.WNOHANG | WALL)
    return status if pid else None


def wait_stop(tid: int, seconds: float) -> int | None:
    """As poll_stop, waiting up to that time. SIGCHLD must be blocked in this thread: it is what ends the wait early."""
    status = poll_stop(tid)
    if status is None and seconds > 0:
        signal.sigtimedwait((signal.SIGCHLD,), seconds)
        status = poll_stop(tid)
    return status
