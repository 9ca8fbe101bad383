"""One dump from beginning to end: target, sink, mode, stream, report. Nothing but the order of things."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from dataclasses import dataclass

from . import __version__
from .capture import Captured, Context, read_identity
from .errors import (
    ExitCode,
    NoSuchProcessError,
    SinkError,
    StopDeadlineError,
    in_words,
)
from .events import Failed, Finished, Notice, Phase, Planned, Progress, SinkStderr, Started
from .inspection import arch_of_task, live_task, open_target
from .interrupts import Interrupts
from .modes import captured_by_mode
from .options import DumpOptions
from .report import Report
from .reporter import Reporter
from .sink import CommandSink, FdSink, Invoker, Sink, describe_status
from .stream import CoreStream, Digest, raise_error

_PROGRESS_SECONDS = 0.1
_DRAIN_SECONDS = 1.0
_STDERR_SECONDS = 0.2
_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Order:
    """What `corepipe` was told to do. pipe_command None stands for standard output (fd 1)."""

    pid: int
    options: DumpOptions
    pipe_command: str | None = None
    invoker: Invoker | None = None
    strict: bool = False
    output_fd: int = 1
    sha256: bool = False


@dataclass(frozen=True, slots=True)
class ReportFile:
    """Where the report goes, and who writes it: under sudo the user who called it, None for ourselves."""

    path: str
    writer: Invoker | None = None


def run_dump(order: Order, reporter: Reporter, interrupts: Interrupts) -> Report:
    """Make the dump and return the report, which tells of success or failure; raises no Exception."""
    report = Report(version=__version__, pid=order.pid, started=_now())
    try:
        report.exit_code = int(_dump(order, reporter, interrupts, report))
    except Exception as error:
        told = in_words(error)
        report.exit_code, report.error, report.hint = int(told.exit_code), told.message, told.hint
        if told is not error:
            with contextlib.suppress(Exception):  # such as an import that fails for want of memory
                import traceback

                report.traceback = traceback.format_exc()
    report.finished = _now()
    if report.error:
        reporter.emit(Failed(report.error, report.hint, report.exit_code))
    return report


def finish(report: Report, reporter: Reporter, file: ReportFile | None) -> int:
    """Write the report where it was asked for, emit the last event, and return the exit status."""
    code = report.exit_code or 0
    if file is not None:
        try:
            report.write(file.path, file.writer)
        except Exception as error:
            told = in_words(error)
            code = code or int(told.exit_code)
            reporter.emit(Failed(told.message, told.hint, code))
    reporter.emit(Finished(code, report.to_dict()))
    return code


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1_000_000:03}+00:00"


def _dump(order: Order, reporter: Reporter, interrupts: Interrupts, report: Report) -> ExitCode:
    with contextlib.closing(open_target(order.pid)) as process:
        with live_task(process) as task:
            arch = arch_of_task(task)
            identity = read_identity(process, task)
        report.comm = identity.comm.decode("utf-8", "backslashreplace")
        reporter.emit(Started(order.pid, report.comm, __version__))
        sink = _open_sink(order, report, reporter)
        context = Context(
            process, arch, order.options, identity, reporter, interrupts, report, lambda: _check_sink(sink, reporter)
        )
        context.phase(Phase.PREPARE)
        try:
            with captured_by_mode(context) as captured:
                report.take_plan(captured.plan, captured.threads)
                report.shared_live = list(captured.shared_live)
                reporter.emit(_planned(report))
                broken = _stream(context, captured, sink, order.sha256)
            if broken is not None:
                raise _explain(broken, context, sink) from broken
            for line in order.options.policy.unmatched([planned.region for planned in captured.plan.regions]):
                context.notice(line)
            context.phase(Phase.FINISH)
            _await_sink(context, sink)
        except BaseException:
            sink.abort()
            _take_stderr(sink, reporter)
            raise
        finally:
            report.sink_status, report.sink_stderr = sink.status, sink.stderr_tail()
    if report.unreadable_bytes and order.strict:
        return ExitCode.UNREADABLE
    return ExitCode.DONE


def _open_sink(order: Order, report: Report, reporter: Reporter) -> Sink:
    if order.pipe_command is None:
        return FdSink(order.output_fd)
    report.sink_command = order.pipe_command
    if order.invoker:
        report.sink_user = order.invoker.name
        notice = f"the pipe command runs as {order.invoker.name}, umask 077; --pipe-as-root turns that off"
        report.notices.append(notice)
        reporter.emit(Notice(notice))
    return CommandSink(order.pipe_command, order.invoker)


def _planned(report: Report) -> Planned:
    return Planned(
        core_bytes=report.bytes_planned,
        segments=report.segments,
        regions=report.regions,
        regions_included=report.regions_included,
        hole_bytes=report.holes_bytes,
        threads=report.threads,
    )


def _check_sink(sink: Sink, reporter: Reporter) -> None:
    """Raise SinkError if the pipe command has ended already: then the target need not be touched at all."""
    if sink.command and sink.poll():
        raise _sink_error(sink, reporter, "ended at once, before the target was touched")


def _sink_error(sink: Sink, reporter: Reporter, what: str) -> SinkError:
    import shlex

    _hear_out(sink, reporter)
    said = sink.stderr_tail().strip().splitlines()
    reason = f": {said[-1]}" if said else ""
    status = describe_status(sink.status) if sink.status is not None else "still running"
    return SinkError(
        f"the pipe command {what}, {status}{reason}",
        f"echo test | sh -c {shlex.quote(sink.command)}   # the command by hand",
    )


def _hear_out(sink: Sink, reporter: Reporter) -> None:
    """Pass on what a command that has ended printed last; a process of it that stays and prints on is not heard out."""
    deadline = time.monotonic() + _STDERR_SECONDS
    while sink.stderr_fd >= 0 and (left := deadline - time.monotonic()) > 0:
        if not select.select([sink.stderr_fd], [], [], min(left, 0.05))[0]:
            break
        _take_stderr(sink, reporter)


def _stream(context: Context, captured: Captured, sink: Sink, sha256: bool) -> SinkError | None:
    """Send the core; returns when the sink has taken the last byte, or with what broke the sink.

    The target may stand still meanwhile, so nothing waits here for the sink to explain itself.
    """
    plan = captured.plan
    digest = _new_sha256() if sha256 else None
    header = plan.header(captured.notes)
    stream = CoreStream(plan, header, captured.reader, sink.fd, sink.command, captured.pipes, digest, captured.tags)
    watch = _Watch(context, captured, sink, stream)
    begun = time.monotonic()
    stream.start()
    try:
        watch.until_done()
        raise_error(stream)
        captured.check()
        context.report.shared_live += captured.changed()
        if digest is not None:
            context.report.sha256 = digest.hexdigest()
    except NoSuchProcessError:
        captured.check()  # it knows better what is gone
        raise
    except SinkError as error:
        return error
    finally:
        stream.close(_DRAIN_SECONDS if stream.done and stream.error is None else 0.0)
        context.report.bytes_written, context.report.bytes_spliced = stream.written, stream.spliced
        context.report.stream_seconds = time.monotonic() - begun
        context.report.unreadable = list(captured.reader.unreadable)
        context.report.unreadable_bytes = sum(length for _, length in captured.reader.unreadable)
        context.reporter.emit(Progress(context.reporter.now(), stream.written, plan.total_bytes))
    captured.reader.close()
    return None


def _new_sha256() -> Digest:
    import hashlib

    return hashlib.sha256()


def _explain(error: SinkError, context: Context, sink: Sink) -> SinkError:
    """Return the error with what the command said, when it is the command that broke the pipe."""
    if not sink.command:
        return error
    context.interrupts.check()  # Ctrl+C ends the command too
    deadline = time.monotonic() + _DRAIN_SECONDS
    while not sink.poll() and (left := deadline - time.monotonic()) > 0:
        watch_once(context, sink, min(left, 0.01))
    if sink.status is None:
        return error
    return _sink_error(sink, context.reporter, "ended before it had taken the whole core")


class _Watch:
    """Waits for a stream to end, and for everything that may end it early."""

    def __init__(self, context: Context, captured: Captured, sink: Sink, stream: CoreStream) -> None:
        self._context = context
        self._captured = captured
        self._sink = sink
        self._stream = stream
        self._deadline = captured.deadline

    def until_done(self) -> None:
        """Return when the stream is done or has failed. Errors: InterruptedDumpError, StopDeadlineError."""
        next_progress = 0.0
        while not self._stream.done and self._stream.error is None:
            now = time.monotonic()
            if now >= next_progress:
                self._context.reporter.emit(
                    Progress(self._context.reporter.now(), self._stream.written, self._captured.plan.total_bytes)
                )
                next_progress = now + _PROGRESS_SECONDS
            timeout = next_progress - now
            if self._deadline is not None:
                timeout = min(timeout, max(self._deadline - now, 0.0))
            watch_once(self._context, self._sink, timeout, self._stream.wake_fd)
            if self._stream.serve():
                continue
            self._captured.check()
            if self._deadline is not None and time.monotonic() >= self._deadline and not self._stream.done:
                raise StopDeadlineError(
                    f"the stop reached its limit of {self._context.options.max_stop:g} s (--max-stop) before the pipe "
                    "had taken the core; the target runs again",
                    "--mode snapshot, or a faster pipe command, or choose less: --preset stacks",
                )


def watch_once(context: Context, sink: Sink, timeout: float, wake_fd: int = -1) -> None:
    """Wait up to timeout seconds for something to happen; pass on what the command prints; raise on interruption."""
    poller = select.poll()
    interrupts, reporter = context.interrupts, context.reporter
    poller.register(interrupts.fd, select.POLLIN)
    if sink.stderr_fd >= 0:
        poller.register(sink.stderr_fd, select.POLLIN)
    if wake_fd >= 0:
        poller.register(wake_fd, select.POLLIN)
    if reporter.events_fd >= 0:
        poller.register(reporter.events_fd, 0)
    for fd, event in poller.poll(max(timeout, 0.0) * 1000):
        if fd == interrupts.fd:
            interrupts.drain()
        elif fd == sink.stderr_fd:
            _take_stderr(sink, reporter)
        elif fd == reporter.events_fd and event & (select.POLLERR | select.POLLHUP):
            interrupts.request("because the reader of --events-fd is gone")
    interrupts.check()


def _take_stderr(sink: Sink, reporter: Reporter) -> None:
    text = sink.take_stderr()
    if text:
        reporter.emit(SinkStderr(text))


def _await_sink(context: Context, sink: Sink) -> None:
    """Wait until the last byte is taken, close the pipe, and wait for the command to end well.

    Errors: SinkError, InterruptedDumpError.
    """
    try:
        _wait_until(sink.drained, context, sink)
    except SinkError as error:
        raise _explain(error, context, sink) from error
    sink.close()
    _wait_until(sink.poll, context, sink)
    _hear_out(sink, context.reporter)
    if sink.status:
        raise _sink_error(sink, context.reporter, "took the whole core but failed")


def _wait_until(condition: Callable[[], bool], context: Context, sink: Sink) -> None:
    seconds = 0.001
    while not condition():
        watch_once(context, sink, seconds)
        seconds = min(2 * seconds, _WAIT_SECONDS)
