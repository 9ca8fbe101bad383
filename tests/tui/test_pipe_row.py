"""The pipe command: history, what this host has, and what is said of it before anything is frozen."""

from __future__ import annotations

import pytest

import corepipe_tui.widgets.piperow as piperow_module
from corepipe_tui.screens.regions import RegionsScreen
from corepipe_tui.store import Store
from corepipe_tui.widgets.piperow import PipeChoices

from . import fakes, spaces
from .driving import on_screen, screen_text, shows, until, words

SIZE = (120, 36)
OFFERED = ["zstd -T0 > core.{comm}.{pid}.zst", "gzip > core.{comm}.{pid}.gz", "zstd -T0 | ssh HOST 'cat > core.zst'"]


@pytest.fixture
def app(make_app, monkeypatch):
    monkeypatch.setattr(piperow_module, "suggestions", lambda: OFFERED)
    engine = fakes.FakeEngine(fakes.good_dump())
    made = make_app(pid=fakes.FIRST_PID, engine=engine, load=spaces.loader(spaces.server()))
    made.engine = engine
    return made


async def ready(pilot):
    screen = await on_screen(pilot, RegionsScreen)
    await until(pilot, "the regions", lambda: screen.selection)
    await pilot.app.workers.wait_for_complete()
    await pilot.press("p")
    return screen, screen.query_one("#pipe")


async def test_the_best_that_this_host_has_is_there_at_first(app):
    async with app.run_test(size=SIZE) as pilot:
        _, field = await ready(pilot)
        assert field.value == OFFERED[0]
        seen = await shows(pilot, "this host can run")
        assert f"▸+ {OFFERED[0]}" in seen
        assert f" + {OFFERED[1]}" in seen


async def test_up_goes_through_what_was_used_newest_first_and_then_what_this_host_has(app):
    for command in ("cat > old", "zstd > new"):
        app.store.remember(command)
    async with app.run_test(size=SIZE) as pilot:
        _, field = await ready(pilot)
        field.value = ""
        await pilot.pause()
        seen = []
        for _ in range(7):
            await pilot.press("up")
            seen.append(field.value)
        assert seen == ["zstd > new", "cat > old", *OFFERED, "", "zstd > new"]
        picture = screen_text(app)
        assert "▸↺ zstd > new" in picture
        assert " ↺ cat > old" in picture


async def test_down_leads_back_to_what_was_typed(app):
    app.store.remember("zstd > new")
    async with app.run_test(size=SIZE) as pilot:
        _, field = await ready(pilot)
        field.value = ""
        await pilot.pause()
        await pilot.press(*"lz4", "up", "up")
        assert field.value != "lz4"
        await pilot.press("down", "down")
        assert field.value == "lz4"


async def test_up_from_the_untouched_suggestion_is_the_newest_of_the_history(app):
    app.store.remember("zstd > new")
    async with app.run_test(size=SIZE) as pilot:
        _, field = await ready(pilot)
        assert field.value == OFFERED[0]
        await pilot.press("up")
        assert field.value == "zstd > new"
        await pilot.press("up")
        assert field.value == OFFERED[0]


async def test_a_click_takes_a_choice(app):
    async with app.run_test(size=SIZE) as pilot:
        _, field = await ready(pilot)
        await shows(pilot, "this host can run")
        row = next(index for index, line in enumerate(screen_text(app).splitlines()) if "gzip" in line)
        await pilot.click(offset=(10, row))
        await until(pilot, "the choice", lambda: field.value == OFFERED[1])


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 60)])
async def test_the_choices_go_with_the_focus_and_never_hide_the_totals(app, size):
    async with app.run_test(size=size) as pilot:
        screen, _ = await ready(pilot)
        seen = await shows(pilot, "this host can run")
        assert words(screen, "#totals").split(" · ")[0] in seen
        await pilot.press("escape")
        await until(pilot, "they are gone", lambda: "this host can run" not in screen_text(app))
        assert not screen.query_one(PipeChoices).display


async def test_a_command_that_was_dumped_into_is_the_newest_of_the_history_with_its_placeholders(app):
    async with app.run_test(size=SIZE) as pilot:
        screen, field = await ready(pilot)
        field.value = "cat > {comm}.{pid}"
        await pilot.press("enter")
        await until(pilot, "the dump", lambda: app.engine.requests)
        assert app.engine.requests[0].pipe == f"cat > checkout.{fakes.FIRST_PID}"
        await until(pilot, "it is kept", lambda: app.store.history() == ["cat > {comm}.{pid}"])
        await until(pilot, "it is offered", lambda: screen.query_one("#pipe-panel")._history)
    assert Store(None).history() == ["cat > {comm}.{pid}"]


@pytest.mark.parametrize(("command", "what"), [(OFFERED[2], "HOST"), ("zstd | aws s3 cp - s3://BUCKET/x", "BUCKET")])
async def test_a_suggestion_that_is_not_filled_in_dumps_nothing(app, command, what):
    async with app.run_test(size=SIZE) as pilot:
        _, field = await ready(pilot)
        field.value = command
        await pilot.press("enter")
        await shows(pilot, f"put your own in the place of {what}")
        assert app.engine.requests == []
        field.value = command.replace(what, "there")
        await pilot.press("enter")
        await until(pilot, "the dump", lambda: app.engine.requests)


async def test_hostile_commands_of_the_history_do_no_harm(app, tmp_path):
    folder = tmp_path / "state/corepipe"
    folder.mkdir(parents=True)
    data = [item.replace(b"\n", b"") for item in fakes.HOSTILE]
    (folder / "history").write_bytes(b"\n".join([*data, b"[bold]zstd[/bold] > x"]))
    async with app.run_test(size=SIZE) as pilot:
        await ready(pilot)
        await shows(pilot, "↺ [bold]zstd[/bold] > x")
        assert "\x1b" not in app.export_screenshot()


async def test_a_file_that_is_there_already_is_told(app, tmp_path):
    (tmp_path / "core").write_text("x")
    async with app.run_test(size=SIZE) as pilot:
        screen, field = await ready(pilot)
        field.value = "cat > core"
        await until(pilot, "it is told", lambda: "exists already" in words(screen, "#pipe-check"))
        field.value = "cat > none/core"
        await until(pilot, "it is told", lambda: "no such folder" in words(screen, "#pipe-check"))
