"""The regions of real processes: what is switched is what the engine then plans."""

from __future__ import annotations

import contextlib

import pytest

import corepipe_tui.screens.regions as regions_module
from corepipe_engine.inspection import inspect_process, open_target
from corepipe_engine.policy import Extent
from corepipe_tui.pipes import suggestions
from corepipe_tui.screens.confirm import ConfirmScreen
from corepipe_tui.screens.help import HelpScreen
from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.regions import RegionsScreen
from corepipe_tui.selection import KindTotal, load_selection
from corepipe_tui.widgets.listing import Listing

from . import fakes
from .driving import listing, on_screen, screen_text, shows, until, words

pytestmark = pytest.mark.live
SIZE = (140, 50)


def planned(pid, options):
    """What the engine would write with these options."""
    with contextlib.closing(open_target(pid)) as process:
        return inspect_process(process, options).plan


@pytest.fixture
def target(spawn_target, tmp_path):
    """A process with a mapping of every kind, held still so that it stays as it is."""
    found = spawn_target("mappings", tmp_path)
    found.stop()
    yield found
    found.resume()


async def loaded(pilot):
    screen = await on_screen(pilot, RegionsScreen)
    await until(pilot, "the regions", lambda: screen.selection is not None and listing(pilot.app, "#regions").rows)
    return screen


def assert_as_the_engine_plans(screen):
    selection = screen.selection
    plan = planned(screen.pid, selection.dump_options())
    assert selection.core_bytes == plan.total_bytes
    assert f"core {regions_module.fmt.exact_size(plan.total_bytes)}" in words(screen, "#totals")
    included = sum(item.decision.included for item in plan.regions)
    assert selection.included == included


# arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["kernel", "full", "java", "stacks"])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_selection_costs_what_the_engine_then_plans(target, preset, step):
    from corepipe_engine.options import DumpOptions
    from corepipe_engine.policy import Policy, Preset

    selection = load_selection(target.pid, DumpOptions(policy=Policy(Preset(preset))))
    assert selection.core_bytes == planned(target.pid, selection.dump_options()).total_bytes
    for row in selection.rows[::step]:
        selection.toggle(row)
    assert selection.core_bytes == planned(target.pid, selection.dump_options()).total_bytes
    for row in selection.rows[::step]:
        selection.toggle(row)
    selection.set_all(selection.rows, included=False)
    assert selection.core_bytes == planned(target.pid, selection.dump_options()).total_bytes
    assert selection.data_bytes == selection.read_bytes == selection.included == 0


def test_a_region_switched_out_and_in_again_is_as_the_preset_had_it(target):
    from corepipe_engine.options import DumpOptions

    selection = load_selection(target.pid, DumpOptions())
    before = selection.core_bytes, selection.segments, selection.read_bytes, selection.included
    for row in selection.rows:
        if row.preset.included:
            selection.toggle(row)
            selection.toggle(row)
    assert (selection.core_bytes, selection.segments, selection.read_bytes, selection.included) == before
    assert selection.dump_options() == DumpOptions()


# keys --------------------------------------------------------------------------------------------------------------


