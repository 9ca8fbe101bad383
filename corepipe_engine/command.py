"""What `corepipe` does: the command line of the engine. Data to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import sys

from . import __version__
from .errors import CorepipeError, ExitCode, UsageError, in_words
from .options import ArgumentParser, HelpFormatter, add_dump_options, options_from

_DESCRIPTION = "Stream a core dump of a running process into a pipe; the process stands still as short as can be."
_EPILOG = """\
examples:
  corepipe 1234 > core
  corepipe 1234 --pipe 'zstd -T0 > core.zst'
  corepipe 1234 --plan

exit status: 0 done; 1 dump failed; 2 usage; 3 not permitted; 4 no such process; 5 pipe command or output failed;
6 complete, but with unreadable pages (--strict); 130 interrupted
"""


def make_parser() -> ArgumentParser:
    """Return the parser of `corepipe`."""
    parser = ArgumentParser(
        prog="corepipe",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pid_argument", metavar="PID", nargs="?", help="process to dump")
    parser.add_argument("--pid", metavar="PID", help="the same, as an option")
    parser.add_argument("--pipe", metavar="COMMAND", help="shell command that reads the core; default: standard output")
    parser.add_argument("--plan", action="store_true", help="show what would be dumped, and touch nothing")
    parser.add_argument("--json", action="store_true", help="--plan as JSON")
    add_dump_options(parser)
    outcome = parser.add_argument_group("outcome")
    outcome.add_argument("--report", metavar="FILE", help="write what happened as JSON")
    outcome.add_argument(
        "--events-fd", metavar="N", type=int, default=-1, help="write progress as JSON lines to that fd"
    )
    outcome.add_argument("--sha256", action="store_true", help="tell the SHA-256 of the core, computed as it goes out")
    outcome.add_argument("--strict", action="store_true", help="exit with 6 if a page could not be read")
    outcome.add_argument("--pipe-as-root", action="store_true", help="under sudo: do not drop to the invoking user")
    outcome.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    outcome.add_argument("-v", "--verbose", action="store_true", help="print every step")
    parser.add_argument("--version", action="version", version=f"corepipe {__version__}")
    return parser


def parse_pid(text: str | None) -> int:
    """Return the process id in a command-line argument. UsageError for anything else."""
    if text is None:
        raise UsageError("which process?", "corepipe PID > core   # find it with: ps -e")
    if not re.fullmatch("[0-9]{1,9}", text) or not 0 < int(text) <= 1 << 22:
        raise UsageError(f"{text!r} is not a process id", "corepipe PID > core   # find it with: ps -e")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run `corepipe` and return its exit status."""
    # Ignored by a parent, it stays ignored: then the kernel keeps no exit status, nor a signal that a thread stopped.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # --plan | head
        return int(ExitCode.SINK_FAILED)
    except Exception as error:
        told = in_words(error)
        verbose = {"-v", "--verbose"} & set(sys.argv[1:] if arguments is None else arguments)
        _complain(told, error if verbose and told is not error else None)
        return int(told.exit_code)


def _complain(told: CorepipeError, bug: Exception | None) -> None:
    """Print an error that no reporter could tell of; bug: with where it came from."""
    if sys.stderr is None:
        return
    text = f"corepipe: {told.message}\n" + (f"  try: {told.hint}\n" if told.hint else "")
    with contextlib.suppress(Exception):  # such as an import that fails for want of memory
        from .reporter import printable

        text = printable(text)
        if bug is not None:
            import traceback

            text += printable("".join(traceback.format_exception(bug)))
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)


def _main(arguments: list[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    if options.pid_argument is not None and options.pid is not None and options.pid_argument != options.pid:
        raise UsageError(f"two processes: {options.pid_argument} and {options.pid}", "one dump takes one process")
    pid = parse_pid(options.pid_argument if options.pid_argument is not None else options.pid)
    dump_options = options_from(options)
    if options.plan:
        from .showplan import show_plan

        return show_plan(pid, dump_options, options.json, options.verbose)
    from .dump import Order, ReportFile, finish, run_dump
    from .interrupts import Interrupts
    from .reporter import Console, Reporter
    from .secrecy import forbid_own_core
    from .sink import sudo_invoker

    if options.pipe is None:
        _check_output(options.events_fd)
    _check_events_fd(options.events_fd)
    _open_standard_descriptors()
    forbid_own_core()
    invoker = None if options.pipe_as_root or not (options.pipe or options.report) else sudo_invoker()
    report_file = ReportFile(options.report, invoker) if options.report else None
    verbosity = -1 if options.quiet else int(options.verbose)
    reporter = Reporter(Console(2, verbosity), options.events_fd)
    order = Order(pid, dump_options, options.pipe, invoker, options.strict, sha256=options.sha256)
    with Interrupts() as interrupts:
        report = run_dump(order, reporter, interrupts)
        code = finish(report, reporter, report_file)
        reporter.close()
    return code


def _check_output(events_fd: int) -> None:
    """Refuse a standard output that cannot take a core, before anything is looked at."""
    try:
        terminal = os.isatty(1)
        output = os.fstat(1)
    except OSError as error:
        raise UsageError("standard output is closed", "corepipe PID > core") from error
    if terminal:
        raise UsageError(
            "standard output is a terminal, and a core is binary",
            "corepipe PID > core   # or: corepipe PID --pipe 'zstd > core.zst'",
        )
    if stat.S_ISCHR(output.st_mode):  # /dev/null: nothing is mixed there
        return
    for fd, what, hint in (
        (2, "messages would go", "corepipe PID > core   # without 2>&1"),
        (events_fd, "--events-fd would write", "corepipe PID --events-fd 3 3> events > core"),
    ):
        with contextlib.suppress(OSError, OverflowError):  # closed: _check_events_fd tells
            other = os.fstat(fd)
            if (other.st_dev, other.st_ino) == (output.st_dev, output.st_ino):
                raise UsageError(f"standard output takes the core, and {what} into it", hint)


def _check_events_fd(fd: int) -> None:
    if fd == -1:
        return
    try:
        os.fstat(fd)
    except (OSError, OverflowError) as error:
        raise UsageError(f"--events-fd {fd} is not an open file descriptor") from error
    os.set_inheritable(fd, False)


def _open_standard_descriptors() -> None:
    """Let /dev/null stand in for standard descriptors that are closed.

    Else pipes of ours would take their numbers, and what is meant for standard error could end up in the core.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
