"""The list of processes, key by key."""

from __future__ import annotations

import pytest

from corepipe_tui.screens.help import HelpScreen
from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.regions import RegionsScreen

from .driving import listing, on_screen, screen_text, shows, until, words
from .fakes import FIRST_PID, HOSTILE, FakeProcesses, row

SIZE = (120, 36)


def pids(app):
    return [item[0].pid - FIRST_PID for item in listing(app, "#processes").rows]


async def ready(pilot):
    await on_screen(pilot, ProcessScreen)
    await until(pilot, "the first list", lambda: listing(pilot.app, "#processes").rows)


def cursor(app):
    return listing(app, "#processes").cursor_row[0].pid - FIRST_PID


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("M", lambda item: -item.rss),
        ("N", lambda item: item.pid),
        ("P", lambda item: -item.cpu_percent),
        ("T", lambda item: -item.cpu_seconds),
    ],
)
async def test_a_letter_sorts_and_i_inverts(make_app, key, value):
    provider = FakeProcesses()
    app = make_app(provider)
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press(key)
        want = [item.pid - FIRST_PID for item in sorted(provider.rows, key=value)]
        assert pids(app) == want
        await pilot.press("I")
        assert pids(app) == want[::-1]


async def test_the_list_is_sorted_by_memory_at_first_and_the_header_says_so(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        assert pids(app) == list(range(8))
        assert "RSS▾" in screen_text(app)


async def test_s_goes_through_all_columns_that_are_shown(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        names = listing(app, "#processes").shown_columns
        seen = []
        for _ in names:
            await pilot.press("s")
            seen.append(listing(app, "#processes").sort[0])
        assert sorted(seen) == sorted(names)
        await pilot.press("S")
        assert listing(app, "#processes").sort[0] == seen[-2]


async def test_the_sorted_column_stays_on_a_narrow_terminal(make_app):
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot)
        assert "CPU%" not in screen_text(app)
        await pilot.press("P")
        seen = await shows(pilot, "CPU%▾")
        assert "COMMAND" in seen


async def test_t_draws_the_tree(make_app):
    app = make_app(FakeProcesses([row(0, ppid=0), row(1, ppid=FIRST_PID), row(2, ppid=FIRST_PID + 1), row(3, ppid=0)]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("t")
        seen = await shows(pilot, "└─ /usr/bin/name1")
        assert "   └─ /usr/bin/name2" in seen
        await pilot.press("t")
        await until(pilot, "no tree", lambda: "└─" not in screen_text(app))


async def test_kernel_threads_are_hidden_until_k_is_pressed(make_app):
    app = make_app(FakeProcesses([row(0), row(1, kernel=True, name="kworker", refusal="a kernel thread")]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        assert pids(app) == [0]
        assert "1 of 2 processes" in screen_text(app)
        await pilot.press("K")
        assert pids(app) == [0, 1]
        await pilot.press("K")
        assert pids(app) == [0]


async def test_z_holds_the_list_still(make_app):
    provider = FakeProcesses()
    app = make_app(provider, refresh_seconds=0.01)
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("Z")
        await shows(pilot, "paused")
        provider.rows = [row(50)]
        await pilot.pause()
        before = provider.samples
        for _ in range(20):
            await pilot.pause(0.005)
        assert provider.samples <= before + 1  # one may have been under way
        assert len(pids(app)) == 8 or pids(app) == [50]
        await pilot.press("Z")
        await until(pilot, "the list moves again", lambda: pids(app) == [50])


async def test_a_filter_works_as_one_types_and_esc_clears_it(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"name3")
        assert pids(app) == [3]
        await pilot.press("enter")
        assert app.screen.focused is listing(app, "#processes")
        assert pids(app) == [3]
        assert "filter name3" in screen_text(app)
        await pilot.press("escape")
        assert len(pids(app)) == 8
        assert not app.screen.query_one("#filter").display


async def test_a_word_with_a_mark_leaves_out(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"serve", "space", *"!name3")
        assert pids(app) == [0, 1, 2, 4, 5, 6, 7]


async def test_a_filter_that_matches_nothing_says_how_to_go_on(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"[nothing]")
        seen = await shows(pilot, "no process matches '[nothing]'")
        assert "Esc clears the filter" in seen
        await pilot.press("enter", "enter")
        assert isinstance(app.screen, ProcessScreen)


async def test_letters_in_the_filter_are_text_and_not_keys(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"q?/tZ1")
        assert app.screen.query_one("#filter").value == "q?/tZ1"
        assert isinstance(app.screen, ProcessScreen)


async def test_digits_jump_to_a_pid(make_app):
    app = make_app(FakeProcesses([row(0, pid=10), row(1, pid=42), row(2, pid=4711), row(3, pid=48)]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("4")
        assert listing(app, "#processes").cursor_row[0].pid == 42
        await pilot.press("7")
        assert listing(app, "#processes").cursor_row[0].pid == 4711


async def test_selection_and_scroll_stay_while_processes_come_and_go(make_app):
    provider = FakeProcesses([row(index) for index in range(100)])
    app = make_app(provider)
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        table = listing(app, "#processes")
        table.move_to(FIRST_PID + 60)
        await pilot.pause()
        height = table.cursor - table.scroll_offset.y
        provider.rows = [row(200 + index, rss=5000 << 20) for index in range(7)] + [
            item for item in provider.rows if item.pid % 3 or item.pid == FIRST_PID + 60
        ]
        await pilot.press("f5")
        await until(pilot, "the new list", lambda: len(table.rows) == len(provider.rows))
        assert cursor(app) == 60
        assert table.cursor - table.scroll_offset.y == height
        provider.rows = [item for item in provider.rows if item.pid != FIRST_PID + 60]
        await pilot.press("f5")
        await until(pilot, "the new list", lambda: len(table.rows) == len(provider.rows))
        assert table.cursor_row is not None


async def test_a_process_that_cannot_be_dumped_tells_why_and_enter_refuses_it(make_app):
    app = make_app(FakeProcesses([row(0, refusal="process 1 belongs to another user (uid 7)", hint="sudo corepipe 1")]))
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await ready(pilot)
        table = listing(app, "#processes")
        line = next(line for line in screen_text(app).splitlines() if str(FIRST_PID) in line)
        assert "✗" in line
        assert "(not permitted)" in line
        details = words(app.screen, "#details")
        assert "belongs to another user" in details
        assert "try: sudo corepipe 1" in details
        await pilot.press("enter")
        await shows(pilot, "cannot be dumped")
        assert isinstance(app.screen, ProcessScreen)
        table.post_message(table.Chosen(table))
        await pilot.pause()
        assert isinstance(app.screen, ProcessScreen)


async def test_rows_that_cannot_be_dumped_are_drawn_dim(make_app):
    app = make_app(FakeProcesses([row(0), row(1), row(2, refusal="zombie")]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        table = listing(app, "#processes")
        styles = [next(iter(table.render_line(index + 1))).style.color for index in (1, 2)]
        assert styles[0] != styles[1]


async def test_a_click_on_a_title_sorts_and_another_inverts(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.click("#processes", offset=(4, 0))
        assert listing(app, "#processes").sort == ("pid", False)
        await pilot.click("#processes", offset=(4, 0))
        assert listing(app, "#processes").sort == ("pid", True)
        assert pids(app) == list(range(8))[::-1]


async def test_a_double_click_opens_the_regions(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.click("#processes", offset=(20, 3), times=2)
        screen = await on_screen(pilot, RegionsScreen)
        assert screen.pid == FIRST_PID + 2


async def test_the_arrows_and_their_letters_move_the_cursor(make_app):
    app = make_app(FakeProcesses([row(index) for index in range(100)]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        for keys, want in (("down", 1), ("j", 2), ("up", 1), ("k", 0), ("end", 99), ("home", 0), ("G", 99)):
            await pilot.press(keys)
            assert cursor(app) == want
        await pilot.press("home", "pagedown", "pageup")
        assert cursor(app) == 0


async def test_hostile_names_and_command_lines_are_shown_harmless(make_app):
    rows = [row(index, name=data, command=data, user=data) for index, data in enumerate(HOSTILE)]
    app = make_app(FakeProcesses(rows))
    async with app.run_test(size=(200, 40)) as pilot:
        await ready(pilot)
        for index in range(len(HOSTILE)):
            listing(app, "#processes").move_to(FIRST_PID + index)
            await pilot.pause()
            details = words(app.screen, "#details")
            assert rows[index].name[:60] in details
            assert "\x1b" not in app.export_screenshot()
        seen = screen_text(app)
        assert " [heap] " in seen
        assert " [/tmp] " in seen
        assert "[bold red]x[/]" in seen
        assert r"\x1b[2J" in seen
        assert r"two\nlines" in seen
        assert r"\u202egnp.exe" in seen


async def test_a_hostile_process_that_is_refused_is_notified_as_text(make_app):
    app = make_app(FakeProcesses([row(0, refusal="process [/x] is [bold]traced[/bold]", hint="[/]")]))
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await ready(pilot)
        await pilot.press("enter")
        seen = await shows(pilot, "cannot be dumped")
        assert "[bold]traced[/bold]" in seen.replace("\n", "")


async def test_a_process_that_has_ended_says_so_and_leads_back(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await until(pilot, "the details", lambda: "does not exist" in words(app.screen, "#details"))
        await pilot.press("enter")
        screen = await on_screen(pilot, RegionsScreen)
        await until(pilot, "the reason", lambda: f"{FIRST_PID}" in words(screen, "#region"))
        assert "Esc goes back" in words(screen, "#totals")
        await pilot.press("d")
        assert app.screen is screen
        await pilot.press("escape")
        await on_screen(pilot, ProcessScreen)


async def test_help_lists_the_keys_of_the_screen(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        seen = screen_text(app)
        for text in ("Kernel threads", "Invert order", "Sort by CPU time", "Clear filter", "Page down", "Tree"):
            assert text in seen
        await pilot.press("f1")
        await on_screen(pilot, ProcessScreen)


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q", "f10"])
async def test_quitting_ends_with_status_0(make_app, key):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await pilot.press(key)
    assert app.return_value == 0


async def test_resizing_while_the_list_moves(make_app):
    app = make_app(FakeProcesses([row(index) for index in range(200)]), refresh_seconds=0.1)
    async with app.run_test(size=(80, 24)) as pilot:
        await ready(pilot)
        await pilot.press("end")
        for size in [(200, 60), (80, 24), (20, 5), (200, 60), (1, 1), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert cursor(app) == 199
        assert "name199" in screen_text(app)


async def test_without_colours_the_list_tells_the_same(make_app, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app(FakeProcesses([row(0), row(1, refusal="process 1 is traced by process 2")]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        seen = screen_text(app)
        assert "✗" in seen
        assert "(traced)" in seen


async def test_the_panel_below_keeps_its_height_whatever_it_says(make_app):
    app = make_app(FakeProcesses([row(0), row(1, refusal="no", hint="do this", command="x" * 5000)]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        before = app.screen.query_one("#details").region
        await pilot.press("down")
        await pilot.pause()
        assert app.screen.query_one("#details").region == before
