"""A dump as one watches it, with an engine that replays what a real one would say."""

from __future__ import annotations

import signal
import subprocess

import pytest

import corepipe_tui.screens.dump as dump_module
from corepipe_engine.events import Failed, Finished, Notice, Progress, Resumed, SinkStderr, Started, Stopped
from corepipe_engine.options import DumpOptions
from corepipe_tui import format as fmt
from corepipe_tui.runner import Ended, EngineRun
from corepipe_tui.screens.confirm import ConfirmScreen
from corepipe_tui.screens.dump import DumpScreen
from corepipe_tui.screens.help import HelpScreen
from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.result import ResultScreen
from corepipe_tui.widgets.clock import StopClock

from .driving import listing, on_screen, screen_text, shows, until, words
from .fakes import FIRST_PID, HOSTILE, FakeEngine, Gate, good_dump, report

SIZE = (100, 30)


async def start(app, pilot, pipe="zstd > core.zst"):
    """Open the dump screen above the list of processes, as the regions screen does."""
    await on_screen(pilot, ProcessScreen)
    screen = DumpScreen(app.request(FIRST_PID, pipe, DumpOptions()))
    await app.push_screen(screen)
    return screen


async def test_the_clock_starts_with_the_stop_and_ends_with_the_engines_figure(make_app):
    stopped, streaming = Gate(), Gate()
    app = make_app(engine=FakeEngine(good_dump(stopped, streaming)))
    async with app.run_test(size=SIZE) as pilot:
        screen = await start(app, pilot)
        clock = screen.query_one(StopClock)
        await until(pilot, "the clock runs", lambda: clock.has_class("running"))
        await shows(pilot, "target stands still")
        assert clock.seconds is None
        stopped.open()
        await until(pilot, "the clock stands", lambda: clock.has_class("resumed"))
        assert clock.seconds == 0.058
        await shows(pilot, "resumed after 0.058 s")
        streaming.open()
        await on_screen(pilot, ResultScreen)


async def test_phases_and_progress_are_shown_in_words_and_numbers(make_app):
    streaming = Gate()
    app = make_app(engine=FakeEngine(good_dump(None, streaming)))
    async with app.run_test(size=SIZE) as pilot:
        screen = await start(app, pilot)
        await until(pilot, "half of it", lambda: "512.00 KiB of 1.00 MiB" in words(screen, "#figures"))
        seen = screen_text(app)
        for text in ("✓ prepare", "✓ freeze", "✓ snapshot", "▸ stream", "mode snapshot: copy-on-write", "50%"):
            assert text in seen
        assert "dumping victim" in seen
        assert "pipe ▸ zstd > core.zst" in seen
        streaming.open()
        await on_screen(pilot, ResultScreen)


async def test_what_the_pipe_command_prints_is_shown_as_harmless_text(make_app):
    gate = Gate()
    spoken = [SinkStderr(data[:200].decode("utf-8", "replace") + "\n") for data in HOSTILE]
    script = [Started(FIRST_PID, "[/x]", "0"), *spoken, Notice("[bold]note[/bold]"), gate, Ended(1)]
    app = make_app(engine=FakeEngine(script))
    async with app.run_test(size=(100, 40)) as pilot:
        await start(app, pilot, pipe="echo '[/red]' \x1b[2J")
        seen = await shows(pilot, "[bold]note[/bold]")
        assert "[heap]" in seen
        assert r"\x1b[2J" in seen
        assert r"pipe ▸ echo '[/red]' \x1b[2J" in seen
        assert "dumping [/x]" in seen
        assert "\x1b" not in app.export_screenshot()
        gate.open()
        await on_screen(pilot, ResultScreen)


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_aborting_says_that_the_target_is_let_go_first(make_app, key):
    engine = FakeEngine(good_dump(Gate()), on_abort=[])
    app = make_app(engine=engine)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await start(app, pilot)
        await until(pilot, "the clock runs", lambda: screen.query_one(StopClock).has_class("running"))
        await pilot.press(key)
        await shows(pilot, "aborting: the target is let go first")
        assert engine.aborts == 1
        await pilot.press(key)
        assert (engine.aborts, engine.kills) == (1, 0)
        engine.kill()
        await on_screen(pilot, ResultScreen)


async def test_an_aborted_dump_ends_in_a_result_that_says_so(make_app):
    app = make_app(engine=FakeEngine(good_dump(Gate())))
    async with app.run_test(size=SIZE) as pilot:
        screen = await start(app, pilot)
        await until(pilot, "the clock runs", lambda: screen.query_one(StopClock).has_class("running"))
        await pilot.press("escape")
        await on_screen(pilot, ResultScreen)
        await shows(pilot, "aborted; the target runs, the core is not whole")
        await shows(pilot, "512 bytes of 1,048,576 planned")
    assert app.outcome.exit_code == 130


