"""A long list with columns, drawn line by line: a hundred thousand rows cost no more than the screen shows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..sanitize import fit

RowType = TypeVar("RowType")
Cell = str | tuple[str, str]
"""Text (clean), or text with a style: "dim", the name of a component class without "listing--", or a colour."""

_MIN_FLEXIBLE = 12
_FADE = 0.5
DARKEN = 0.15
"""Colours that stand out on black are too pale on white."""


@lru_cache(maxsize=64)
def _faded(style: Style) -> Style:
    """Return the style with its text half way to the background, whatever the theme."""
    if style.color is None or style.bgcolor is None:
        return style + Style(dim=True)
    color = Color.from_rich_color(style.color).blend(Color.from_rich_color(style.bgcolor), _FADE)
    return style + Style(color=color.rich_color)


@dataclass(frozen=True)
class Column(Generic[RowType]):
    """A column: width in terminal cells, 0 for the one that takes the rest.

    drop: where the terminal is narrow, columns with the highest number go first; 0 never goes, and what the list is
    sorted by goes last. least: what the column that takes the rest should have before others go.
    """

    name: str
    title: str
    width: int
    cell: Callable[[RowType], Cell]
    right: bool = False
    drop: int = 0
    least: int = _MIN_FLEXIBLE


class Listing(ScrollView, Generic[RowType], can_focus=True, inherit_bindings=False):
    """A table with one cursor row. The cursor and the scroll position follow the rows' keys when rows change."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "listing--header",
        "listing--header-sorted",
        "listing--cursor",
        "listing--cursor-blurred",
        "listing--accent",
        "listing--good",
        "listing--warn",
        "listing--bad",
        "listing--strong",
    }
    DEFAULT_CSS = """
    Listing {
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-size-vertical: 1;
        background: $surface;
        color: $foreground;
        & > .listing--header { color: $text-muted; background: $panel; text-style: bold; }
        & > .listing--header-sorted { color: $text-accent; background: $panel; text-style: bold; }
        & > .listing--cursor { background: $primary; color: $text; text-style: bold; }
        & > .listing--cursor-blurred { background: $primary 40%; color: $text; }
        & > .listing--accent { color: $text-accent; }
        & > .listing--good { color: $text-success; }
        & > .listing--warn { color: $text-warning; }
        & > .listing--bad { color: $text-error; }
        & > .listing--strong { text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="list.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="list.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="list.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="list.page_down"),
        Binding("home", "edge(-1)", "First", show=False, id="list.first"),
        Binding("end,G", "edge(1)", "Last", show=False, id="list.last"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class CursorMoved(Message):
        """The cursor is on another row, or its row changed."""

        def __init__(self, listing: Listing[Any]) -> None:
            super().__init__()
            self.listing = listing

        @property
        def control(self) -> Listing[Any]:
            """The list."""
            return self.listing

    class Chosen(CursorMoved):
        """A double click on the cursor's row; what Enter does is the screen's to say."""

    class HeaderClicked(Message):
        """A click on a column's title."""

        def __init__(self, listing: Listing[Any], column: str) -> None:
            super().__init__()
            self.listing = listing
            self.column = column

        @property
        def control(self) -> Listing[Any]:
            """The list."""
            return self.listing

    def __init__(
        self,
        columns: Sequence[Column[RowType]],
        key: Callable[[RowType], Hashable],
        *,
        dim: Callable[[RowType], bool] = lambda row: False,
        empty: str = "",
        id: str | None = None,  # noqa: A002 - Textual's name
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.rows: Sequence[RowType] = ()
        self._sort: tuple[str, bool] = ("", False)
        self.hidden: frozenset[str] = frozenset()
        self.empty_text = empty
        self._key = key
        self._dim = dim
        self._shown: list[tuple[Column[RowType], int]] = []
        self._styles: dict[tuple[str, Style], Style] = {}

    # what is shown -------------------------------------------------------------------------------------------------

    @property
    def cursor_row(self) -> RowType | None:
        """The row under the cursor, None in an empty list."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    @property
    def sort(self) -> tuple[str, bool]:
        """Name of the column that the rows are sorted by, and whether they descend; for the header alone."""
        return self._sort

    @sort.setter
    def sort(self, sort: tuple[str, bool]) -> None:
        if sort != self._sort:
            self._sort = sort
            self._shown = []
            self.refresh()

    @property
    def shown_columns(self) -> list[str]:
        """Names of the columns that there is room for."""
        return [column.name for column, _ in self._shown or self._layout(self.size.width)]

    def set_rows(self, rows: Sequence[RowType], *, to_top: bool = False) -> None:
        """Show other rows. The cursor stays on the row of the same key, at the same height of the screen."""
        row = self.cursor_row
        key = None if row is None or to_top else self._key(row)
        height = self.cursor - self.scroll_offset.y
        self.rows = rows
        position = 0
        if key is not None:
            position = next((index for index, other in enumerate(rows) if other is row), -1)
            if position < 0:
                position = next((index for index, row in enumerate(rows) if self._key(row) == key), -1)
            if position < 0:
                position = min(self.cursor, max(len(rows) - 1, 0))
        self.virtual_size = Size(self.size.width, len(rows) + 1)
        moved = position - self.cursor
        self.set_reactive(Listing.cursor, position)
        if to_top:
            self.scroll_to(y=0, animate=False, force=True, immediate=True)
        elif moved and height >= 0:
            self.scroll_to(y=max(position - height, 0), animate=False, force=True, immediate=True)
        self._reveal()
        self.refresh()
        self.post_message(self.CursorMoved(self))

    def hide(self, *names: str) -> None:
        """Leave out the columns of these names, and none else."""
        if self.hidden != frozenset(names):
            self.hidden = frozenset(names)
            self._shown = []
            self.refresh()

    def move_to(self, key: Hashable) -> bool:
        """Put the cursor on the row of that key; False if there is none."""
        for index, row in enumerate(self.rows):
            if self._key(row) == key:
                self.cursor = index
                return True
        return False

    def watch_cursor(self, before: int, after: int) -> None:
        """Keep the cursor on the screen; draw the two rows that look otherwise now."""
        top = self.scroll_offset.y
        self._reveal()
        if self.scroll_offset.y != top:
            self.refresh()
        else:
            self.refresh(*(Region(0, row - top + 1, self.size.width, 1) for row in (before, after) if row >= top))
        self.post_message(self.CursorMoved(self))

    def validate_cursor(self, value: int) -> int:
        """Stay in the list."""
        return min(max(value, 0), max(len(self.rows) - 1, 0))

    def _reveal(self) -> None:
        visible = max(self.size.height - 1, 1)
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True, immediate=True)
        elif self.cursor >= top + visible:
            self.scroll_to(y=self.cursor - visible + 1, animate=False, force=True, immediate=True)

    # keys and mouse ------------------------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        """Move the cursor by rows."""
        self.cursor += step

    def action_page(self, step: int) -> None:
        """Move the cursor by screens."""
        self.cursor += step * max(self.size.height - 2, 1)

    def action_edge(self, direction: int) -> None:
        """Move the cursor to the first or last row."""
        self.cursor = 0 if direction < 0 else len(self.rows) - 1

    def on_click(self, event: events.Click) -> None:
        """Click on a row or a title."""
        if event.y == 0:
            edge = 0
            for column, width in self._shown:
                if edge <= event.x < edge + width + 1:
                    self.post_message(self.HeaderClicked(self, column.name))
                edge += width + 1
            return
        index = self.scroll_offset.y + event.y - 1
        if index < len(self.rows):
            self.cursor = index
            if event.chain == 2:
                self.post_message(self.Chosen(self))

    def on_resize(self) -> None:
        """Lay the columns out again."""
        self.virtual_size = Size(self.size.width, len(self.rows) + 1)
        self._shown = self._layout(self.size.width)
        self._reveal()

    def _layout(self, width: int) -> list[tuple[Column[RowType], int]]:
        columns = [column for column in self.columns if column.name not in self.hidden]
        while True:
            fixed = sum(column.width + 1 for column in columns if column.width)
            rest = width - fixed - 1
            if rest >= max((column.least for column in columns if not column.width), default=0):
                break
            droppable = [column for column in columns if column.drop]
            if not droppable:
                break
            columns.remove(max(droppable, key=lambda column: (column.name != self.sort[0], column.drop)))
        return [(column, column.width or max(rest, 1)) for column in columns]

    # drawing -------------------------------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        """The colours have changed."""
        self._styles = {}
        super().notify_style_update()

    def _style(self, name: str, base: Style) -> Style:
        if not name:
            return base
        style = self._styles.get((name, base))
        if style is None:
            style = self._styles[name, base] = self._make_style(name, base)
        return style

    def _make_style(self, name: str, base: Style) -> Style:
        if name == "dim":
            return _faded(base)
        if name in {"accent", "good", "warn", "bad", "strong"}:
            part = self.get_component_rich_style(f"listing--{name}", partial=True)
            return base + Style(color=part.color, bold=part.bold)
        color = Color.parse(name)
        return base + Style(color=(color if self.app.current_theme.dark else color.darken(DARKEN)).rich_color)

    def render_line(self, y: int) -> Strip:
        """See ScrollView: the first line is the header, the others are rows."""
        width = self.size.width
        if not self._shown:
            self._shown = self._layout(width)
        if y == 0:
            return self._header(width)
        index = self.scroll_offset.y + y - 1
        base = self.rich_style
        if index >= len(self.rows):
            text = f"  {self.empty_text}" if not self.rows and y == 2 else ""
            return Strip([Segment(fit(text, width), self._style("dim", base))], width)
        row = self.rows[index]
        selected = index == self.cursor
        if selected:
            name = "listing--cursor" if self.has_focus else "listing--cursor-blurred"
            base = self.get_component_rich_style(name)
        if self._dim(row) and not selected:
            base = self._style("dim", base)
        segments = []
        for column, column_width in self._shown:
            cell = column.cell(row)
            text, style_name = cell if isinstance(cell, tuple) else (cell, "")
            style = base if selected or self._dim(row) else self._style(style_name, base)
            segments.append(Segment(fit(text, column_width, column.right), style))
            segments.append(Segment(" ", base))
        return Strip(segments).adjust_cell_length(width, base)

    def _header(self, width: int) -> Strip:
        header = self.get_component_rich_style("listing--header")
        sorted_header = self.get_component_rich_style("listing--header-sorted")
        name, descending = self.sort
        segments = []
        for column, column_width in self._shown:
            title, style = column.title, header
            if column.name == name:
                title, style = title + ("▾" if descending else "▴"), sorted_header
            segments.append(Segment(fit(title, column_width, column.right), style))
            segments.append(Segment(" ", header))
        return Strip(segments).adjust_cell_length(width, header)
