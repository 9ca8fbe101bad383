"""See what would go into the core, switch regions in and out, and say which command it is piped into."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, Input, Static

from corepipe_engine.errors import CorepipeError
from corepipe_engine.options import DumpOptions
from corepipe_engine.policy import Preset
from corepipe_engine.regions import RegionKind

from .. import format as fmt
from ..filtering import parse_filter
from ..pipes import corepipe_command, expand
from ..region_rows import SORT_KEYS, Row, columns, folded, is_out, kind_of, row_key
from ..runner import DumpRequest
from ..sanitize import clean
from ..selection import KindTotal, RegionRow, Selection
from ..styled import MUTED, refused, title
from ..widgets.filterinput import FilterInput
from ..widgets.listing import Listing
from ..widgets.piperow import PipeCheck, PipeRow
from ..widgets.strip import AddressStrip
from .base import CorepipeScreen
from .confirm import ConfirmScreen
from .dump import DumpScreen

_NEED_REGIONS = {"dump", "switch", "toggle_kind", "all", "invert", "group", "filter", "pipe", "copy", "copy_command"}
_ASK_FROM_SECONDS = 1.0
"""An estimated stop of this length is asked about before it happens."""


class RegionsScreen(CorepipeScreen):
    """The regions of one process."""

    HELP_TEXT = (
        "● in the core   ◐ its first page only (ELF header), or a part of the kind   ○ left out   - cannot be read\n"
        "* behind a mark: you chose otherwise than the preset.\n"
        "Placeholders in the pipe command: {pid} {comm} {host} {time}. Up and down in it go through the history "
        "and through what this host has.\n"
        "y copies the range, Y the command that dumps what is chosen now."
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
        Binding("s,greater_than_sign", "next_sort(1)", "Sort by next column", show=False, id="regions.sort"),
        Binding("S,less_than_sign", "next_sort(-1)", "Sort by column before", show=False, id="regions.sort_back"),
        Binding("I", "invert_sort", "Invert order", show=False, id="regions.invert_sort"),
        Binding("p", "pipe", "Pipe", id="regions.pipe"),
        Binding("r,f5", "reload", "Read again", show=False, id="regions.reload"),
        Binding("y", "copy", "Copy range", show=False, id="regions.copy"),
        Binding("Y", "copy_command", "Copy command", show=False, id="regions.copy_command"),
        Binding("escape", "back", "Back", id="regions.back"),
        Binding("q", "back", "Back", show=False, id="regions.leave"),
        Binding("ctrl+c,f10", "app.quit", "Quit", show=False, id="regions.quit"),
    ]

    class Loaded(Message):
        """A worker has read the regions, or could not."""

        def __init__(
            self, options: DumpOptions, selection: Selection | None, error: CorepipeError | None, *, keep: bool
        ) -> None:
            super().__init__()
            self.options = options
            self.keep = keep
            self.selection = selection
            self.error = error

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
        self._failed = False

    def compose(self) -> ComposeResult:
        """Title, strip, list, the cursor's region, totals, pipe command, keys."""
        yield Static("", id="title", markup=False)
        yield AddressStrip(id="strip")
        yield FilterInput("kind, mapping, permissions, reason")
        yield Listing(columns(self._expanded), key=row_key, dim=is_out, empty="reading the mappings …", id="regions")
        yield Static("", id="region", markup=False)
        yield Static("", id="totals", markup=False)
        yield PipeRow(self.corepipe.settings.pipe, id="pipe-panel")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to read."""
        self._options = self.corepipe.settings.options
        self._listing.focus()
        self._title()
        self.action_reload()

    def on_screen_resume(self) -> None:
        """Back from a dump: to the list."""
        if self.is_mounted and self.focused is self._pipe.input:
            self._listing.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that need regions are offered when there are some."""
        if action in _NEED_REGIONS and (self.selection is None or self._failed):
            return False
        return super().check_action(action, parameters)

    @property
    def _listing(self) -> Listing[Row]:
        return self.query_one("#regions", Listing)

    @property
    def _pipe(self) -> PipeRow:
        return self.query_one(PipeRow)

    def _title(self) -> None:
        parts = [f"pid {self.pid}"]
        if self.selection is not None:
            inspection = self.selection.inspection
            parts = [f"{clean(inspection.comm)} ({self.pid})", f"preset {self.selection.options.policy.preset}"]
            parts += ["read-only"] if self.corepipe.settings.read_only else []
            parts += [f"filter {inspection.filter_bits:#x}", f"{fmt.count(inspection.threads)} threads"]
            parts += [clean(inspection.exe) or "no executable"]
        self.query_one("#title", Static).update(title(*parts), layout=False)

    # reading -------------------------------------------------------------------------------------------------------

    def action_reload(self) -> None:
        """Read the mappings again; what was switched by hand stays switched where the mapping is still the same."""
        self._load(keep=True)

    @work(thread=True, exclusive=True, group="load", exit_on_error=False)
    def _load(self, *, keep: bool) -> None:
        options = self._options
        assert options is not None
        try:
            self.post_message(self.Loaded(options, self.corepipe.load_selection(self.pid, options), None, keep=keep))
        except CorepipeError as error:
            self.post_message(self.Loaded(options, None, error, keep=keep))

    def on_regions_screen_loaded(self, message: Loaded) -> None:
        """Show the regions, or why there are none."""
        if message.options is not self._options:
            return  # another preset was asked for meanwhile
        if message.selection is None:
            self._show_error(message.error)
            return
        self._failed = False
        self.refresh_bindings()
        selection, before = message.selection, self.selection
        if message.keep and before is not None:
            selection.adopt(before)
        self.selection = selection
        gc.freeze()  # 65,000 regions would be looked through again and again, a tenth of a second each time
        rows = selection.rows
        sizes, kinds = [row.region.size for row in rows], [row.region.kind.value for row in rows]
        self.query_one("#strip", AddressStrip).show(sizes, kinds, lambda index: rows[index].share)
        self._title()
        self._show()
        comm = selection.inspection.comm.decode("utf-8", "replace")
        self._pipe.set_target(self.pid, comm, selection.core_bytes)

    def _show_error(self, error: CorepipeError | None) -> None:
        self._failed = True
        self.refresh_bindings()
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
        rows = self.selection.matching(parse_filter(self._filter))
        key, _ = SORT_KEYS[self._sort]
        if self._sort != "range" or self._descending:
            rows = sorted(rows, key=key, reverse=self._descending)  # type: ignore[arg-type]
        self._shown = rows
        listing = self._listing
        listing.sort = (self._sort, self._descending)
        listing.empty_text = f"no region matches {self._filter!r}; Esc clears the filter"
        listing.hide(*(() if self.selection.swapped else ("swap",)))
        listing.set_rows(folded(rows, self._expanded) if self._grouped else rows)
        self._show_totals()

    def _changed(self) -> None:
        """Something was switched: totals and marks follow at once."""
        if self._grouped:
            self._listing.set_rows(folded(self._shown, self._expanded))
        else:
            self._listing.refresh()
        self._show_totals()
        self._show_region()

    def _show_totals(self) -> None:
        selection = self.selection
        if selection is None:
            return
        self.query_one("#strip", AddressStrip).changed()
        self._pipe.core_bytes = selection.core_bytes
        shown = f" · {fmt.count(len(self._shown))} shown" if len(self._shown) != len(selection.rows) else ""
        self.query_one("#totals", Static).update(
            Content.assemble(
                (fmt.count(selection.included), "bold"),
                f" of {fmt.count(len(selection.rows))} regions{shown} · core ",
                (fmt.exact_size(selection.core_bytes), "bold $text-accent"),
                " · stop ",
                (f"~{fmt.stop(selection.stop_seconds)}", "bold"),
                f" ({selection.inspection.mode})",
            ),
            layout=False,
        )

    def on_listing_cursor_moved(self, message: Listing.CursorMoved) -> None:
        """Tell about the cursor's region."""
        self._show_region()
        self._mark_strip()

    def _mark_strip(self) -> None:
        row, selection = self._listing.cursor_row, self.selection
        if isinstance(row, RegionRow):
            self.query_one("#strip", AddressStrip).mark(range(row.index, row.index + 1))
        elif row is not None and selection is not None:
            self.query_one("#strip", AddressStrip).mark(*selection.runs_of(row.kind))

    def _show_region(self) -> None:
        row = self._listing.cursor_row
        if row is None or self._failed:
            return
        if isinstance(row, KindTotal):
            size, touched, swap = row.size, row.touched, row.swap
            what, why = fmt.regions(row.regions), f"{fmt.count(row.included)} of them in the core"
        else:
            size, touched, swap = row.region.size, row.region.rss, row.region.swap
            what, why = row.path or "no file", row.reason
        swapped = f", {fmt.size(swap)} swapped" if swap else ""
        self.query_one("#region", Static).update(
            Content.assemble(
                (kind_of(row).value, "bold"),
                f"  {what}\n",
                (f"{why}  ·  {fmt.size(size)}, {fmt.size(touched)} touched{swapped}", MUTED),
            ),
            layout=False,
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
            self.selection.toggle_kind(kind_of(row))
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
            self._load(keep=False)

    # looking -------------------------------------------------------------------------------------------------------

    def action_group(self) -> None:
        """Fold the list by kind, or unfold it."""
        row = self._listing.cursor_row
        self._grouped = not self._grouped
        self._show()
        if row is not None and self._grouped:
            self._listing.move_to(("kind", kind_of(row).value))
        elif isinstance(row, KindTotal):
            first = next((shown for shown in self._shown if shown.region.kind is row.kind), None)
            if first is not None:
                self._listing.move_to(row_key(first))

    def action_expand(self, expand_it: bool) -> None:
        """Unfold or fold the cursor's kind in the grouped list."""
        row = self._listing.cursor_row
        if not self._grouped or row is None:
            return
        kind = kind_of(row)
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
        self._sort, self._descending = name, SORT_KEYS[name][1]
        self._show()

    def on_listing_header_clicked(self, message: Listing.HeaderClicked) -> None:
        """Sort by the column, or turn its order round."""
        self._sort_or_invert(message.column)

    def _sort_or_invert(self, name: str) -> None:
        if name == self._sort:
            self.action_invert_sort()
        else:
            self._sort_by(name)

    def on_listing_chosen(self, message: Listing.Chosen) -> None:
        """A double click switches."""
        self.action_switch()

    def action_filter(self) -> None:
        """Begin to filter."""
        self.query_one(FilterInput).open()

    def action_pipe(self) -> None:
        """Go to the pipe command."""
        self.set_focus(self._pipe.input)

    def action_back(self) -> None:
        """Leave the input, clear the filter, or go back to the processes."""
        field = self.query_one(FilterInput)
        if self.focused is self._pipe.input:
            self._listing.focus()
        elif field.display:
            field.clear_and_hide()
            self._listing.focus()
        elif len(self.app.screen_stack) > 2:
            self.app.pop_screen()
        else:
            self.app.exit(0)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types."""
        self._filter = event.value
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the pipe command starts the dump."""
        self.action_dump()

    def on_filter_input_left(self) -> None:
        """Back to the list."""
        self._listing.focus()

    # copying, palette ----------------------------------------------------------------------------------------------

    def action_copy(self) -> None:
        """Copy the cursor's address range, or its kind: what --include and --exclude take."""
        row = self._listing.cursor_row
        if row is not None:
            self.copy(row.kind.value if isinstance(row, KindTotal) else f"{row.region.start:x}-{row.region.end:x}")

    def action_copy_command(self) -> None:
        """Copy the corepipe command that does what `d` would do now."""
        selection = self.selection
        if selection is not None:
            comm = selection.inspection.comm.decode("utf-8", "replace")
            request = self.corepipe.request(
                self.pid, expand(self._pipe.input.value, self.pid, comm), selection.dump_options()
            )
            self.copy(corepipe_command(self.pid, request.pipe, request.arguments(), self.corepipe.by_sudo))

    def palette(self) -> Iterable[tuple[str, str, Callable[[], object]]]:
        """See CorepipeScreen."""
        for name in SORT_KEYS:
            yield f"Sort by {name}", "once more inverts the order", partial(self._sort_or_invert, name)

    # onward --------------------------------------------------------------------------------------------------------

    def action_dump(self) -> None:
        """Check the pipe command once more, then dump."""
        if self.corepipe.settings.read_only:
            self.notify("started with --read-only: nothing is dumped", severity="warning")
        elif self._failed:
            self.notify("the regions could not be read; r reads them again", severity="warning")
        elif self.selection is not None:
            self._pipe.want()

    def on_pipe_row_wanted(self, message: PipeRow.Wanted) -> None:
        """Nothing is wrong with the pipe command: dump, after a question if the stop would be long."""
        selection, check = self.selection, message.check
        if not self.is_current or self._failed or selection is None:
            return  # asked for twice, or read anew meanwhile
        request = self.corepipe.request(self.pid, check.command, selection.dump_options())
        if selection.stop_seconds < _ASK_FROM_SECONDS:
            self._start(request, check)
            return
        mode = selection.inspection.mode
        question = (
            f"{clean(selection.inspection.comm)} ({self.pid}) will stand still for about "
            f"{fmt.stop(selection.stop_seconds)}: mode {mode}, {fmt.exact_size(selection.core_bytes)}."
        )
        self.app.push_screen(
            ConfirmScreen(question, "Dump", "Not now"), lambda yes: self._start(request, check) if yes else None
        )

    def _start(self, request: DumpRequest, check: PipeCheck) -> None:
        self._pipe.remember(check.text)
        self.app.push_screen(DumpScreen(request, self.selection))