async def test_an_engine_that_does_not_end_can_be_killed(make_app, monkeypatch):
    monkeypatch.setattr(dump_module, "_PATIENCE_SECONDS", 0.0)
    engine = FakeEngine(good_dump(Gate()), on_abort=[])
    app = make_app(engine=engine)
    async with app.run_test(size=SIZE) as pilot:
        screen = await start(app, pilot)
        await until(pilot, "the clock runs", lambda: screen.query_one(StopClock).has_class("running"))
        await pilot.press("escape")
        await shows(pilot, "Esc once more kills it")
        await pilot.press("escape")
        await on_screen(pilot, ResultScreen)
        assert engine.kills == 1
        await shows(pilot, "aborted by force")
        await shows(pilot, "the kernel let the target go")
    assert app.outcome.exit_code == 130


async def test_quitting_asks_while_a_dump_runs_and_no_goes_on(make_app):
    streaming = Gate()
    engine = FakeEngine(good_dump(None, streaming))
    app = make_app(engine=engine)
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        for key in ("q", "ctrl+q"):
            await pilot.press(key)
            await on_screen(pilot, ConfirmScreen)
            await shows(pilot, "Abort it and quit? The target is let go")
            await pilot.press("n")
            await on_screen(pilot, DumpScreen)
        assert engine.aborts == 0
        streaming.open()
        await on_screen(pilot, ResultScreen)


async def test_quitting_asks_under_the_help_as_well(make_app):
    app = make_app(engine=FakeEngine(good_dump(Gate())))
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        await app.action_quit()  # as the palette does
        await on_screen(pilot, ConfirmScreen)
        await app.action_quit()
        assert isinstance(app.screen, ConfirmScreen)
        await pilot.press("y")
        await until(pilot, "the end", lambda: app.return_value is not None)
    assert app.return_value == 130


async def test_a_dump_that_ends_under_a_question_goes_on_to_the_result(make_app):
    streaming = Gate()
    app = make_app(engine=FakeEngine(good_dump(None, streaming)))
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        app.action_command_palette()
        await until(pilot, "the palette", lambda: not isinstance(app.screen, HelpScreen))
        streaming.open()
        await on_screen(pilot, ResultScreen)
        await pilot.press("enter")
        await on_screen(pilot, ProcessScreen)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_an_engine_that_is_killed_is_told_in_clear_words(make_app, number):
    script = [*good_dump(None, None)[:6], Ended(128 + number, signal.Signals(number).name)]
    app = make_app(engine=FakeEngine(script))
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        await on_screen(pilot, ResultScreen)
        seen = screen_text(app)
        assert f"killed by {number.name}" in seen
        assert "the kernel let the target go" in seen
        assert "try: sudo dmesg" in seen


async def test_an_engine_that_cannot_be_started_is_told(make_app):
    def no_engine(request, on_item):
        raise OSError(12, "Cannot allocate memory")

    app = make_app(engine=no_engine)
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        await on_screen(pilot, ResultScreen)
        await shows(pilot, "cannot start the engine: Cannot allocate memory")


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ([Finished(0, report()), Ended(0)], 0),
        ([Failed("no such process", "", 4), Finished(4, report(exit_code=4, error="x")), Ended(4)], 4),
        ([Failed("the pipe broke", "", 5), Finished(5, report(exit_code=5, error="x")), Ended(5)], 5),
        ([Ended(137, "SIGKILL")], 1),
        ([Ended(3, "", "corepipe: not permitted\n")], 3),
    ],
)
async def test_straight_from_the_command_line_it_ends_by_itself_with_the_exit_status(make_app, last, status):
    engine = FakeEngine([Started(FIRST_PID, "victim", "0"), *last])
    app = make_app(engine=engine, pid=FIRST_PID, pipe="zstd > x")
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, "the end", lambda: app.return_value is not None)
    assert app.return_value == status
    assert engine.requests[0].pipe == "zstd > x"


async def test_an_abort_before_the_engine_has_started_reaches_it(make_app):
    begun, go_on = Gate(), Gate()
    engine = FakeEngine(good_dump(Gate()))

    def slow_start(request, on_item):
        begun.open()
        go_on.wait(30)
        return engine(request, on_item)

    app = make_app(engine=slow_start)
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        await until(pilot, "the start", lambda: begun.wait(0))
        await pilot.press("escape")
        go_on.open()
        await on_screen(pilot, ResultScreen)
    assert engine.aborts == 1