async def test_space_toggles_a_region_and_the_totals_follow_at_once(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        table = listing(app, "#regions")
        table.move_to(("region", target.number("private")))
        await pilot.pause()
        row, before = table.cursor_row, screen.selection.core_bytes
        await pilot.press("space")
        assert row.extent is Extent.NONE
        assert screen.selection.core_bytes < before
        assert_as_the_engine_plans(screen)
        assert row.reason == "switched out by hand"
        assert table.cursor_row is not row  # on to the next
        await pilot.press("up", "space")
        assert screen.selection.core_bytes == before


async def test_star_toggles_all_of_a_kind(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        listing(app, "#regions").move_to(("region", target.number("private")))
        await pilot.press("asterisk")
        assert not any(row.extent is not Extent.NONE for row in screen.selection.rows if row.region.kind == "anon")
        assert_as_the_engine_plans(screen)
        await pilot.press("asterisk")
        assert_as_the_engine_plans(screen)
        assert_marks(app, screen)


def assert_marks(app, screen):
    """Every region in the picture carries the mark of what was chosen."""
    seen = screen_text(app)
    shown = 0
    for row in screen.selection.rows:
        address = f"{row.region.start:x}-{row.region.end:x}"
        line = next((line for line in seen.splitlines() if address in line), "")
        if line and not row.fixed:
            shown += 1
            assert {"NONE": "○", "ALL": "●", "FIRST_PAGE": "◐"}[row.extent.name] in line
            assert ("* " in line[:4]) == row.changed
    assert shown > 5


async def test_a_n_i_switch_what_the_filter_shows_and_nothing_else(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        await pilot.press("slash", *"private_file", "enter")
        (row,) = listing(app, "#regions").rows
        others = [other.extent for other in screen.selection.rows if other is not row]
        for key, extent in (("a", Extent.ALL), ("n", Extent.NONE), ("i", Extent.ALL)):
            await pilot.press(key)
            assert row.extent is extent
            assert_as_the_engine_plans(screen)
        assert [other.extent for other in screen.selection.rows if other is not row] == others
        await pilot.press("escape", "n")
        assert screen.selection.included == 0
        assert_as_the_engine_plans(screen)
        await pilot.press("a")
        assert_as_the_engine_plans(screen)


@pytest.mark.parametrize(("key", "name"), [("1", "kernel"), ("2", "full"), ("3", "java"), ("4", "stacks")])
async def test_a_digit_takes_a_preset(make_app, target, key, name):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        before = screen.selection
        await pilot.press("space", key)
        await until(pilot, "another selection", lambda: screen.selection is not before)
        await shows(pilot, f"preset {name}")
        assert screen.selection.options.policy.preset == name
        assert not any(row.changed for row in screen.selection.rows)
        assert_as_the_engine_plans(screen)


async def test_the_last_of_many_presets_stands(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        await pilot.press("2", "3", "4", "2", "4")
        await until(pilot, "the last preset", lambda: screen.selection.options.policy.preset == "stacks")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert screen.selection.options.policy.preset == "stacks"
        assert_as_the_engine_plans(screen)


async def test_g_folds_by_kind_and_the_arrows_unfold(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        table = listing(app, "#regions")
        everything = len(table.rows)
        await pilot.press("g", "home")
        assert all(isinstance(row, KindTotal) for row in table.rows)
        kinds = len(table.rows)
        assert kinds < 12
        first = table.cursor_row
        await pilot.press("right")
        assert len(table.rows) == kinds + first.regions
        await pilot.press("down", "left")
        assert len(table.rows) == kinds
        assert table.cursor_row.kind == first.kind
        await pilot.press("space")
        assert table.cursor_row.included == 0
        assert_as_the_engine_plans(screen)
        await pilot.press("g")
        assert len(table.rows) == everything


async def test_s_sorts_by_the_next_column_and_i_inverts(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        table = listing(app, "#regions")
        await pilot.press("s")
        assert table.sort == ("size", True)
        sizes = [row.region.size for row in table.rows]
        assert sizes == sorted(sizes, reverse=True)
        await pilot.press("I")
        sizes = [row.region.size for row in table.rows]
        assert sizes == sorted(sizes)
        for _ in table.shown_columns:
            await pilot.press("s")
        assert table.sort[0] == "size"


async def test_regions_that_cannot_be_read_are_not_switched(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        screen = await loaded(pilot)
        row = next(row for row in screen.selection.rows if row.region.path == b"[vvar]")
        listing(app, "#regions").move_to(("region", row.region.start))
        await pilot.press("space")
        await shows(pilot, "vvar cannot be switched")
        assert not row.changed


async def test_the_heap_is_shown_as_itself(make_app, spawn_target):
    target = spawn_target("nine", 4096)
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await pilot.press("end")
        await shows(pilot, "[stack]")
        await pilot.press("slash", *"vdso")
        await shows(pilot, "[vdso]")


async def test_hostile_paths_of_mappings_are_shown_harmless(make_app, spawn_target, tmp_path):
    folder = tmp_path / "[bold]\x1b[2J\u202e"
    folder.mkdir()
    target = spawn_target("mappings", folder)
    app = make_app(pid=target.pid)
    async with app.run_test(size=(250, 60)) as pilot:
        screen = await loaded(pilot)
        await pilot.press("slash", *"private_file", "enter")
        seen = await shows(pilot, r"[bold]\x1b[2J\u202e")
        assert "private_file" in seen
        assert r"[bold]\x1b[2J" in words(screen, "#region")
        assert "\x1b" not in app.export_screenshot()


async def test_a_filter_that_matches_nothing_says_so_and_esc_leads_back(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await pilot.press("slash", *"zzz")
        await shows(pilot, "no region matches 'zzz'; Esc clears the filter")
        await shows(pilot, "0 shown")
        await pilot.press("escape")
        assert listing(app, "#regions").rows
        assert app.screen.focused is listing(app, "#regions")


async def test_esc_leads_back_step_by_step(make_app, target):
    app = make_app(fakes.FakeProcesses([fakes.row(0, pid=target.pid)]))
    async with app.run_test(size=SIZE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await until(pilot, "the list", lambda: listing(app, "#processes").rows)
        await pilot.press("enter")
        await loaded(pilot)
        await pilot.press("slash", *"heap", "enter", "p", "escape")
        assert app.screen.focused is listing(app, "#regions")
        await pilot.press("escape")
        assert not app.screen.query_one("#filter").display
        await pilot.press("escape")
        await on_screen(pilot, ProcessScreen)


async def test_esc_on_the_first_screen_ends_with_status_0(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await pilot.press("escape")
        await until(pilot, "the end", lambda: app.return_value is not None)
    assert app.return_value == 0


# the pipe command --------------------------------------------------------------------------------------------------


async def test_up_and_down_go_through_what_this_host_can_run(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        field = app.screen.query_one("#pipe")
        known = suggestions()
        assert field.value == known[0]
        await pilot.press("p", "up")
        assert field.value == known[1 % len(known)]
        await pilot.press("down", "down")
        assert field.value == known[-1]
        await pilot.press("slash", "question_mark", "q")
        assert field.value == known[-1] + "/?q"


async def test_a_command_that_the_shell_cannot_parse_freezes_nothing(make_app, target):
    engine = fakes.FakeEngine([])
    app = make_app(pid=target.pid, engine=engine)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        app.screen.query_one("#pipe").value = "zstd 'oops"
        await until(pilot, "the complaint", lambda: "✗" in words(screen, "#pipe-check"))
        await pilot.press("d")
        await until(pilot, "the pipe command has the focus", lambda: screen.focused.id == "pipe")
        await pilot.press("enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.screen is screen
        assert engine.requests == []


async def test_what_only_bash_understands_is_accepted_where_bash_runs_it(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        app.screen.query_one("#pipe").value = "tee >(sha256sum >sum) > core"
        await until(pilot, "where it goes", lambda: "runs as root" in words(screen, "#pipe-check"))
        assert "free" in words(screen, "#pipe-check")


async def test_the_dump_is_asked_for_with_the_choices_and_the_expanded_command(make_app, target):
    engine = fakes.FakeEngine(fakes.good_dump(fakes.Gate()))
    app = make_app(pid=target.pid, engine=engine)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        listing(app, "#regions").move_to(("region", target.number("private")))
        await pilot.press("space", "p")
        app.screen.query_one("#pipe").value = "cat > core.{comm}.{pid}"
        await pilot.press("enter", "enter")
        (request,) = await until(pilot, "the order", lambda: engine.requests)
        assert request.pipe == f"cat > core.mappings.{target.pid}"
        assert request.options == screen.selection.dump_options()
        await app.workers.wait_for_complete()
        await pilot.press("escape")
        assert len(engine.requests) == 1


async def test_a_long_stop_is_asked_about_and_no_is_the_first_answer(make_app, target, monkeypatch):
    monkeypatch.setattr(regions_module, "_ASK_FROM_SECONDS", 0.0)
    engine = fakes.FakeEngine(fakes.good_dump(fakes.Gate()))
    app = make_app(pid=target.pid, engine=engine)
    async with app.run_test(size=SIZE) as pilot:
        await loaded(pilot)
        await pilot.press("d")
        await on_screen(pilot, ConfirmScreen)
        await shows(pilot, "will stand still for about")
        await pilot.press("enter")
        await on_screen(pilot, RegionsScreen)
        await pilot.press("d")
        await on_screen(pilot, ConfirmScreen)
        await pilot.press("escape")
        await on_screen(pilot, RegionsScreen)
        assert engine.requests == []
        await pilot.press("d")
        await on_screen(pilot, ConfirmScreen)
        await pilot.press("y")
        await until(pilot, "the dump", lambda: engine.requests)


async def test_read_only_dumps_nothing(make_app, target):
    engine = fakes.FakeEngine([])
    app = make_app(pid=target.pid, read_only=True, engine=engine)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await loaded(pilot)
        await pilot.press("d")
        await shows(pilot, "nothing is dumped")
        assert engine.requests == []


async def test_a_process_that_ends_under_the_screen_is_told(make_app, spawn_target):
    target = spawn_target("nine", 4096)
    app = make_app(pid=target.pid)
    async with app.run_test(size=SIZE) as pilot:
        screen = await loaded(pilot)
        target.end()
        await pilot.press("r")
        await until(pilot, "the reason", lambda: "✗" in words(screen, "#region"))
        assert f"{target.pid}" in words(screen, "#region")


async def test_help_lists_the_keys_of_the_regions(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=(80, 24)) as pilot:
        await loaded(pilot)
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        seen = screen_text(app)
        for text in ("Toggle", "Preset stacks", "Invert", "Group", "Dump", "Unfold a kind"):
            assert text in seen


async def test_resizing_keeps_what_matters_on_the_screen(make_app, target):
    app = make_app(pid=target.pid)
    async with app.run_test(size=(200, 60)) as pilot:
        screen = await loaded(pilot)
        for size in [(80, 24), (200, 60), (10, 5), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.pause()
        seen = await shows(pilot, "d Dump")
        for text in (
            f"mappings ({target.pid})",
            "preset kernel",
            "ADDRESS RANGE",
            "MAPPING",
            "core ",
            "pipe ▸",
            "Keys",
        ):
            assert text in seen
        assert screen.query_one(Listing).region.width == 80
