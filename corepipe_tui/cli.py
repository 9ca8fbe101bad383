"""`corepipe-tui`: the command line. With a terminal it opens the application, without one it prints plain lines."""

from __future__ import annotations

import os
import sys

from corepipe_engine import __version__
from corepipe_engine.command import parse_pid
from corepipe_engine.errors import CorepipeError, ExitCode, UsageError
from corepipe_engine.options import ArgumentParser, HelpFormatter, add_dump_options, options_from

from .sanitize import clean

_DESCRIPTION = "Pick a process, see and choose what goes into its core dump, and stream it into a pipe command."
_EPILOG = """\
examples:
  sudo corepipe-tui
  corepipe-tui --pid 1234
  corepipe-tui --pid 1234 --pipe 'zstd > core.zst'

With --pid and --pipe the dump starts at once, and the exit status is that of the dump: 0 done; 1 dump failed; 2 usage;
3 not permitted; 4 no such process; 5 pipe command failed; 6 complete, but with unreadable pages (--strict);
130 interrupted. Placeholders in --pipe: {pid} {comm} {host} {time}.
"""


def make_parser() -> ArgumentParser:
    """Return the parser of `corepipe-tui`."""
    parser = ArgumentParser(
        prog="corepipe-tui",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--pid", metavar="PID", help="process to dump; without --pipe its regions are shown first")
    parser.add_argument("--pipe", metavar="COMMAND", help="shell command that reads the core")
    add_dump_options(parser)
    outcome = parser.add_argument_group("outcome")
    outcome.add_argument("--report", metavar="FILE", help="write what happened as JSON")
    outcome.add_argument("--strict", action="store_true", help="exit with 6 if a page could not be read")
    outcome.add_argument("--pipe-as-root", action="store_true", help="under sudo: do not drop to the invoking user")
    look = parser.add_argument_group("look")
    look.add_argument("--no-color", action="store_true", help="no colours, as with NO_COLOR in the environment")
    look.add_argument("--read-only", action="store_true", help="look, but never dump")
    parser.add_argument("--version", action="version", version=f"corepipe-tui {__version__}")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run `corepipe-tui` and return its exit status."""
    try:
        return _main(arguments)
    except CorepipeError as error:
        hint = f"  try: {clean(error.hint)}\n" if error.hint else ""
        sys.stderr.write(f"corepipe-tui: {clean(error.message)}\n{hint}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)


def _has_terminal() -> bool:
    """Return whether a person sits there: keys come from standard input, the picture goes to standard error."""
    try:
        return os.isatty(0) and os.isatty(2) and os.environ.get("TERM", "") not in ("", "dumb")
    except OSError:
        return False


def _main(arguments: list[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    pid = parse_pid(options.pid) if options.pid is not None else 0
    pipe = options.pipe or ""
    if options.pipe is not None and not pipe.strip():
        raise UsageError("the pipe command is empty", "--pipe 'zstd > core.zst'")
    if options.read_only and pid and pipe:
        raise UsageError("--read-only with --pid and --pipe: there would be nothing to do", "leave one of them out")
    if options.no_color:
        os.environ["NO_COLOR"] = "1"
    dump_options = options_from(options)
    from .pipes import expand
    from .plain import comm_of, run_plain, tell_end
    from .runner import DumpRequest

    if pid and pipe:
        pipe = expand(pipe, pid, comm_of(pid))
    if not _has_terminal():
        if not (pid and pipe):
            raise UsageError(
                "this is no terminal: there is nobody to pick a process",
                "corepipe-tui --pid PID --pipe 'zstd > core.zst'   # or: ssh -t",
            )
        request = DumpRequest(pid, pipe, dump_options, options.strict, options.pipe_as_root, options.report or "")
        return run_plain(request)
    from .app import CorepipeApp, Settings

    app = CorepipeApp(
        Settings(
            pid=pid,
            pipe=pipe,
            options=dump_options,
            strict=options.strict,
            pipe_as_root=options.pipe_as_root,
            report=options.report or "",
            read_only=options.read_only,
        )
    )
    code = app.run()
    if app.outcome is not None:
        tell_end(app.outcome)
    return code if code is not None else (app.return_code or 0)