async def test_resizing_while_it_runs(make_app):
    streaming = Gate()
    app = make_app(engine=FakeEngine(good_dump(None, streaming)))
    async with app.run_test(size=(80, 24)) as pilot:
        await start(app, pilot)
        for size in [(200, 60), (80, 24), (10, 4), (200, 60), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.pause()
        seen = screen_text(app)
        for text in ("0.058", "▸ stream", "512.00 KiB of 1.00 MiB", "pipe ▸", "esc Abort"):
            assert text in seen
        streaming.open()
        await on_screen(pilot, ResultScreen)
        await pilot.resize_terminal(200, 60)
        await pilot.pause()


async def test_help_on_the_dump_lists_its_keys(make_app):
    app = make_app(engine=FakeEngine(good_dump(Gate())))
    async with app.run_test(size=SIZE) as pilot:
        await start(app, pilot)
        await pilot.press("question_mark")
        seen = await shows(pilot, "Abort")
        assert "Quit" in seen
        await pilot.press("escape", "escape")
        await on_screen(pilot, ResultScreen)


async def test_two_stops_of_one_dump_are_two_runs_of_the_clock(make_app):
    gate = Gate()
    script = [Started(FIRST_PID, "v", "0"), Stopped(0.1), Resumed(0.2, 0.1, {}), Stopped(0.3), gate, Ended(1)]
    app = make_app(engine=FakeEngine(script))
    async with app.run_test(size=SIZE) as pilot:
        screen = await start(app, pilot)
        await until(pilot, "the clock runs", lambda: screen.query_one(StopClock).has_class("running"))
        gate.open()
        await on_screen(pilot, ResultScreen)


# the result --------------------------------------------------------------------------------------------------------


async def result_of(app, pilot, pipe="zstd > core.zst"):
    await start(app, pilot, pipe)
    return await on_screen(pilot, ResultScreen)


async def test_the_result_tells_stop_bytes_file_sink_and_omissions(make_app, tmp_path):
    (tmp_path / "core.zst").write_bytes(bytes(1 << 18))
    app = make_app(engine=FakeEngine(good_dump()))
    async with app.run_test(size=(120, 36)) as pilot:
        await result_of(app, pilot)
        seen = screen_text(app)
        for text in (
            "✓ the core is whole",
            "0.058 s (attach 2.0 ms, fork 50 ms)",
            "snapshot: copy-on-write",
            "1,048,576 bytes (1.00 MiB) in 2.0 s, 512.0 KiB/s",
            "12 of 20, 9 threads",
            f"256.00 KiB, ratio 4.0  {tmp_path}/core.zst",
            "exit status 0",
            "1.0G      5 x  never touched",
            "4.0K      1 x  MADV_DONTDUMP",
        ):
            assert text in seen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "<0.1 ms"),
        (0.00004, "<0.1 ms"),
        (0.0003, "0.3 ms"),
        (0.002, "2.0 ms"),
        (0.0099, "9.9 ms"),
        (0.05, "50 ms"),
    ],
)
def test_parts_of_a_stop_are_told_so_that_they_add_up(seconds, text):
    assert fmt.step(seconds) == text


async def test_y_copies_the_marked_command_and_shows_it(make_app, tmp_path):
    app = make_app(engine=FakeEngine(good_dump()))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await result_of(app, pilot, "cat > 'my core'")
        commands = list(listing(app, "#commands").rows)
        assert commands[-1].endswith(f"corepipe {FIRST_PID} --pipe 'cat > '\"'\"'my core'\"'\"''")
        await pilot.press("end", "y")
        assert app.clipboard == commands[-1]
        await shows(pilot, "copied")
        assert screen.query_one("#commands").region.height >= len(commands) + 1
        await shows(pilot, "Copy command")


async def test_a_command_that_the_list_cuts_off_is_shown_whole(make_app):
    app = make_app(engine=FakeEngine(good_dump()))
    pipe = "zstd -T0 | ssh backup.example.org 'cat > /srv/cores/a-rather-long-name-of-a-core-file.zst'"
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await result_of(app, pilot, pipe)
        assert screen.query_one("#command").display
        assert "core-file.zst" in words(screen, "#command")
        await shows(pilot, "Back")
        await pilot.resize_terminal(200, 60)
        await until(pilot, "room for it", lambda: not screen.query_one("#command").display)


