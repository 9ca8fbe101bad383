"""The user interface never waits for /proc, and loses neither selection nor keys with thousands of lines."""

from __future__ import annotations

import threading

from corepipe_engine.policy import Extent
from corepipe_tui.processes import HostProcesses
from corepipe_tui.screens.help import HelpScreen
from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.regions import RegionsScreen

from . import fakes, spaces
from .driving import listing, on_screen, screen_text, shows, until, words

SIZE = (120, 36)
PROCESSES, REGIONS = 5_000, 65_000


class Slow(fakes.FakeProcesses):
    """Reading stands still until it is let go."""

    def __init__(self, rows=()):
        super().__init__(rows)
        self.sampling, self.describing = threading.Event(), threading.Event()

    def sample(self, partly=None):
        if partly is not None:
            partly(self.rows[:3])
        assert self.sampling.wait(60)
        return super().sample(partly)

    def details(self, pid):
        assert self.describing.wait(60)
        return super().details(pid)


async def test_keys_work_while_proc_is_read_and_what_is_there_is_shown(make_app):
    provider = Slow()
    app = make_app(provider)
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await shows(pilot, "3 of 3 processes so far")
        await pilot.press("down")
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        await pilot.press("escape", "slash", *"name2")
        assert [item[0].name for item in listing(app, "#processes").rows] == ["name2"]
        await pilot.press("escape")
        provider.sampling.set()
        await until(pilot, "all of them", lambda: len(listing(app, "#processes").rows) == 8)
        assert "so far" not in screen_text(app)
        provider.describing.set()


async def test_who_has_not_moved_yet_stays_at_the_top_while_the_list_grows(make_app):
    provider = Slow()
    provider.rows = provider.rows[::-1]  # the largest come last
    app = make_app(provider)
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await shows(pilot, "so far")
        provider.sampling.set()
        provider.describing.set()
        await until(pilot, "all of them", lambda: len(listing(app, "#processes").rows) == 8)
        assert listing(app, "#processes").cursor == 0


async def test_a_pid_that_is_typed_while_the_list_grows_is_found_once_it_is_there(make_app):
    provider = Slow()
    app = make_app(provider)
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await shows(pilot, "so far")
        wanted = provider.rows[-1].pid
        await pilot.press(*str(wanted))
        provider.sampling.set()
        provider.describing.set()
        await until(pilot, "all of them", lambda: len(listing(app, "#processes").rows) == 8)
        assert listing(app, "#processes").cursor_row[0].pid == wanted


async def test_keys_work_while_the_regions_are_read(make_app):
    go = threading.Event()

    def load(pid, options):
        assert go.wait(60)
        return spaces.selection(spaces.server(), pid, options)

    app = make_app(pid=fakes.FIRST_PID, load=load)
    async with app.run_test(size=SIZE) as pilot:
        screen = await on_screen(pilot, RegionsScreen)
        await shows(pilot, "reading the mappings")
        for key in ("d", "space", "a", "g", "s", "slash", "y", "Y", "left", "right", "I"):
            await pilot.press(key)  # nothing to do it to yet, and no harm
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        await pilot.press("escape")
        go.set()
        await until(pilot, "the regions", lambda: screen.selection)
        await shows(pilot, "regions · core")


async def test_5000_processes_are_refreshed_without_losing_selection_scroll_or_keystrokes(make_app):
    provider = fakes.FakeProcesses([fakes.row(index, rss=(9000 - index) << 20) for index in range(PROCESSES)])
    app = make_app(provider)
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        table = listing(app, "#processes")
        await until(pilot, "the list", lambda: len(table.rows) == PROCESSES)
        table.move_to(fakes.FIRST_PID + 2500)
        await pilot.pause()
        height = table.cursor - table.scroll_offset.y
        typed = "name25"
        await pilot.press("slash")
        for letter in typed:
            provider.rows = [*provider.rows[3:], fakes.row(PROCESSES + len(provider.rows), rss=1 << 30)]
            screen = app.screen
            screen.action_refresh_now()
            await pilot.press(letter)
        assert screen.query_one("#filter").value == typed
        await app.workers.wait_for_complete()
        await pilot.press("escape")
        await until(pilot, "the whole list", lambda: len(table.rows) == len(provider.rows))
        assert table.cursor_row[0].pid == fakes.FIRST_PID + 2500
        assert abs(table.cursor - table.scroll_offset.y - height) <= table.size.height


async def test_65000_regions_are_listed_filtered_toggled_and_folded(make_app):
    ready = spaces.selection(spaces.many(REGIONS))
    app = make_app(pid=fakes.FIRST_PID, load=lambda pid, options: ready)
    async with app.run_test(size=SIZE) as pilot:
        screen = await on_screen(pilot, RegionsScreen)
        await shows(pilot, f"of {REGIONS:,} regions · core")
        whole = ready.core_bytes
        await pilot.press("n")
        assert (ready.included, ready.data_bytes) == (0, 0)
        await pilot.press("a")
        assert ready.included == REGIONS
        assert ready.core_bytes > whole
        await pilot.press("slash", *"module-64001", "enter", "n", "escape")
        assert [row.index for row in ready.rows if row.extent is Extent.NONE] == [64_001]
        await pilot.press("g")
        assert len(listing(app, "#regions").rows) == 3
        assert f"{REGIONS - 1:,} of {REGIONS:,}" in words(screen, "#totals")


async def test_a_list_that_takes_long_to_read_comes_in_parts(monkeypatch):
    import corepipe_tui.processes as processes_module

    monkeypatch.setattr(processes_module, "_PATIENCE_SECONDS", -1.0)
    parts = []
    rows = HostProcesses().sample(lambda rows: parts.append(len(rows)))
    assert len(parts) > 1
    assert parts == sorted(parts)
    assert parts[-1] <= len(rows) or not rows


# every key -----------------------------------------------------------------------------------------------------------


_KEYS = {
    "filter": "slash backslash f4", "next_sort": "s greater_than_sign S less_than_sign", "invert_sort": "I",
    "pipe": "p", "reload": "r f5", "expand": "right l enter left h", "switch": "space", "toggle_kind": "asterisk",
    "all": "a n", "invert": "i", "preset": "1 2 3 4", "group": "g", "copy": "y", "copy_command": "Y",
    "back": "escape q", "dump": "d",
}  # fmt: skip


async def test_every_key_of_the_regions_leads_to_its_action(make_app, monkeypatch):
    done = []
    app = make_app(pid=fakes.FIRST_PID, load=spaces.loader(spaces.server()[:3]))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await on_screen(pilot, RegionsScreen)
        await until(pilot, "the regions", lambda: screen.selection)
        for does in _KEYS:
            monkeypatch.setattr(RegionsScreen, f"action_{does}", lambda self, *arguments, name=does: done.append(name))
        for does, keys in _KEYS.items():
            for key in keys.split():
                done.clear()
                await pilot.press(key)
                assert done == [does], key
        actions = {binding.action.partition("(")[0] for binding in RegionsScreen.BINDINGS}
        assert actions <= {*_KEYS, "app.quit"}
