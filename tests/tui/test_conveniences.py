"""What belongs to no one screen: palette, themes, copying, suspending."""

from __future__ import annotations

import pytest
from textual.command import CommandPalette

from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.regions import RegionsScreen
from corepipe_tui.screens.result import ResultScreen
from corepipe_tui.themes import THEMES

from . import fakes, spaces
from .driving import listing, on_screen, screen_text, shows, until

SIZE = (120, 36)


@pytest.fixture
def regions_app(make_app):
    engine = fakes.FakeEngine(fakes.good_dump())
    return make_app(pid=fakes.FIRST_PID, engine=engine, load=spaces.loader(spaces.server()))


async def loaded(pilot):
    screen = await on_screen(pilot, RegionsScreen)
    await until(pilot, "the regions", lambda: screen.selection)
    return screen


async def palette(pilot, text):
    """Open the palette, type, and take the first that it finds."""
    await pilot.press("ctrl+p")
    await until(pilot, "the palette", lambda: isinstance(pilot.app.screen, CommandPalette))
    await pilot.press(*(("space" if letter == " " else letter) for letter in text))
    await shows(pilot, text)
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    await pilot.press("enter")
    await until(pilot, "the palette is gone", lambda: not isinstance(pilot.app.screen, CommandPalette))


# palette -----------------------------------------------------------------------------------------------------------


async def test_the_palette_does_what_the_keys_of_the_screen_do(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await until(pilot, "the list", lambda: listing(app, "#processes").rows)
        await palette(pilot, "Pause")
        await shows(pilot, "‖ paused")


async def test_the_palette_sorts_by_any_column(regions_app):
    async with regions_app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await palette(pilot, "Sort by touched")
        await until(pilot, "another order", lambda: listing(regions_app, "#regions").sort == ("touched", True))


async def test_the_palette_says_which_key_does_it(make_app):
    app = make_app()
    async with app.run_test(size=(120, 60)) as pilot:
        await on_screen(pilot, ProcessScreen)
        await pilot.press("ctrl+p", *"kernel")
        await shows(pilot, "Kernel threads")
        await shows(pilot, "key K")


# themes ------------------------------------------------------------------------------------------------------------


async def test_a_theme_is_kept_for_the_next_time(make_app):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        app.theme = "corepipe-colorblind"
        await until(pilot, "it is kept", lambda: app.store.theme() == "corepipe-colorblind")
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, "it is taken", lambda: app.theme == "corepipe-colorblind")


@pytest.mark.parametrize("text", ["no such theme", "\x1b[2J", ""])
async def test_a_theme_that_does_not_exist_changes_nothing(make_app, text):
    app = make_app()
    app.store.keep_theme(text)
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.theme == "corepipe"


async def test_every_theme_tells_the_same(regions_app):
    """The characters do not depend on the colours: no state is told by a colour alone."""
    async with regions_app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await regions_app.workers.wait_for_complete()
        before = screen_text(regions_app)
        for theme in THEMES:
            regions_app.theme = theme.name
            await pilot.pause()
            assert screen_text(regions_app) == before
        for text in ("●", "○", "◐", "heap", "anon", "shmem"):
            assert text in before


# leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["question_mark", "enter", "q"])
async def test_keys_that_come_after_the_last_do_nothing(make_app, key):
    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        app.exit(3)
        await pilot.press(key)
    assert app.return_value == 3


# copying -----------------------------------------------------------------------------------------------------------


async def test_y_copies_the_pid_or_the_command_that_mends_it(make_app):
    rows = [fakes.row(0), fakes.row(1, refusal="belongs to another user", hint="sudo corepipe 1")]
    app = make_app(fakes.FakeProcesses(rows))
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await on_screen(pilot, ProcessScreen)
        await until(pilot, "the list", lambda: listing(app, "#processes").rows)
        await pilot.press("y")
        assert app.clipboard == str(fakes.FIRST_PID)
        await pilot.press("down", "y")
        assert app.clipboard == "sudo corepipe 1"
        await shows(pilot, "copied")


async def test_y_copies_the_range_or_the_kind_and_capital_y_the_whole_command(regions_app):
    async with regions_app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        first = screen.selection.rows[0].region
        await pilot.press("y")
        assert regions_app.clipboard == f"{first.start:x}-{first.end:x}"
        listing(regions_app, "#regions").move_to(("region", 0x55D0C2123000))
        await pilot.press("space", "Y")
        copied = regions_app.clipboard
        assert copied.endswith("--exclude 55d0c2123000-55d0dbd23000")
        assert f"corepipe {fakes.FIRST_PID} --pipe " in copied
        assert "core.checkout.5000001." in copied
        await pilot.press("g", "home", "y")
        assert regions_app.clipboard == "anon"


async def test_y_copies_the_next_command_of_a_result(regions_app):
    async with regions_app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await pilot.press("d")
        await on_screen(pilot, ResultScreen)
        await pilot.press("y")
        assert "gdb /usr/bin/checkout" in regions_app.clipboard
