"""See what would go into the core, switch regions in and out, and say which command it is piped into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.timer import Timer
from textual.widgets import Footer, Input, Static

from corepipe_engine.errors import CorepipeError
from corepipe_engine.options import DumpOptions
from corepipe_engine.policy import Extent, Preset
from corepipe_engine.regions import RegionKind
from corepipe_engine.sink import check_syntax

from .. import format as fmt
from ..pipes import Destination, destination, expand, run_as, shell, suggestions
from ..sanitize import clean
from ..selection import KindTotal, RegionRow, Selection, load_selection, totals_by_kind
from ..widgets.kinds import KIND_COLORS
from ..widgets.listing import Cell, Column, Listing
from ..widgets.strip import AddressStrip, StripPiece
from .base import MUTED, CorepipeScreen, refused, title
from .confirm import ConfirmScreen
from .dump import DumpScreen

_CHECK_DELAY_SECONDS = 0.15
_ASK_FROM_SECONDS = 1.0
"""An estimated stop of this length is asked about before it happens."""

_PARSE_PREFIX = "the shell cannot parse the pipe command: "

Row = RegionRow | KindTotal
_MARKS = {Extent.NONE: "○", Extent.FIRST_PAGE: "◐", Extent.ALL: "●"}
_PRESETS = {"1": Preset.KERNEL, "2": Preset.FULL, "3": Preset.JAVA, "4": Preset.STACKS}


def _mark(row: Row) -> Cell:
    if isinstance(row, KindTotal):
        extent = Extent.ALL if row.included == row.regions else Extent.FIRST_PAGE if row.included else Extent.NONE
        return _MARKS[extent], "good" if row.included else "dim"
    if row.fixed and row.extent is Extent.NONE:
        return "-", "dim"
    return _MARKS[row.extent] + ("*" if row.changed else ""), "good" if row.extent is not Extent.NONE else "dim"


def _range(row: Row) -> Cell:
    if isinstance(row, KindTotal):
        return f"{fmt.count(row.included)} of {fmt.count(row.regions)} regions", "strong"
    return f"{row.region.start:x}-{row.region.end:x}"


def _kind(row: Row) -> Cell:
    kind = row.kind if isinstance(row, KindTotal) else row.region.kind
    return kind.value, KIND_COLORS[kind.value]


def _number(
    of_kind: Callable[[KindTotal], int], of_region: Callable[[RegionRow], int], style: str = ""
) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        return fmt.short_size(of_kind(row) if isinstance(row, KindTotal) else of_region(row)), style

    return cell


def _columns() -> list[Column[Row]]:
    return [
        Column("mark", "IN", 2, _mark),
        Column("range", "ADDRESS RANGE", 26, _range),
        Column("size", "SIZE", 7, _number(lambda total: total.size, lambda row: row.region.size), right=True),
        Column(
            "touched",
            "TOUCHED",
            8,
            _number(lambda total: total.touched, lambda row: row.region.rss),
            right=True,
            drop=3,
        ),
        Column("swap", "SWAP", 6, _number(lambda total: total.swap, lambda row: row.region.swap), right=True, drop=4),
        Column(
            "core", "CORE", 7, _number(lambda total: total.file_bytes, lambda row: row.file_bytes, "accent"), right=True
        ),
        Column("perms", "PERM", 4, lambda row: "" if isinstance(row, KindTotal) else row.region.perms[:4], drop=2),
        Column("kind", "KIND", 11, _kind),
        Column("mapping", "MAPPING", 0, lambda row: "" if isinstance(row, KindTotal) else row.path or "-"),
        Column("reason", "REASON", 44, lambda row: "" if isinstance(row, KindTotal) else (row.reason, "dim"), drop=5),
    ]


_SORT_KEYS: dict[str, tuple[Callable[[RegionRow], object], bool]] = {
    "range": (lambda row: row.index, False),
    "size": (lambda row: row.region.size, True),
    "touched": (lambda row: row.region.rss, True),
    "swap": (lambda row: row.region.swap, True),
    "core": (lambda row: row.file_bytes, True),
    "kind": (lambda row: row.region.kind.value, False),
    "mapping": (lambda row: row.path, False),
    "mark": (lambda row: row.extent, True),
    "perms": (lambda row: row.region.perms, False),
    "reason": (lambda row: row.reason, False),
}


class PipeInput(Input):
    """The pipe command; up and down go through what this host can run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Dump", id="pipe.dump"),
        Binding("down", "suggest(1)", "Other commands", key_display="↑↓", id="pipe.next"),
        Binding("up", "suggest(-1)", "Other commands", show=False, key_display="↑↓", id="pipe.previous"),
    ]

    def __init__(self, command: str, known: list[str]) -> None:
        super().__init__(command, suggester=SuggestFromList(known, case_sensitive=True), id="pipe", compact=True)
        self._known = known

    def action_suggest(self, step: int) -> None:
        """Put the next suggestion in, or the one before."""
        known = self._known
        position = known.index(self.value) + step if self.value in known else 0
        self.value = known[position % len(known)]
        self.cursor_position = len(self.value)


