"""What happened, what was left out and why, and what to type next."""

from __future__ import annotations

import contextlib
import os
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from corepipe_engine.errors import ExitCode
from corepipe_engine.sink import describe_status

from .. import format as fmt
from ..pipes import corepipe_command, next_commands, output_file
from ..runner import DumpRequest, Outcome
from ..sanitize import clean
from ..selection import Selection
from ..styled import MUTED, title
from ..widgets.listing import Cell, Column, Listing
from .base import CorepipeScreen

_WHOLE = (ExitCode.DONE, ExitCode.UNREADABLE)
_MOST_REASONS = 8
_HEAD_LINES = 5
_WHOLE_LINES = 4
_FIXED_LINES = 5
"""Title, footer, the commands' header, a blank line on either side of the facts."""
_LEAST_FACTS = 3
_CELL_MARGIN = 4


def headline(outcome: Outcome) -> tuple[str, str, str]:
    """Return (mark, style, words) for how a dump ended."""
    code = outcome.exit_code
    if code == ExitCode.DONE:
        return "✓", "$text-success", "the core is whole"
    if code == ExitCode.UNREADABLE:
        return "⚠", "$text-warning", "the core is whole, but some pages could not be read"
    if code == ExitCode.INTERRUPTED:
        words = "aborted; the target runs, the core is not whole"
        return "■", "$text-warning", words if outcome.report else clean(outcome.error) or words
    return "✗", "$text-error", clean(outcome.error) or f"failed with exit status {code}"


def summary(outcome: Outcome) -> str:
    """Return the two figures that matter of a dump that came to its end, to stand behind its headline."""
    report: dict[str, Any] = outcome.report
    if outcome.exit_code not in _WHOLE or report["stop_seconds"] is None:
        return ""
    return f"   {fmt.exact_size(report['bytes_written'])}, the target stood still for {report['stop_seconds']:.3f} s"


def facts(outcome: Outcome, pipe: str, expected_bytes: int | None = None) -> list[tuple[str, str]]:
    """Return (label, words) of a dump: stop, bytes, file, sink, omissions."""
    report: dict[str, Any] = outcome.report
    path = output_file(pipe)
    if not report:
        return _part(path)
    lines: list[tuple[str, str]] = []
    if report["stop_seconds"] is not None:
        steps = ", ".join(f"{name} {fmt.step(seconds)}" for name, seconds in report["stop_steps"].items())
        lines.append(("stood still", f"{report['stop_seconds']:.3f} s ({steps})"))
    if report["mode"]:
        lines.append(("mode", clean(f"{report['mode']}: {report['mode_why']}")))
    lines += [("", clean(line)) for line in report["fallbacks"]]
    written, planned = report["bytes_written"], report["bytes_planned"]
    if planned:
        seconds = report["stream_seconds"] or 0.0
        whole = "" if written == planned else f" of {fmt.count(planned)} planned"
        lines.append(
            (
                "core",
                f"{fmt.count(written)} bytes{whole} ({fmt.exact_size(written)}) "
                f"in {seconds:.1f} s, {fmt.rate(written, seconds)}",
            )
        )
        if expected_bytes is not None and expected_bytes != planned:
            difference = planned - expected_bytes
            grew, more = ("grew", "more") if difference > 0 else ("shrank", "less")
            count = f"{fmt.count(abs(difference))} byte{'' if abs(difference) == 1 else 's'}"
            lines.append(("", f"{count} {more} than {fmt.count(expected_bytes)} shown before: the target {grew}"))
        lines.append(
            (
                "regions",
                f"{fmt.count(report['regions_included'])} of {fmt.count(report['regions'])}, "
                f"{fmt.count(report['threads'])} threads, "
                f"{fmt.exact_size(report['holes_bytes'])} of holes (never touched)",
            )
        )
    if outcome.exit_code not in _WHOLE:
        lines += _part(path)
    elif path and written:
        with contextlib.suppress(OSError):
            size = os.stat(path).st_size
            ratio = f", ratio {written / size:.1f}" if 0 < size < written else ""
            lines.append(("file", f"{fmt.exact_size(size)}{ratio}  {clean(path)}"))
    if report["sink_status"] is not None:
        who = f", as {clean(report['sink_user'])}" if report["sink_user"] else ""
        lines.append(("pipe command", f"{describe_status(report['sink_status'])}{who}"))
    if report["unreadable_bytes"]:
        lines.append(("unreadable", f"{fmt.exact_size(report['unreadable_bytes'])} are zeros in the core"))
    live = sum(length for _, length in report["shared_live"])
    if live:
        lines.append(("shared", f"{fmt.exact_size(live)} were read while the target ran"))
    omitted = sorted(report["omitted"].items(), key=lambda entry: -entry[1][1])
    rest = omitted[_MOST_REASONS:]
    shown = [(size, number, clean(reason)) for reason, (number, size) in omitted[:_MOST_REASONS]]
    if rest:
        sizes, numbers = sum(size for _, (_, size) in rest), sum(number for _, (number, _) in rest)
        shown.append((sizes, numbers, f"for {len(rest)} other reasons; --report has them all"))
    for index, (size, number, reason) in enumerate(shown):
        lines.append(("left out" if not index else "", f"{fmt.short_size(size):>7}  {number:>5} x  {reason}"))
    lines += [("note", clean(line)) for line in report["notices"]]
    return lines


