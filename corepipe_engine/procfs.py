"""Readers of /proc/PID: errno becomes a CorepipeError, text becomes frozen records.

Sources: proc_pid_maps(5), proc_pid_smaps(5), proc_pid_status(5), proc_pid_stat(5), fs/proc/task_mmu.c.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .errors import CorepipeError, DumpFailedError, NoSuchProcessError, NotPermittedError
from .mappings import not_understood, parse_maps, parse_smaps
from .naming import as_root
from .regions import Region

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class TaskStat:
    """The fields of /proc/PID/stat that a core needs. Times are clock ticks."""

    pid: int
    comm: bytes
    state: str
    ppid: int
    pgrp: int
    session: int
    flags: int
    utime_ticks: int
    stime_ticks: int
    cutime_ticks: int
    cstime_ticks: int
    nice: int
    start_time_ticks: int


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The fields of /proc/PID/status that corepipe needs. Memory in bytes; signal sets as 64-bit masks."""

    name: bytes
    state: str
    tgid: int
    tracer_pid: int
    uid: int
    effective_uid: int
    gid: int
    ns_tgids: tuple[int, ...]
    ns_pids: tuple[int, ...]
    ns_pgids: tuple[int, ...]
    ns_sids: tuple[int, ...]
    kernel_thread: bool
    threads: int
    vm_rss: int
    vm_swap: int
    vm_pte: int
    vm_locked: int
    seccomp: int
    shadow_stack: bool
    signals_pending: int
    signals_shared_pending: int
    signals_blocked: int
    rss_anonymous: int = 0
    rss_shmem: int = 0