@dataclass(frozen=True, slots=True)
class PipeCheck:
    """What is known of a pipe command: expanded for this process, what is wrong with it, where it writes to."""

    command: str
    error: str
    destination: Destination | None


class RegionsScreen(CorepipeScreen):
    """The regions of one process."""

    HELP_TEXT = (
        "● in the core   ◐ its first page only (ELF header), or a part of the kind   ○ left out   - cannot be read\n"
        "* behind a mark: you chose otherwise than the preset.\n"
        "Placeholders in the pipe command: {pid} {comm} {host} {time}. Up and down in it go through what this host has."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "dump", "Dump", id="regions.dump"),
        Binding("space", "switch", "Toggle", id="regions.toggle"),
        Binding("asterisk", "toggle_kind", "Kind", key_display="*", id="regions.kind"),
        Binding("a", "all(True)", "All", show=False, id="regions.all"),
        Binding("n", "all(False)", "None", show=False, id="regions.none"),
        Binding("i", "invert", "Invert", show=False, id="regions.invert"),
        Binding("1", "preset('kernel')", "Preset kernel", show=False, id="regions.kernel"),
        Binding("2", "preset('full')", "Preset full", show=False, id="regions.full"),
        Binding("3", "preset('java')", "Preset java", show=False, id="regions.java"),
        Binding("4", "preset('stacks')", "Preset stacks", show=False, id="regions.stacks"),
        Binding("g", "group", "Group", id="regions.group"),
        Binding("right,l,enter", "expand(True)", "Unfold a kind", show=False, id="regions.expand"),
        Binding("left,h", "expand(False)", "Fold a kind", show=False, id="regions.fold"),
        Binding("slash,backslash,f4", "filter", "Filter", key_display="/", id="regions.filter"),
        Binding("s,greater_than_sign", "next_sort(1)", "By the next column", show=False, id="regions.sort"),
        Binding("S,less_than_sign", "next_sort(-1)", "By the column before", show=False, id="regions.sort_back"),
        Binding("I", "invert_sort", "Invert order", show=False, id="regions.invert_sort"),
        Binding("p", "pipe", "Pipe", id="regions.pipe"),
        Binding("r,f5", "reload", "Read again", show=False, id="regions.reload"),
        Binding("escape", "back", "Back", id="regions.back"),
        Binding("q", "back", "Back", show=False, id="regions.leave"),
        Binding("ctrl+c,f10", "app.quit", "Quit", show=False, id="regions.quit"),
    ]

    class Loaded(Message):
        """A worker has read the regions, or could not."""

        def __init__(self, options: DumpOptions, selection: Selection | None, error: CorepipeError | None) -> None:
            super().__init__()
            self.options = options
            self.selection = selection
            self.error = error

    class Checked(Message):
        """A worker has looked at a pipe command."""

        def __init__(self, text: str, check: PipeCheck, *, dump: bool) -> None:
            super().__init__()
            self.text = text
            self.check = check
            self.dump = dump

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid = pid
        self.selection: Selection | None = None
        self._options: DumpOptions | None = None
        self._shown: list[RegionRow] = []
        self._filter = ""
        self._sort, self._descending = "range", False
        self._grouped = False
        self._expanded: set[RegionKind] = set()
        self._check: PipeCheck | None = None
        self._check_timer: Timer | None = None
        self._suggestions = suggestions()
        self._failed = False

    def compose(self) -> ComposeResult:
        """Title, strip, list, the cursor's region, totals, pipe command, keys."""
        yield Static("", id="title", markup=False)
        yield AddressStrip(id="strip")
        yield Input(placeholder="filter: words of kind, mapping, permissions, reason; !word leaves out", id="filter")
        yield Listing(_columns(), key=_key, dim=_is_out, empty="reading the mappings …", id="regions")
        yield Static("", id="region", markup=False)
        yield Static("", id="totals", markup=False)
        with Horizontal(id="pipe-row"):
            yield Static("pipe ▸", id="pipe-label", markup=False)
            yield PipeInput(self.corepipe.settings.pipe or self._suggestions[0], self._suggestions)
        yield Static("", id="pipe-check", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#filter").display = False
        self._options = self.corepipe.settings.options
        self._listing.focus()
        self._title()
        self.action_reload()

    def on_screen_resume(self) -> None:
        """Back from a dump: to the list."""
        if self.is_mounted and self.focused is self._pipe:
            self._listing.focus()

    @property
    def _listing(self) -> Listing[Row]:
        return self.query_one("#regions", Listing)

    @property
    def _pipe(self) -> Input:
        return self.query_one("#pipe", Input)

    def _title(self) -> None:
        parts = [f"pid {self.pid}"]
        if self.selection is not None:
            inspection = self.selection.inspection
            parts = [f"{clean(inspection.comm)} ({self.pid})", f"preset {self.selection.options.policy.preset}"]
            parts += ["read-only"] if self.corepipe.settings.read_only else []
            parts += [f"filter {inspection.filter_bits:#x}", f"{fmt.count(inspection.threads)} threads"]
            parts += [clean(inspection.exe) or "no executable"]
        self.query_one("#title", Static).update(title(*parts))

    # reading -------------------------------------------------------------------------------------------------------

    def action_reload(self) -> None:
        """Read the mappings again; what was switched by hand is as the preset has it again."""
        self._load()

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def _load(self) -> None:
        options = self._options
        assert options is not None
        try:
            self.post_message(self.Loaded(options, load_selection(self.pid, options), None))
        except CorepipeError as error:
            self.post_message(self.Loaded(options, None, error))

    def on_regions_screen_loaded(self, message: Loaded) -> None:
        """Show the regions, or why there are none."""
        if message.options is not self._options:
            return  # another preset was asked for meanwhile
        if message.selection is None:
            self._show_error(message.error)
            return
        self._failed = False
        self.selection = message.selection
        self._title()
        self._show()
        self._check_soon()

    def _show_error(self, error: CorepipeError | None) -> None:
        self._failed = True
        message, hint = (clean(error.message), clean(error.hint)) if error else ("", "")
        if self.selection is None:
            self._listing.empty_text = "nothing to show"
            self._listing.refresh()
        self.query_one("#region", Static).update(Content("\n").join(refused(message, hint)))
        self.query_one("#totals", Static).update("r reads again, Esc goes back")

    # the list ------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Filter, sort, group; and tell the totals."""
        if self.selection is None:
            return
        rows = self._filtered(self.selection.rows)
        key, _ = _SORT_KEYS[self._sort]
        if self._sort != "range" or self._descending:
            rows = sorted(rows, key=key, reverse=self._descending)  # type: ignore[arg-type]
        self._shown = rows
        listing = self._listing
        listing.sort = (self._sort, self._descending)
        listing.empty_text = f"no region matches {self._filter!r}; Esc clears the filter"
        listing.hide(*(() if any(row.region.swap for row in self.selection.rows) else ("swap",)))
        listing.set_rows(self._folded(rows) if self._grouped else rows)
        self._show_totals()

    def _filtered(self, rows: list[RegionRow]) -> list[RegionRow]:
        words = [(word.startswith("!"), word.lstrip("!")) for word in self._filter.lower().split() if word.strip("!")]
        if not words:
            return rows
        return [row for row in rows if all((word in _text(row)) is not inverted for inverted, word in words)]

    def _folded(self, rows: list[RegionRow]) -> list[Row]:
        folded: list[Row] = []
        for total in totals_by_kind(rows):
            folded.append(total)
            if total.kind in self._expanded:
                folded += [row for row in rows if row.region.kind is total.kind]
        return folded

    def _changed(self) -> None:
        """Something was switched: totals and marks follow at once."""
        if self._grouped:
            self._listing.set_rows(self._folded(self._shown))
        else:
            self._listing.refresh()
        self._show_totals()
        self._show_region()

    def _show_totals(self) -> None:
        selection = self.selection
        if selection is None:
            return
        self.query_one("#strip", AddressStrip).show(
            [StripPiece(row.region.size, row.region.kind.value, _share(row)) for row in selection.rows]
        )
        self._mark_strip()
        shown = f" · {fmt.count(len(self._shown))} shown" if len(self._shown) != len(selection.rows) else ""
        self.query_one("#totals", Static).update(
            Content.assemble(
                (fmt.count(selection.included), "bold"),
                f" of {fmt.count(len(selection.rows))} regions{shown} · core ",
                (fmt.exact_size(selection.core_bytes), "bold $text-accent"),
                " · stop ",
                (f"~{fmt.stop(selection.stop_seconds)}", "bold"),
                f" ({selection.inspection.mode})",
            )
        )

    def on_listing_cursor_moved(self, message: Listing.CursorMoved) -> None:
        """Tell about the cursor's region."""
        self._show_region()
        self._mark_strip()

    def _mark_strip(self) -> None:
        row = self._listing.cursor_row
        if isinstance(row, RegionRow):
            self.query_one("#strip", AddressStrip).mark(row.index, row.index)

    def _show_region(self) -> None:
        row = self._listing.cursor_row
        if row is None or self._failed:
            return
        if isinstance(row, KindTotal):
            size, touched, swap = row.size, row.touched, row.swap
            what, why = f"{fmt.count(row.regions)} regions", f"{fmt.count(row.included)} of them in the core"
        else:
            size, touched, swap = row.region.size, row.region.rss, row.region.swap
            what, why = row.path or "no file", row.reason
        swapped = f", {fmt.size(swap)} swapped" if swap else ""
        self.query_one("#region", Static).update(
            Content.assemble(
                (_kind_name(row), "bold"),
                f"  {what}\n",
                (f"{why}  ·  {fmt.size(size)}, {fmt.size(touched)} touched{swapped}", MUTED),
            )
        )

    # switching -----------------------------------------------------------------------------------------------------

    def action_switch(self) -> None:
        """Switch the cursor's region, or its whole kind in the grouped list, and go on to the next."""
        row, selection = self._listing.cursor_row, self.selection
        if row is None or selection is None:
            return
        if isinstance(row, KindTotal):
            selection.toggle_kind(row.kind)
        elif row.fixed:
            self.notify(f"{row.region.kind} cannot be switched: {row.reason}", severity="warning", markup=False)
        else:
            selection.toggle(row)
            self._listing.action_move(1)
        self._changed()

    def action_toggle_kind(self) -> None:
        """Switch all regions of the cursor's kind."""
        row = self._listing.cursor_row
        if row is not None and self.selection is not None:
            self.selection.toggle_kind(row.kind if isinstance(row, KindTotal) else row.region.kind)
            self._changed()

    def action_all(self, included: bool) -> None:
        """Switch all that the filter shows in, or out."""
        if self.selection is not None:
            self.selection.set_all(self._shown, included)
            self._changed()

    def action_invert(self) -> None:
        """Toggle all that the filter shows."""
        if self.selection is not None:
            self.selection.invert(self._shown)
            self._changed()

    def action_preset(self, name: str) -> None:
        """Take another preset; what was switched by hand is forgotten."""
        if self._options is not None:
            self._options = replace(self._options, policy=replace(self._options.policy, preset=Preset(name)))
            self.query_one("#totals", Static).update(f"reading the mappings as preset {name} has them …")
            self._load()

    # looking -------------------------------------------------------------------------------------------------------

    def action_group(self) -> None:
        """Fold the list by kind, or unfold it."""
        self._grouped = not self._grouped
        self._show()

    def action_expand(self, expand_it: bool) -> None:
        """Unfold or fold the cursor's kind in the grouped list."""
        row = self._listing.cursor_row
        if not self._grouped or row is None:
            return
        kind = row.kind if isinstance(row, KindTotal) else row.region.kind
        if expand_it:
            self._expanded.add(kind)
        else:
            self._expanded.discard(kind)
            self._listing.move_to(("kind", kind.value))
        self._show()

    def action_next_sort(self, step: int) -> None:
        """Sort by the next of the columns that are shown, or the one before."""
        names = self._listing.shown_columns
        self._sort_by(names[(names.index(self._sort) + step) % len(names)])

    def action_invert_sort(self) -> None:
        """Turn the order round."""
        self._descending = not self._descending
        self._show()

    def _sort_by(self, name: str) -> None:
        self._sort, self._descending = name, _SORT_KEYS[name][1]
        self._show()

    def on_listing_header_clicked(self, message: Listing.HeaderClicked) -> None:
        """Sort by the column, or turn its order round."""
        if message.column == self._sort:
            self.action_invert_sort()
        elif message.column in _SORT_KEYS:
            self._sort_by(message.column)

    def on_listing_chosen(self, message: Listing.Chosen) -> None:
        """A double click switches."""
        self.action_switch()

    def action_filter(self) -> None:
        """Begin to filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        self.set_focus(field)  # at once: the next key belongs to it

    def action_pipe(self) -> None:
        """Go to the pipe command."""
        self.set_focus(self._pipe)

    def action_back(self) -> None:
        """Leave the input, clear the filter, or go back to the processes."""
        field = self.query_one("#filter", Input)
        if self.focused is self._pipe:
            self._listing.focus()
        elif field.display:
            field.value = ""
            field.display = False
            self._listing.focus()
        elif len(self.app.screen_stack) > 2:
            self.app.pop_screen()
        else:
            self.app.exit(0)

    # the pipe command ----------------------------------------------------------------------------------------------

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types; look at the pipe command when the typing pauses."""
        if event.input.id == "filter":
            self._filter = event.value
            self._show()
        else:
            self._check = None
            self._check_soon()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the filter goes to the list, in the pipe command starts the dump."""
        if event.input.id == "pipe":
            self.action_dump()
        else:
            event.input.display = bool(self._filter)
            self._listing.focus()

    def on_key(self, event: events.Key) -> None:
        """Up and down leave the filter for the list."""
        if self.focused is not None and self.focused.id == "filter" and event.key in ("up", "down"):
            self._listing.focus()

    def _check_soon(self) -> None:
        if self._check_timer is not None:
            self._check_timer.stop()
        self._check_timer = self.set_timer(_CHECK_DELAY_SECONDS, lambda: self._look_at_pipe(dump=False))

    def _look_at_pipe(self, *, dump: bool) -> None:
        if self.selection is not None:
            comm = self.selection.inspection.comm.decode("utf-8", "replace")
            self._check_in_worker(self._pipe.value, comm, dump)

    @work(thread=True, group="check", exit_on_error=False)
    def _check_in_worker(self, text: str, comm: str, dump: bool) -> None:
        command, error, place = expand(text, self.pid, comm), "", None
        try:
            check_syntax(command, shell())
            place = destination(command)
        except CorepipeError as failure:
            error = clean(failure.message)
        error = error.removeprefix(_PARSE_PREFIX)
        self.post_message(self.Checked(text, PipeCheck(command, error, place), dump=dump))

    def on_regions_screen_checked(self, message: Checked) -> None:
        """Show what is known of the pipe command; start the dump if that was why it was looked at."""
        if message.text != self._pipe.value:
            return
        self._check = message.check
        self._show_check(message.check)
        if message.dump:
            self._confirm_dump(message.check)

    def _show_check(self, check: PipeCheck) -> None:
        line = self.query_one("#pipe-check", Static)
        if check.error:
            line.update(Content("\n").join(refused(check.error, "")))
            return
        parts = [f"runs as {run_as(self.corepipe.invoker)}"]
        place = check.destination
        warning = ""
        if place is not None:
            free = f", {fmt.size(place.free_bytes)} free" if place.free_bytes >= 0 else ", no such folder"
            parts.insert(0, f"→ {clean(place.path)}{free}")
            if self.selection is not None and 0 <= place.free_bytes < self.selection.core_bytes:
                warning = "  ⚠ less than the core before compression"
        line.update(Content.assemble((" · ".join(parts), MUTED), (warning, "$text-warning")))

    # onward --------------------------------------------------------------------------------------------------------

    def action_dump(self) -> None:
        """Check the pipe command once more, then dump."""
        if self.corepipe.settings.read_only:
            self.notify("started with --read-only: nothing is dumped", severity="warning")
        elif self._failed:
            self.notify("the regions could not be read; r reads them again", severity="warning")
        elif self.selection is not None:
            self._look_at_pipe(dump=True)

    def _confirm_dump(self, check: PipeCheck) -> None:
        selection = self.selection
        if not self.is_current or self._failed or selection is None:
            return  # asked for twice, or read anew meanwhile
        if check.error:
            self._pipe.focus()
            return
        request = self.corepipe.request(self.pid, check.command, selection.dump_options())
        if selection.stop_seconds < _ASK_FROM_SECONDS:
            self._start(request, True)
            return
        mode = selection.inspection.mode
        question = (
            f"{clean(selection.inspection.comm)} ({self.pid}) will stand still for about "
            f"{fmt.stop(selection.stop_seconds)}: mode {mode}, {fmt.exact_size(selection.core_bytes)}."
        )
        self.app.push_screen(ConfirmScreen(question, "Dump", "Not now"), lambda yes: self._start(request, bool(yes)))

    def _start(self, request: object, confirmed: bool) -> None:
        if confirmed:
            from ..runner import DumpRequest

            assert isinstance(request, DumpRequest)
            assert self.selection is not None
            self.app.push_screen(DumpScreen(request, self.selection))


def _key(row: Row) -> tuple[str, object]:
    return ("kind", row.kind.value) if isinstance(row, KindTotal) else ("region", row.region.start)


def _is_out(row: Row) -> bool:
    return not row.included if isinstance(row, KindTotal) else row.extent is Extent.NONE


def _kind_name(row: Row) -> str:
    return row.kind.value if isinstance(row, KindTotal) else row.region.kind.value


def _share(row: RegionRow) -> float:
    if row.extent is Extent.NONE:
        return 0.0
    return 1.0 if row.extent is Extent.ALL else min(row.file_bytes / row.region.size, 0.5)


def _text(row: RegionRow) -> str:
    region = row.region
    return f"{region.start:x}-{region.end:x} {region.perms} {region.kind} {row.path} {row.reason}".lower()
