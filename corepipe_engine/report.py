"""What happened, as a record and as JSON (`--report FILE`)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import DumpFailedError
from .plan import DumpPlan
from .policy import Extent
from .sink import Invoker


@dataclass(slots=True)
class Report:
    """All that is known at the end of a dump. Sizes in bytes, times in seconds; started and finished are ISO 8601, UTC.

    omitted: reason -> [number of regions, bytes of address space]. Ranges are [address, bytes].
    traceback: where an error that should not happen came from.
    """

    version: str
    pid: int
    comm: str = ""
    started: str = ""
    finished: str = ""
    exit_code: int | None = None
    error: str = ""
    hint: str = ""
    traceback: str = ""
    mode: str = ""
    mode_why: str = ""
    fallbacks: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    stop_seconds: float | None = None
    stop_steps: dict[str, float] = field(default_factory=dict)
    stream_seconds: float | None = None
    snapshot_cpu_seconds: float = 0.0
    threads: int = 0
    bytes_planned: int = 0
    bytes_written: int = 0
    bytes_spliced: int = 0
    sha256: str = ""
    segments: int = 0
    regions: int = 0
    regions_included: int = 0
    holes_bytes: int = 0
    zero_bytes: int = 0
    omitted: dict[str, tuple[int, int]] = field(default_factory=dict)
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    unreadable_bytes: int = 0
    shared_live: list[tuple[int, int]] = field(default_factory=list)
    sink_command: str = ""
    sink_user: str = ""
    sink_status: int | None = None
    sink_stderr: str = ""

    def take_plan(self, plan: DumpPlan, threads: int) -> None:
        """Book what the plan says."""
        self.bytes_planned = plan.total_bytes
        self.segments = plan.segments
        self.regions = len(plan.regions)
        self.regions_included = sum(planned.decision.included for planned in plan.regions)
        self.holes_bytes = plan.hole_bytes
        self.zero_bytes = sum(planned.zero_bytes for planned in plan.regions)
        self.threads = threads
        self.omitted = omitted_by_reason(plan)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)

    def write(self, path: str, writer: Invoker | None = None) -> None:
        """Write the report as JSON, readable by its owner alone. An existing file is replaced, a link never followed.

        A device or a FIFO is written to and stays what it is. writer: who owns the file; it is written with his rights.
        Errors: DumpFailedError.
        """
        import json

        data = (json.dumps(self.to_dict(), indent=2) + "\n").encode("ascii")
        try:
            if writer is None:
                _store(path, data)
            else:
                _store_as(writer, path, data)
        except OSError as error:
            who, hint = (f" as {writer.name}", "--pipe-as-root, which writes it as root") if writer else ("", "")
            raise DumpFailedError(f"cannot write the report {path}{who}: {error.strerror}", hint) from error


def _store_as(writer: Invoker, path: str, data: bytes) -> None:
    """Write in a child process, which gives up all other rights: a thread of ours may be stuck and could not."""
    pid = os.fork()
    if pid == 0:
        number = errno.EIO
        try:
            os.setgroups(writer.groups)
            os.setgid(writer.gid)
            os.setuid(writer.uid)
            _store(path, data)
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os._exit(number)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number:
        number = number if number > 0 else errno.EINTR
        raise OSError(number, os.strerror(number))


def _store(path: str, data: bytes) -> None:
    if _special(path):
        _write(path, os.O_NOCTTY | os.O_NONBLOCK, data)  # a FIFO without a reader is an error, not a wait
    else:
        _replace(path, data)


def _special(path: str) -> bool:
    """Return whether path leads to something that must not be replaced by a file: a device, a FIFO, /dev/stdout."""
    try:
        if os.path.islink(path) and os.readlink(path).startswith("/proc/"):
            return True
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # of an earlier command with our pid
    try:
        _write(temporary, os.O_CREAT | os.O_EXCL, data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write(path: str, flags: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    os.set_blocking(fd, True)
    with open(fd, "wb") as file:
        file.write(data)


def omitted_by_reason(plan: DumpPlan) -> dict[str, tuple[int, int]]:
    """Return reason -> (regions, bytes) of what a plan leaves out; parts of regions count by the bytes left out."""
    omitted: dict[str, tuple[int, int]] = {}
    for planned in plan.regions:
        extent = planned.decision.extent
        if extent is Extent.ALL:
            continue
        left_out = planned.region.size - planned.file_bytes
        if not left_out:
            continue
        reason = planned.decision.reason
        if extent is Extent.FIRST_PAGE:
            reason = f"all but the first page: {reason}"
        count, size = omitted.get(reason, (0, 0))
        omitted[reason] = (count + 1, size + left_out)
    return omitted