def translate_error(error: OSError, pid: int, what: str) -> CorepipeError:
    """Return the CorepipeError that an errno of a /proc access means."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return NoSuchProcessError(f"process {pid} does not exist or ended", "ps -e | less   # find the process")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermittedError(
            f"not permitted to read {what} of process {pid}", f"{as_root(pid)}   # needs root or CAP_SYS_PTRACE"
        )
    return DumpFailedError(f"cannot read {what} of process {pid}: {error.strerror}")


def read_all(fd: int) -> bytes:
    """Return everything from fd to its end; a /proc file gives a page or so at a time."""
    pieces = []
    while piece := os.read(fd, _READ_SIZE):
        pieces.append(piece)
    return b"".join(pieces)


class ProcDir:
    """An open folder of /proc: /proc/PID or /proc/PID/task/TID.

    The folder stays bound to the process it was opened for: when the pid is given to another process, every read
    fails with NoSuchProcessError instead of telling about a stranger.
    """

    def __init__(self, pid: int, tid: int | None = None, dir_fd: int | None = None) -> None:
        self.pid = pid
        self.task_id = tid or pid
        path = f"/proc/{pid}" if tid is None else f"task/{tid}"
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
        except OSError as error:
            raise translate_error(error, pid, "/proc") from error

    def close(self) -> None:
        """Close the folder; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a new file descriptor of a file below the folder; OSError as it comes."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.fd)

    def read(self, name: str) -> bytes:
        """Return a whole file below the folder. Errors: NoSuchProcessError, NotPermittedError, DumpFailedError."""
        try:
            fd = self.open(name)
            try:
                return read_all(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise translate_error(error, self.pid, name) from error

    def readlink(self, name: str) -> bytes:
        """Return where a link below the folder leads, empty when that cannot be known."""
        try:
            return os.readlink(os.fsencode(name), dir_fd=self.fd)
        except OSError:
            return b""

    def task(self, tid: int) -> ProcDir:
        """Return the folder of one thread."""
        return ProcDir(self.pid, tid, self.fd)

    def tids(self) -> list[int]:
        """Return the ids of all threads now, ascending. Errors as in read."""
        try:
            fd = self.open("task", os.O_RDONLY | os.O_DIRECTORY)
            try:
                return sorted(int(name) for name in os.listdir(fd))
            finally:
                os.close(fd)
        except OSError as error:
            raise translate_error(error, self.pid, "task") from error

    def auxv(self, word_size: int) -> bytes:
        """Return the raw auxiliary vector of a program with words of that many bytes, as it stands in a core."""
        return cut_auxv(self.read("auxv"), word_size)

    def status(self) -> TaskStatus:
        """Return the parsed status file."""
        return parse_status(self.read("status"))

    def stat(self) -> TaskStat:
        """Return the parsed stat file."""
        return parse_stat(self.read("stat"))

    def regions(self, check: Callable[[], None] = lambda: None) -> list[Region]:
        """Return all mappings with counts and flags, from smaps; where there is no smaps, from maps.

        smaps walks the page tables: some 20 ms a resident GiB. check is called now and then, and may raise.
        """
        return list(self.each_region(check))

    def each_region(self, check: Callable[[], None] = lambda: None) -> Iterator[Region]:
        """Yield what regions() returns, one by one: there may be many."""
        found = False
        try:
            fd = self.open("smaps")
            try:
                for region in parse_smaps(_chunks(fd, check)):
                    found = True
                    yield self._with_links(region)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno != errno.ENOENT or found:
                raise translate_error(error, self.pid, "smaps") from error
        if not found:
            for region in parse_maps(self.read("maps")):
                yield self._with_links(region)

    def _with_links(self, region: Region) -> Region:
        """Note how many names the file of a shared mapping has, as far as that may be asked (map_files, as root)."""
        if not (region.shared and region.file_backed):
            return region
        try:
            found = os.stat(f"map_files/{region.start:x}-{region.end:x}", dir_fd=self.fd)
        except OSError:
            return region
        return replace(region, links=found.st_nlink)


class ProcessHandle(ProcDir):
    """A process held by pidfd from the first look to the end, so that its pid cannot become another's unnoticed."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError as error:
            try:
                if error.errno in (errno.EINVAL, errno.ENOENT):  # newer kernels say ENOENT
                    raise self._of_a_thread() from error
            finally:
                self.close()
            raise translate_error(error, pid, "pidfd") from error
        self.read("stat")  # after the pidfd: the folder and the pidfd are of the same process

    def _of_a_thread(self) -> NoSuchProcessError:
        process = self.status().tgid
        return NoSuchProcessError(
            f"{self.pid} is a thread of process {process}, not a process",
            f"corepipe {process} > core   # all of its threads go in",
        )

    def alive(self) -> bool:
        """Return whether the process has not ended (a zombie has)."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return not poller.poll(0)

    def close(self) -> None:
        """Close folder and pidfd."""
        super().close()
        if getattr(self, "pidfd", -1) >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _chunks(fd: int, check: Callable[[], None]) -> Iterator[bytes]:
    while chunk := os.read(fd, _READ_SIZE):
        check()
        yield chunk


def _status_number(fields: dict[bytes, bytes], name: bytes, base: int = 10) -> int:
    words = fields.get(name, b"").split()
    return int(words[0], base) if words else 0


def _status_numbers(fields: dict[bytes, bytes], name: bytes) -> tuple[int, ...]:
    return tuple(int(word) for word in fields.get(name, b"").split())


def parse_status(text: bytes) -> TaskStatus:
    """Return the record of a status file. Missing lines (older kernels, kernel threads) read as 0."""
    fields: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        name, separator, value = line.partition(b":")
        if separator:
            fields.setdefault(name, value.strip(b"\t "))
    try:
        return _task_status(fields)
    except ValueError as error:
        raise not_understood("status", text) from error


def _task_status(fields: dict[bytes, bytes]) -> TaskStatus:
    uids = _status_numbers(fields, b"Uid") or (0, 0)
    gids = _status_numbers(fields, b"Gid") or (0,)
    state = fields.get(b"State", b"?").decode("ascii", "replace")[:1]
    return TaskStatus(
        name=fields.get(b"Name", b""),
        state=state,
        tgid=_status_number(fields, b"Tgid"),
        tracer_pid=_status_number(fields, b"TracerPid"),
        uid=uids[0],
        effective_uid=uids[1] if len(uids) > 1 else uids[0],
        gid=gids[0],
        ns_tgids=_status_numbers(fields, b"NStgid"),
        ns_pids=_status_numbers(fields, b"NSpid"),
        ns_pgids=_status_numbers(fields, b"NSpgid"),
        ns_sids=_status_numbers(fields, b"NSsid"),
        kernel_thread=fields.get(b"Kthread") == b"1" or (b"VmSize" not in fields and state not in "ZX"),
        threads=_status_number(fields, b"Threads"),
        vm_rss=_status_number(fields, b"VmRSS") * 1024,
        vm_swap=_status_number(fields, b"VmSwap") * 1024,
        vm_pte=_status_number(fields, b"VmPTE") * 1024,
        vm_locked=_status_number(fields, b"VmLck") * 1024,
        seccomp=_status_number(fields, b"Seccomp"),
        shadow_stack=b"shstk" in fields.get(b"x86_Thread_features", b"").split(),
        signals_pending=_status_number(fields, b"SigPnd", 16),
        signals_shared_pending=_status_number(fields, b"ShdPnd", 16),
        signals_blocked=_status_number(fields, b"SigBlk", 16),
        rss_anonymous=_status_number(fields, b"RssAnon") * 1024,
        rss_shmem=_status_number(fields, b"RssShmem") * 1024,
    )


def parse_stat(text: bytes) -> TaskStat:
    """Return the record of a stat file. The name may hold spaces, newlines and `)`: the last `)` ends it."""
    opening, closing = text.find(b"("), text.rfind(b")")
    fields = text[closing + 2 :].split()
    try:
        return TaskStat(
            pid=int(text[: max(opening, 0)]),
            comm=text[opening + 1 : closing],
            state=fields[0].decode("ascii", "replace"),
            ppid=int(fields[1]),
            pgrp=int(fields[2]),
            session=int(fields[3]),
            flags=int(fields[6]),
            utime_ticks=int(fields[11]),
            stime_ticks=int(fields[12]),
            cutime_ticks=int(fields[13]),
            cstime_ticks=int(fields[14]),
            nice=int(fields[16]),
            start_time_ticks=int(fields[19]),
        )
    except (ValueError, IndexError) as error:
        raise not_understood("stat", text) from error


def parse_auxv(raw: bytes, word_size: int) -> dict[int, int]:
    """Return the auxiliary vector as a_type -> a_val; word_size is 4 or 8 bytes. Ends at AT_NULL or a cut entry."""
    entries: dict[int, int] = {}
    step = 2 * word_size
    for position in range(0, len(raw) - step + 1, step):
        kind = int.from_bytes(raw[position : position + word_size], "little")
        if kind == 0:
            break
        entries[kind] = int.from_bytes(raw[position + word_size : position + step], "little")
    return entries


def cut_auxv(raw: bytes, word_size: int) -> bytes:
    """Return the auxiliary vector up to its AT_NULL, which /proc counts in words of the kernel's own size.

    Source: fs/proc/base.c auxv_read, fs/binfmt_elf.c fill_auxv_note.
    """
    step = 2 * word_size
    for position in range(0, len(raw) - step + 1, step):
        if not any(raw[position : position + word_size]):
            return raw[: position + step]
    return raw


def mem_available() -> int:
    """Return MemAvailable of the machine in bytes."""
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def map_id(id_map: bytes, outer_id: int) -> int:
    """Return a user or group id as the owner of that uid_map or gid_map sees it; 65534 where it is not mapped."""
    for line in id_map.splitlines():
        try:
            inner, outer, count = (int(word) for word in line.split())
        except ValueError as error:
            raise not_understood("uid_map", id_map) from error
        if outer <= outer_id < outer + count:
            return inner + outer_id - outer
    return 65534
