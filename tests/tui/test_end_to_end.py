"""The whole way with Pilot: from the real list of processes to a core."""

from __future__ import annotations

import subprocess

import pytest

from corepipe_tui.processes import HostProcesses
from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.regions import RegionsScreen
from corepipe_tui.screens.result import ResultScreen

from ..support.checks import assert_target_untouched
from ..support.cores import Core
from .driving import listing, on_screen, screen_text, shows, until

pytestmark = pytest.mark.live


@pytest.mark.needs("zstd")
async def test_pick_toggle_dump_and_the_core_holds_what_was_chosen(make_app, spawn_target, tmp_path):
    target = spawn_target("nine", 4 << 20)
    before = target.fingerprint()
    app = make_app(HostProcesses())
    async with app.run_test(size=(120, 36)) as pilot:
        await on_screen(pilot, ProcessScreen)
        await until(pilot, "it is in the list", lambda: listing(app, "#processes").move_to(target.pid))
        await pilot.press("enter")
        screen = await on_screen(pilot, RegionsScreen)
        await until(pilot, "the regions", lambda: screen.selection)
        area = target.number("area")
        row = next(row for row in screen.selection.rows if row.region.start <= area < row.region.end)
        await until(pilot, "its row", lambda: listing(app, "#regions").move_to(("region", row.region.start)))
        await pilot.press("space", "p")
        expected = screen.selection.core_bytes
        app.screen.query_one("#pipe").value = "zstd -q > file.zst"
        await pilot.press("enter")
        await on_screen(pilot, ResultScreen)
        await shows(pilot, "the core is whole")
        assert f"{expected:,} bytes" in screen_text(app)
        await pilot.press("enter")
        assert await on_screen(pilot, RegionsScreen) is screen
        assert row.changed
        await pilot.press("escape", "q")
    assert app.return_value == 0
    with (tmp_path / "core").open("wb") as file:
        subprocess.run(["zstd", "-dc", tmp_path / "file.zst"], stdout=file, check=True)
    core = Core(tmp_path / "core")
    assert core.size == expected
    assert len(core.thread_ids) == 9
    assert not core.holds(area)
    assert core.segment_at(area).file_bytes == 0
    assert_target_untouched(target, before)


async def test_a_failing_pipe_command_is_told_with_what_it_printed(make_app, spawn_target):
    target = spawn_target("nine", 4 << 20)
    app = make_app(pid=target.pid)
    async with app.run_test(size=(120, 36)) as pilot:
        screen = await on_screen(pilot, RegionsScreen)
        await until(pilot, "the regions", lambda: screen.selection)
        app.screen.query_one("#pipe").value = "head -c 10000 >/dev/null; echo link lost >&2; exit 7"
        await pilot.press("d")
        await on_screen(pilot, ResultScreen)
        await shows(pilot, "exit status 7: link lost")
        await pilot.press("q")
    assert app.return_value == 5


@pytest.mark.parametrize(("pipe", "status"), [("cat > core", 0), ("exit 9", 5)])
async def test_straight_mode_ends_with_the_exit_status(make_app, spawn_target, pipe, status):
    target = spawn_target("nine", 4096)
    app = make_app(pid=target.pid, pipe=pipe)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, "the end", lambda: app.return_value is not None)
    assert app.return_value == status
