"""The list widget beyond what the screens show."""

from __future__ import annotations

from textual.app import App

from corepipe_tui.widgets.listing import Column, Listing


class _ListApp(App[None]):
    def compose(self):
        yield Listing(
            [
                Column("number", "NUMBER", 8, str, right=True),
                Column("rest", "REST", 0, lambda value: "x" * value),
                Column("last", "LAST", 6, lambda value: "abcdefghij", drop=1),
            ],
            key=lambda value: value,
        )


def _line(table, y):
    return "".join(segment.text for segment in table.render_line(y))


async def test_a_hundred_thousand_rows_are_scrolled_without_drawing_them():
    app = _ListApp()
    async with app.run_test(size=(60, 10)) as pilot:
        table = app.query_one(Listing)
        table.set_rows(range(100_000))
        await pilot.press("end")
        await pilot.pause()
        assert "99999" in _line(table, 9)
        table.set_rows(range(99_990))
        await pilot.pause()
        assert table.cursor_row == 99_989


async def test_what_does_not_fit_ends_in_an_ellipsis():
    app = _ListApp()
    async with app.run_test(size=(40, 10)) as pilot:
        table = app.query_one(Listing)
        table.set_rows([100])
        await pilot.pause()
        line = _line(table, 1)
        assert len(line) == 40
        assert line.count("…") == 2
        assert line.rstrip().endswith("abcde…")


async def test_columns_go_where_there_is_no_room():
    app = _ListApp()
    async with app.run_test(size=(40, 10)) as pilot:
        assert app.query_one(Listing).shown_columns == ["number", "rest", "last"]
        await pilot.resize_terminal(26, 10)
        await pilot.pause()
        assert app.query_one(Listing).shown_columns == ["number", "rest"]


async def test_an_empty_list_takes_all_keys():
    app = _ListApp()
    async with app.run_test(size=(40, 10)) as pilot:
        await pilot.press("down", "up", "end", "home", "pagedown", "pageup")
        await pilot.click(Listing, offset=(5, 5), times=2)
        assert app.query_one(Listing).cursor_row is None