async def test_many_facts_leave_the_commands_on_the_screen(make_app):
    omitted = {f"reason number {index}": (index, 1 << 20) for index in range(6)}
    long = Finished(5, report(exit_code=5, notices=[f"note {index}" for index in range(30)], omitted=omitted))
    failed = Failed("the pipe command failed: " + "words " * 60, "try " * 60, 5)
    app = make_app(engine=FakeEngine([Started(FIRST_PID, "v", "0"), failed, long, Ended(5)]))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await result_of(app, pilot)
        await pilot.pause()
        seen = screen_text(app)
        assert "WHAT TO TYPE NEXT" in seen
        assert "corepipe 5000001" in seen
        assert "Back" in seen.splitlines()[-1]
        assert screen.max_scroll_y == 0
        facts = screen.query_one("#facts")
        await pilot.press("J", "J")
        assert facts.scroll_offset.y == 2
        await pilot.press("K")
        assert facts.scroll_offset.y == 1


async def test_enter_goes_back_to_where_one_came_from(make_app):
    app = make_app(engine=FakeEngine(good_dump()))
    async with app.run_test(size=SIZE) as pilot:
        await result_of(app, pilot)
        await pilot.press("enter")
        await on_screen(pilot, ProcessScreen)


async def test_leaving_after_a_failed_dump_keeps_its_exit_status(make_app):
    script = [Failed("the pipe command failed", "look", 5), Finished(5, report(exit_code=5)), Ended(5)]
    app = make_app(engine=FakeEngine(script))
    async with app.run_test(size=SIZE) as pilot:
        await result_of(app, pilot)
        await shows(pilot, "✗ the pipe command failed")
        await shows(pilot, "try: look")
        await pilot.press("q")
    assert app.return_value == 5


@pytest.mark.parametrize("name", HOSTILE[:5] + HOSTILE[6:])
async def test_hostile_text_in_a_report_is_shown_harmless(make_app, name):
    text = name.decode("utf-8", "replace")
    script = [
        Started(FIRST_PID, text, "0"),
        Failed(text, text, 1),
        Finished(1, report(exit_code=1, notices=[text], omitted={text: (1, 1)}, mode_why=text, fallbacks=[text])),
        Ended(1),
    ]
    app = make_app(engine=FakeEngine(script))
    async with app.run_test(size=SIZE) as pilot:
        await result_of(app, pilot, f"cat > {text}")
        assert "\x1b" not in app.export_screenshot()
        await pilot.press("y")
        assert app.clipboard.isprintable()


# the real engine ---------------------------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize(("held", "background"), [(False, False), (False, True), (True, False)])
def test_the_engine_is_ended_on_demand_and_by_force(spawn_target, request_for, held, background):
    """background: a shell that starts something in the background has it ignore SIGINT."""
    import os
    import threading

    from corepipe_engine.options import ModeChoice
    from corepipe_tui.runner import Outcome

    from ..support.checks import assert_running
    from ..support.engine import assert_nothing_left, wait_frozen

    target = spawn_target("nine", 8 << 20)
    outcome, stopped = Outcome(), threading.Event()

    def take(item):
        outcome.take(item)
        if isinstance(item, (Stopped, Progress)):
            stopped.set()

    before = signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
    try:
        engine = EngineRun(request_for(target.pid, "sleep 600", mode=ModeChoice.DIRECT), take)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.wait(30)
    wait_frozen(target.pid, engine.pid)
    if held:
        os.kill(engine.pid, signal.SIGSTOP)
        engine.abort()
        engine.kill()
    else:
        engine.abort()
    engine.wait()
    assert outcome.exit_code == 130
    assert ("by force" in outcome.error) is held
    assert_running(target.pid)
    assert_nothing_left(engine.pid)
    engine.abort()
    engine.kill()


@pytest.mark.live
def test_the_engine_finds_neither_modules_nor_settings_where_we_stand(spawn_target, request_for, tmp_path, monkeypatch):
    (tmp_path / "corepipe_engine.py").write_text("raise SystemExit(9)")
    (tmp_path / "struct.py").write_text("raise SystemExit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    from corepipe_tui.runner import Outcome

    target = spawn_target("nine", 4096)
    outcome = Outcome()
    EngineRun(request_for(target.pid, f"cat > {tmp_path}/core"), outcome.take).wait()
    assert outcome.exit_code == 0, outcome.error
    assert (
        subprocess.run(["head", "-c", "4", tmp_path / "core"], stdout=subprocess.PIPE, check=True).stdout == b"\x7fELF"
    )