def _part(path: str) -> list[tuple[str, str]]:
    """Return what there is to say of the file of a dump that did not come to its end."""
    try:
        size = os.stat(path).st_size if path else 0
    except OSError:
        return []
    return [("file", f"{fmt.exact_size(size)}, no whole core  {clean(path)}")] if size else []


def _executable(pid: int, selection: Selection | None) -> bytes:
    if selection is not None:
        return selection.inspection.exe
    try:
        return os.readlink(f"/proc/{pid}/exe".encode())
    except OSError:
        return b""


def _command_cell(command: str) -> Cell:
    return f" {clean(command)}"


class ResultScreen(CorepipeScreen):
    """The end of a dump."""

    HELP_TEXT = (
        "y copies the marked command through the terminal (OSC 52) and shows it, should the terminal not take it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,escape", "back", "Back", key_display="⏎", id="result.back"),
        Binding("y", "copy", "Copy command", id="result.copy"),
        Binding("J,shift+down", "scroll_facts(1)", "Facts down", show=False, id="result.facts_down"),
        Binding("K,shift+up", "scroll_facts(-1)", "Facts up", show=False, id="result.facts_up"),
        Binding("q", "app.quit", "Quit", id="result.quit"),
        Binding("ctrl+c,f10", "app.quit", "Quit", show=False, id="result.interrupt"),
    ]

    def __init__(self, request: DumpRequest, outcome: Outcome, comm: str, selection: Selection | None) -> None:
        super().__init__()
        self._request, self._outcome, self._comm, self._selection = request, outcome, comm, selection
        mark, style, words = headline(outcome)
        head = [Content.assemble((f"{mark} {words}", f"bold {style}"), (summary(outcome), MUTED))]
        if outcome.hint:
            head.append(Content.assemble(("  try: ", MUTED), (clean(outcome.hint), "bold")))
        self._head = Content("\n").join(head)

    def compose(self) -> ComposeResult:
        """Headline, facts, commands, keys."""
        yield Static(title(f"{self._comm or 'process'} ({self._request.pid})"), id="title")
        yield Static(self._head, id="headline")
        expected = self._selection.core_bytes if self._selection else None
        with VerticalScroll(id="facts", can_focus=False):
            for label, text in facts(self._outcome, self._request.pipe, expected):
                with Horizontal(classes="fact"):
                    yield Static(label, classes="fact-label", markup=False)
                    yield Static(text, classes="fact-text", markup=False)
        yield Listing(
            [Column("command", " WHAT TO TYPE NEXT", 0, _command_cell)], key=lambda command: command, id="commands"
        )
        yield Static("", id="command", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Offer the commands."""
        request, exe = self._request, _executable(self._request.pid, self._selection)
        commands = next_commands(request.pipe, exe) if self._outcome.exit_code in _WHOLE and exe else []
        commands.append(corepipe_command(request.pid, request.pipe, request.arguments(), self.corepipe.by_sudo))
        listing = self._commands
        listing.set_rows(commands)
        listing.focus()

    def on_listing_cursor_moved(self) -> None:
        """Show the whole of a command that the list cuts off."""
        self._lay_out()

    def on_resize(self) -> None:
        """What is cut off depends on the width."""
        self._lay_out()

    def _lay_out(self) -> None:
        """Give the facts the lines that the others leave: the commands must be seen without scrolling."""
        command = Content(clean(self._commands.cursor_row or ""))
        cut = command.cell_length > self.size.width - _CELL_MARGIN
        whole = self.query_one("#command", Static)
        whole.display = cut
        whole.update(command)
        lines = min(len(command.wrap(max(self.size.width - 2, 1))), _WHOLE_LINES) if cut else 0
        head = min(len(self._head.wrap(max(self.size.width - 4, 1))) + 1, _HEAD_LINES)
        rest = self.size.height - head - lines - len(self._commands.rows) - _FIXED_LINES
        self.query_one("#facts").styles.max_height = max(rest, _LEAST_FACTS)

    @property
    def _commands(self) -> Listing[str]:
        return self.query_one("#commands", Listing)

    def action_scroll_facts(self, step: int) -> None:
        """Scroll the facts by a line."""
        self.query_one("#facts").scroll_relative(y=step, animate=False)

    def action_copy(self) -> None:
        """Copy the marked command."""
        command = self._commands.cursor_row
        if command is not None:
            self.copy(command)

    def on_listing_chosen(self) -> None:
        """A double click copies."""
        self.action_copy()

    def action_back(self) -> None:
        """Back to the regions, as they were chosen."""
        self.app.pop_screen()
