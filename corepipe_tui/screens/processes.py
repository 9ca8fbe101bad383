"""Pick the process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, Input, Static
from textual.worker import get_current_worker

from corepipe_engine.errors import CorepipeError

from .. import format as fmt
from ..filtering import parse_filter
from ..processes import SORT_KEYS, ProcessDetails, ProcessRow, as_tree, matches
from ..sanitize import clean
from ..styled import MUTED, refused, title
from ..widgets.filterinput import FilterInput
from ..widgets.listing import Cell, Column, Listing
from .base import CorepipeScreen
from .regions import RegionsScreen

_JUMP_SECONDS = 1.2
_DETAILS_DELAY_SECONDS = 0.08
_DETAIL_LINES = 5
"""As many as the panel shows, always: a panel that grew and shrank would move the list under the eye."""
_COLUMN_OF_SORT = {"time": "cpu"}

TreeRow = tuple[ProcessRow, str]


def _state(item: TreeRow) -> Cell:
    row = item[0]
    return f"{row.state} {'✗' if row.refusal else ' '}"


def _command(item: TreeRow) -> Cell:
    row, tree = item
    word = f"({_refusal_word(row)}) " if row.refusal else ""
    return f"{tree}{word}{row.command}"


def _refusal_word(row: ProcessRow) -> str:
    for words, short in (
        ("kernel thread", "kernel thread"),
        ("zombie", "zombie"),
        ("itself", "corepipe itself"),
        ("traced", "traced"),
        ("another user", "not permitted"),
    ):
        if words in row.refusal:
            return short
    return "cannot be dumped"


def _columns() -> list[Column[TreeRow]]:
    return [
        Column("pid", "PID", 7, lambda item: str(item[0].pid), right=True),
        Column("user", "USER", 9, lambda item: item[0].user, drop=1),
        Column("rss", "RSS", 7, lambda item: fmt.short_size(item[0].rss), right=True, drop=2),
        Column("swap", "SWAP", 6, lambda item: fmt.short_size(item[0].swap), right=True, drop=3),
        Column("core", "CORE~", 7, lambda item: (fmt.short_size(item[0].core_bytes), "accent"), right=True, drop=4),
        Column("stop", "STOP~", 7, _stop, right=True, drop=5),
        Column("threads", "THR", 5, lambda item: str(item[0].threads), right=True, drop=6),
        Column("cpu", "CPU%", 5, lambda item: f"{item[0].cpu_percent:.0f}", right=True, drop=10),
        Column("state", "S", 3, _state, drop=7),
        Column("uptime", "UPTIME", 8, _uptime, right=True, drop=8),
        Column("container", "CONTAINER", 12, lambda item: item[0].container or "-", drop=9),
        Column("command", "COMMAND", 0, _command, least=24),
    ]


def _stop(item: TreeRow) -> Cell:
    row = item[0]
    return "-" if row.refusal else fmt.stop(row.stop_seconds)


def _uptime(item: TreeRow) -> Cell:
    return fmt.duration(time.time() - item[0].started)


class ProcessScreen(CorepipeScreen):
    """All processes, refreshed while one looks."""

    HELP_TEXT = (
        "CORE~ and STOP~ are estimates from /proc/PID/status; the next screen counts page by page.\n"
        "Digits jump to a PID. The filter takes words of name, command, user, pid and container; !word leaves out.\n"
        "A process that cannot be dumped is marked ✗ and dim; the panel below the list tells why, and what mends it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Regions", id="processes.open"),
        Binding("slash,backslash,f4", "filter", "Filter", key_display="/", id="processes.filter"),
        Binding("escape", "clear", "Clear filter", show=False, id="processes.clear"),
        Binding("M", "sort('rss')", "Sort by RSS", show=False, id="processes.by_rss"),
        Binding("N", "sort('pid')", "Sort by PID", show=False, id="processes.by_pid"),
        Binding("P", "sort('cpu')", "Sort by CPU", show=False, id="processes.by_cpu"),
        Binding("T", "sort('time')", "Sort by CPU time", show=False, id="processes.by_time"),
        Binding("s,greater_than_sign", "next_sort(1)", "Sort by next column", show=False, id="processes.next_sort"),
        Binding("S,less_than_sign", "next_sort(-1)", "Sort by column before", show=False, id="processes.last_sort"),
        Binding("I", "invert", "Invert order", show=False, id="processes.invert"),
        Binding("t", "tree", "Tree", id="processes.tree"),
        Binding("K", "kernel", "Kernel threads", show=False, id="processes.kernel"),
        Binding("Z", "pause", "Pause", id="processes.pause"),
        Binding("f5", "refresh_now", "Refresh", show=False, id="processes.refresh"),
        Binding("y", "copy", "Copy", id="processes.copy"),
        Binding("q", "app.quit", "Quit", id="processes.quit"),
        Binding("ctrl+c,f10", "app.quit", "Quit", show=False, id="processes.interrupt"),
    ]

    class Sampled(Message):
        """A worker has read the list, or, while that takes long, a part of it."""

        def __init__(self, rows: list[ProcessRow], *, whole: bool) -> None:
            super().__init__()
            self.rows = rows
            self.whole = whole

        def can_replace(self, message: Message) -> bool:
            """Only the newest list counts."""
            return isinstance(message, ProcessScreen.Sampled)

    class Described(Message):
        """A worker has read the details of a process."""

        def __init__(self, pid: int, details: ProcessDetails | None, error: str) -> None:
            super().__init__()
            self.pid = pid
            self.details = details
            self.error = error

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[ProcessRow] = []
        self._empty: list[str] = []
        self._sort, self._descending = "rss", True
        self._filter = ""
        self._tree = self._kernel = self._paused = self._sampling = self._whole = False
        self._typed = ""
        self._typed_at = 0.0
        self._details: tuple[int, ProcessDetails | None, str] = (0, None, "")
        self._user = f"uid {os.geteuid()}" if os.geteuid() else "root"

    def compose(self) -> ComposeResult:
        """Title, filter, list, details, keys."""
        yield Static("", id="title", markup=False)
        yield FilterInput("name, command, user, pid, container")
        yield Listing(
            _columns(),
            key=lambda item: item[0].pid,
            dim=lambda item: bool(item[0].refusal),
            empty="reading /proc …",
            id="processes",
        )
        yield Static("", id="details", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Read the list now, and then again and again."""
        self._listing.focus()
        self.action_refresh_now()
        self.set_interval(self.corepipe.settings.refresh_seconds, self._refresh)

    @property
    def _listing(self) -> Listing[TreeRow]:
        return self.query_one("#processes", Listing)

    # the list ------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        if not self._paused and self.is_current:
            self.action_refresh_now()

    def action_refresh_now(self) -> None:
        """Read the list now."""
        if not self._sampling:
            self._sampling = True
            self._sample()

    @work(thread=True, exit_on_error=False)
    def _sample(self) -> None:
        worker = get_current_worker()

        def post(rows: list[ProcessRow], *, whole: bool = False) -> None:
            if not worker.is_cancelled:
                self.post_message(self.Sampled(rows, whole=whole))

        try:
            rows = self.corepipe.provider.sample(None if self._whole else post)
        except OSError:
            rows = []
        post(rows, whole=True)

    def on_process_screen_sampled(self, message: Sampled) -> None:
        """Show a new list."""
        first = not self._whole
        if message.whole:
            self._sampling, self._whole = False, True
        if message.rows:
            self._rows = message.rows
            self._empty = [
                name for name in ("swap", "container") if not any(getattr(row, name) for row in message.rows)
            ]
            self._show(to_top=first and not self._listing.cursor)  # who has not moved yet stays at the top
            if first and self._typed:
                self._jump(self._typed)  # typed while the process was not there yet

    def _show(self, *, to_top: bool = False) -> None:
        words = parse_filter(self._filter)
        rows = [row for row in self._rows if self._kernel or not row.kernel]
        if words:
            rows = [row for row in rows if matches(row, words)]
        key, _ = SORT_KEYS[self._sort]
        rows.sort(key=lambda row: row.pid)
        rows.sort(key=key, reverse=self._descending)  # type: ignore[arg-type]
        items = as_tree(rows) if self._tree else [(row, "") for row in rows]
        listing = self._listing
        listing.sort = (_COLUMN_OF_SORT.get(self._sort, self._sort), self._descending)
        listing.empty_text = (
            f"no process matches {self._filter!r}; Esc clears the filter" if self._rows else "reading /proc …"
        )
        listing.hide(*self._empty)
        listing.set_rows(items, to_top=to_top)
        self._show_title(len(rows))

    def _show_title(self, shown: int) -> None:
        total = len(self._rows)
        more = "" if self._whole else " so far"
        parts = [f"{fmt.count(shown)} of {fmt.count(total)} processes{more}", clean(socket.gethostname()), self._user]
        parts += ["read-only"] if self.corepipe.settings.read_only else []
        parts += ["‖ paused"] if self._paused else []
        parts += ["by CPU time"] if self._sort == "time" else []
        parts += ["tree"] if self._tree else []
        parts += [f"filter {self._filter}"] if self._filter else []
        self.query_one("#title", Static).update(title(*parts), layout=False)

    def action_sort(self, name: str) -> None:
        """Sort by a column."""
        self._sort, self._descending = name, SORT_KEYS[name][1]
        self._show()

    def action_next_sort(self, step: int) -> None:
        """Sort by the next of the columns that are shown, or the one before."""
        names = self._listing.shown_columns
        current = self._listing.sort[0]
        position = names.index(current) if current in names else 0
        self.action_sort(names[(position + step) % len(names)])

    def action_invert(self) -> None:
        """Turn the order round."""
        self._descending = not self._descending
        self._show()

    def action_tree(self) -> None:
        """Show who started whom."""
        self._tree = not self._tree
        self._show()

    def action_kernel(self) -> None:
        """Show or hide kernel threads."""
        self._kernel = not self._kernel
        self._show()

    def action_pause(self) -> None:
        """Hold the list still."""
        self._paused = not self._paused
        self._show()

    def on_listing_header_clicked(self, message: Listing.HeaderClicked) -> None:
        """Sort by the column, or turn its order round."""
        self._sort_or_invert(self._sort if message.column == self._listing.sort[0] else message.column)

    # filter and jump -----------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Begin to filter."""
        self.query_one(FilterInput).open()

    def action_clear(self) -> None:
        """Clear the filter."""
        self.query_one(FilterInput).clear_and_hide()
        self._listing.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types."""
        self._filter = event.value
        self._show()

    def on_filter_input_left(self) -> None:
        """Back to the list."""
        self._listing.focus()

    def on_key(self, event: events.Key) -> None:
        """Digits jump to a PID."""
        if self.focused is self._listing and event.character and event.character.isdigit():
            now = time.monotonic()
            typed = self._typed + event.character if now - self._typed_at < _JUMP_SECONDS else event.character
            self._typed, self._typed_at = typed, now
            self._jump(typed)
            event.stop()

    def _jump(self, typed: str) -> None:
        candidates = [item[0].pid for item in self._listing.rows if str(item[0].pid).startswith(typed)]
        if candidates:
            self._listing.move_to(min(candidates))

    # details -------------------------------------------------------------------------------------------------------

    def on_listing_cursor_moved(self, message: Listing.CursorMoved) -> None:
        """Describe the cursor's process, once the cursor rests."""
        item = self._listing.cursor_row
        if item is None:
            self.query_one("#details", Static).update("", layout=False)
        else:
            self._show_details(item[0])
            self.set_timer(_DETAILS_DELAY_SECONDS, self._describe_cursor)

    def _describe_cursor(self) -> None:
        item = self._listing.cursor_row
        if item is not None and self.is_mounted:
            self._describe(item[0].pid)

    @work(thread=True, exclusive=True, group="details", exit_on_error=False)
    def _describe(self, pid: int) -> None:
        details, error = None, ""
        try:
            details = self.corepipe.provider.details(pid)
        except CorepipeError as failure:
            error = failure.message
        self.post_message(self.Described(pid, details, error))

    def on_process_screen_described(self, message: Described) -> None:
        """Show details."""
        self._details = (message.pid, message.details, message.error)
        item = self._listing.cursor_row
        if item is not None and item[0].pid == message.pid:
            self._show_details(item[0])

    def _show_details(self, row: ProcessRow) -> None:
        pid, details, error = self._details
        lines = [Content.assemble((f"{row.pid} ", "bold"), (row.name, "bold $accent"), f"  {row.command}")]
        if row.refusal:
            lines += refused(row.refusal, row.hint)
        elif pid == row.pid and error:
            lines += refused(clean(error), "")
        if pid == row.pid and details is not None:
            memory = "  ".join(f"{name} {fmt.size(count)}" for name, count in details.memory if count)
            lines.append(Content.assemble(("exe ", MUTED), details.exe or "-", ("   cwd ", MUTED), details.cwd or "-"))
            lines.append(
                Content.assemble(
                    ("state ", MUTED),
                    f"{row.state_word}, {fmt.count(row.threads)} threads, CPU time {fmt.duration(row.cpu_seconds)}",
                    ", seccomp filter" if details.seccomp else "",
                    f", traced by {details.tracer}" if details.tracer else "",
                )
            )
            lines.append(Content.assemble(("memory ", MUTED), memory or "-"))
            lines.append(Content.assemble(("cgroup ", MUTED), details.cgroup or "-"))
        self.query_one("#details", Static).update(Content("\n").join(lines[:_DETAIL_LINES]), layout=False)

    # copying, palette ----------------------------------------------------------------------------------------------

    def action_copy(self) -> None:
        """Copy the cursor's PID; of a process that cannot be dumped the command that mends it."""
        item = self._listing.cursor_row
        if item is not None:
            self.copy(item[0].hint if item[0].refusal and item[0].hint else str(item[0].pid))

    def palette(self) -> Iterable[tuple[str, str, Callable[[], object]]]:
        """See CorepipeScreen."""
        for name in ("user", "swap", "core", "stop", "threads", "state", "uptime", "container", "command"):
            yield f"Sort by {name}", "once more inverts the order", partial(self._sort_or_invert, name)

    def _sort_or_invert(self, name: str) -> None:
        if name == self._sort:
            self.action_invert()
        else:
            self.action_sort(name)

    # onward --------------------------------------------------------------------------------------------------------

    def on_listing_chosen(self, message: Listing.Chosen) -> None:
        """Go to the regions of the process."""
        self.action_open()

    def action_open(self) -> None:
        """Go to the regions of the cursor's process, if it can be dumped."""
        item = self._listing.cursor_row
        if item is None:
            return
        row = item[0]
        if row.refusal:
            self.notify(f"{row.refusal}\n{row.hint}", title="cannot be dumped", severity="warning", markup=False)
            return
        self.app.push_screen(RegionsScreen(row.pid))
