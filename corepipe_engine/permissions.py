"""Why a process cannot be dumped, and the command that mends it. Nothing here touches the target.

Source: ptrace(2), "Ptrace access mode checking"; Documentation/admin-guide/LSM/Yama.rst.
"""

from __future__ import annotations

import os

from .errors import CorepipeError, NoSuchProcessError, NotPermittedError, UsageError
from .naming import as_root
from .procfs import ProcDir, TaskStatus, parse_status

_CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21


def has_capability(number: int) -> bool:
    """Return whether this process has that effective capability."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def can_ptrace_all() -> bool:
    """Return whether this process has CAP_SYS_PTRACE."""
    return has_capability(_CAP_SYS_PTRACE)


def _yama_scope() -> int:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as file:
            return int(file.read())
    except OSError:
        return 0


def refusal(pid: int, status: TaskStatus) -> CorepipeError | None:
    """Return why a process cannot be dumped as its status has it, None where nothing speaks against it.

    Says nothing of rules that only a try can tell (Yama, security modules): explain_refusal names those.
    """
    if pid == os.getpid():
        return UsageError("corepipe cannot dump itself", "give the pid of another process")
    if status.state in ("Z", "X"):
        return NoSuchProcessError(f"process {pid} has ended (zombie); there is no memory left to dump")
    if status.kernel_thread:
        return UsageError(
            f"process {pid} is a kernel thread; it has no memory of its own", "ps -e | less   # pick a process"
        )
    if status.tracer_pid:
        return NotPermittedError(
            f"process {pid} is traced by process {status.tracer_pid}; a process has one tracer at a time",
            f"ps -fp {status.tracer_pid}   # end that debugger or strace first",
        )
    if not can_ptrace_all() and status.uid != os.geteuid():
        return NotPermittedError(f"process {pid} belongs to another user (uid {status.uid})", as_root(pid))
    return None


def explain_refusal(process: ProcDir, attaching: bool = True) -> NotPermittedError:
    """Return the error for a ptrace call that failed with EPERM: the rule that most likely forbade it.

    attaching: False where already a look into /proc was refused, with which Yama does not meddle.
    """
    pid = process.pid
    try:
        status = parse_status(process.read("status"))
    except CorepipeError:
        return NotPermittedError(f"not permitted to trace process {pid}", as_root(pid))
    found = refusal(pid, status)
    if isinstance(found, NotPermittedError):
        return found
    scope = _yama_scope() if attaching else 0
    if scope == 3:
        return NotPermittedError(
            "Yama forbids tracing on this host (kernel.yama.ptrace_scope = 3)",
            "it can only be changed by a reboot with another setting",
        )
    if not can_ptrace_all():
        if scope:
            return NotPermittedError(
                f"Yama forbids tracing process {pid} (kernel.yama.ptrace_scope = {scope})",
                f"{as_root(pid)}   # or: sudo sysctl kernel.yama.ptrace_scope=0",
            )
        return NotPermittedError(
            f"process {pid} is not dumpable (setuid, capabilities, or prctl(PR_SET_DUMPABLE, 0))",
            as_root(pid),
        )
    return NotPermittedError(
        f"the kernel refuses to trace process {pid} although we have CAP_SYS_PTRACE: "
        "it is in another user namespace, or a security module or seccomp forbids it",
        "run corepipe on the host instead of in the container; docker run --cap-add SYS_PTRACE; look into: sudo dmesg",
    )
