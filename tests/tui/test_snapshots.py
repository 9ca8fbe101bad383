"""What every screen looks like, to the cell and the colour, at three sizes.

The pictures are tests/tui/snapshots/*.svg; open them in a browser. After a change that is meant, make them anew with
`COREPIPE_SNAPSHOTS=new tests/run tests/tui/test_snapshots.py`, and look at every one that changed.
"""

from __future__ import annotations

import difflib
import html
import os
import re
import types
from importlib.metadata import version
from pathlib import Path

import pytest
from textual.command import CommandPalette

import corepipe_tui.pipes as pipes_module
import corepipe_tui.screens.dump as dump_module
import corepipe_tui.screens.processes as processes_module
import corepipe_tui.widgets.clock as clock_module
import corepipe_tui.widgets.piperow as piperow_module
from corepipe_engine.errors import NoSuchProcessError
from corepipe_engine.events import SinkStderr
from corepipe_tui.pipes import Destination
from corepipe_tui.processes import ProcessDetails
from corepipe_tui.runner import Ended
from corepipe_tui.screens.confirm import ConfirmScreen
from corepipe_tui.screens.dump import DumpScreen
from corepipe_tui.screens.help import HelpScreen
from corepipe_tui.screens.processes import ProcessScreen
from corepipe_tui.screens.regions import RegionsScreen
from corepipe_tui.screens.result import ResultScreen

from . import fakes, spaces
from .driving import listing, on_screen, screen_text, shows, until, words

FOLDER = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (120, 36), (200, 60)]
MIDDLE = (120, 36)
_OFFERED = ["zstd -T0 > core.{comm}.{pid}.zst", "gzip > core.{comm}.{pid}.gz", "zstd -T0 | ssh HOST 'cat > core.zst'"]
_MIB = 1 << 20
_MADE_WITH = re.compile(r",&#160;textual&#160;([\d.]+)")


def normal(svg: str) -> str:
    """The picture without what differs from run to run: Rich numbers a picture's names by its content."""
    return re.sub(r"terminal-\d+", "terminal", svg)


def text_of(svg: str) -> list[str]:
    """The lines of text of a picture, for people."""
    lines: dict[str, list[str]] = {}
    for line, text in re.findall(r'clip-path="url\(#terminal-line-(\d+)\)"[^>]*>([^<]*)</text>', svg):
        lines.setdefault(line, []).append(html.unescape(text).replace("\xa0", " "))
    return ["".join(parts).rstrip() for parts in lines.values()]


def assert_looks_as_before(app, name: str, tmp_path: Path) -> None:
    """The picture is the one that was kept; the new one is left in tmp_path if it is not."""
    seen = normal(app.export_screenshot(title=f"{name}, textual {version('textual')}"))
    kept = FOLDER / f"{name}.svg"
    if os.environ.get("COREPIPE_SNAPSHOTS") == "new":
        FOLDER.mkdir(exist_ok=True)
        kept.write_text(seen)
        return
    before = kept.read_text()
    if _MADE_WITH.sub("", seen) == _MADE_WITH.sub("", before):
        return
    (tmp_path / kept.name).write_text(seen)
    made_with = _MADE_WITH.search(before)
    difference = "\n".join(difflib.unified_diff(text_of(before), text_of(seen), "before", "now", lineterm="", n=1))
    pytest.fail(
        f"{kept.name} looks otherwise (kept with textual {made_with and made_with[1]}, this is {version('textual')}); "
        f"now: {tmp_path / kept.name}\n{difference or 'the same text in other colours'}",
        pytrace=False,
    )


@pytest.fixture(autouse=True)
def _the_same_everywhere(monkeypatch):
    """Host, user, clock, free space, and what is installed."""
    monkeypatch.setattr(processes_module.socket, "gethostname", lambda: "shop-3")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pipes_module, "program", lambda: ("corepipe",))
    monkeypatch.setattr(piperow_module, "suggestions", lambda: _OFFERED)
    monkeypatch.setattr(
        piperow_module, "destination", lambda command: Destination(f"/srv/{command.split()[-1]}", 81 << 30)
    )
    standing = types.SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(dump_module, "time", standing)
    monkeypatch.setattr(clock_module, "time", standing)


def processes() -> fakes.FakeProcesses:
    """A server's processes; two cannot be dumped."""
    day = 86400
    found = [
        ("java", "java -Xms64m -Xmx2g -jar /srv/checkout/checkout.jar --server.port=8080", "checkout", 1890, 3, 41),
        ("postgres", "postgres: 15/main: checkpointer", "postgres", 412, 8, 1),
        ("python3", "/usr/bin/python3 -m gunicorn shop.wsgi -w 4", "shop", 220, 1, 5),
        ("gdb", "gdb -p 1187", "root", 94, 0, 1),
        ("nginx", "nginx: worker process", "www-data", 35, 12, 1),
        ("sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", "root", 9, 40, 1),
        ("systemd", "/sbin/init", "root", 12, 40, 1),
    ]
    rows = [
        fakes.row(
            index, pid=1000 + 37 * index, ppid=1, name=name, command=command, user=user, rss=rss * _MIB,
            core_bytes=rss * 9 // 10 * _MIB, threads=threads, stop_seconds=0.003 + rss / 40_000,
            swap=3 * _MIB if not index else 0, container="4f1d2c3b4a59" if index in (0, 2) else "",
            started=fakes.time.time() - age * day - 7.5 * 3600, cpu_seconds=300.0 * index,
        )
        for index, (name, command, user, rss, age, threads) in enumerate(found)
    ]  # fmt: skip
    refused = {
        "refusal": "process 1187 is traced by process 1111; a process has one tracer at a time",
        "hint": "ps -fp 1111   # end that debugger or strace first",
    }
    rows.append(fakes.row(8, pid=1187, name="worker", command="./worker --queue orders", user="shop", rss=18 * _MIB,
                          started=fakes.time.time() - 7.5 * 3600, **refused))  # fmt: skip
    provider = fakes.FakeProcesses(rows)
    memory = (("anonymous", 1700 * _MIB), ("files", 120 * _MIB), ("swap", 3 * _MIB), ("page tables", 4 * _MIB))
    cgroup = "/system.slice/checkout.service"
    for row in rows:
        provider.known_details[row.pid] = ProcessDetails(
            f"/usr/bin/{row.name}", "/srv", cgroup, memory, True, "gdb (1111)" if row.pid == 1187 else ""
        )
    return provider


def dump_script(*gates: object) -> list[object]:
    """A dump that stands still at the gates: frozen, streaming."""
    script = fakes.good_dump(*gates)
    script.insert(-6, SinkStderr("zstd: warning: \x1b[31mred\x1b[0m [bold]not bold[/bold]\n"))
    return script


async def settled(pilot) -> None:
    """Everything that workers have to say has been said."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    await pilot.pause()


async def listed(pilot):
    screen = await on_screen(pilot, ProcessScreen)
    await until(pilot, "the list", lambda: listing(pilot.app, "#processes").rows)
    await until(pilot, "the details", lambda: "exe" in words(screen, "#details"))
    await settled(pilot)
    return screen


async def loaded(pilot):
    screen = await on_screen(pilot, RegionsScreen)
    await until(pilot, "the regions", lambda: screen.selection)
    await until(pilot, "the command", lambda: "runs as" in words(screen, "#pipe-check"))
    await settled(pilot)
    return screen


def regions_app(make_app, script=(), hostile=b"", **settings):
    engine = fakes.FakeEngine(script)
    load = spaces.loader(spaces.server(hostile))
    app = make_app(pid=fakes.FIRST_PID, engine=engine, load=load, **settings)
    app.animation_level = "none"  # a bar without a total runs to and fro
    return app


async def assert_looks_as_before_at_every_size(pilot, name: str, tmp_path: Path) -> None:
    """At all three sizes, one after the other: resized while it runs."""
    differ = []
    for width, height in SIZES:
        await pilot.resize_terminal(width, height)
        await settled(pilot)
        try:
            assert_looks_as_before(pilot.app, f"{name}-{width}", tmp_path)
        except pytest.fail.Exception as failure:
            differ.append(str(failure))
    if differ:
        pytest.fail("\n".join(differ), pytrace=False)


async def test_processes(make_app, tmp_path):
    app = make_app(processes())
    async with app.run_test(size=MIDDLE) as pilot:
        await listed(pilot)
        await assert_looks_as_before_at_every_size(pilot, "processes", tmp_path)


async def test_regions(make_app, tmp_path):
    """The list, then by kind with one unfolded and switched out, then the pipe command with its choices."""
    app = regions_app(make_app)
    for command in ("zstd -3 | ssh backup 'cat > {comm}.zst'", "cat > /srv/{comm}"):
        app.store.remember(command)
    async with app.run_test(size=MIDDLE) as pilot:
        screen = await loaded(pilot)
        await pilot.press(*["down"] * 6, "space")
        await assert_looks_as_before_at_every_size(pilot, "regions", tmp_path)
        await pilot.press("g", "home", "right", "space")
        await assert_looks_as_before_at_every_size(pilot, "kinds", tmp_path)
        screen.query_one("#pipe").cursor_blink = False
        await pilot.press("g", "p", "up")
        await shows(pilot, "this host can run")
        await until(pilot, "it has been looked at", lambda: "{comm}" not in words(screen, "#pipe-check"))
        await assert_looks_as_before_at_every_size(pilot, "pipe", tmp_path)


async def test_dump_and_result(make_app, tmp_path):
    frozen, streaming = fakes.Gate(), fakes.Gate()
    app = regions_app(make_app, dump_script(frozen, streaming))
    async with app.run_test(size=MIDDLE) as pilot:
        await loaded(pilot)
        await pilot.press("d")
        screen = await on_screen(pilot, DumpScreen)
        await shows(pilot, "target stands still")
        await assert_looks_as_before_at_every_size(pilot, "frozen", tmp_path)
        frozen.open()
        await until(pilot, "half of it", lambda: "512.00 KiB of" in words(screen, "#figures"))
        await shows(pilot, "not bold")
        await assert_looks_as_before_at_every_size(pilot, "streaming", tmp_path)
        await pilot.press("q")
        await on_screen(pilot, ConfirmScreen)
        await settled(pilot)
        assert_looks_as_before(app, "question", tmp_path)
        streaming.open()
        await on_screen(pilot, ResultScreen)
        await assert_looks_as_before_at_every_size(pilot, "result", tmp_path)


# states, at one size -----------------------------------------------------------------------------------------------


async def test_a_process_that_cannot_be_dumped_and_nothing_found(make_app, tmp_path):
    app = make_app(processes())
    async with app.run_test(size=MIDDLE) as pilot:
        screen = await listed(pilot)
        listing(app, "#processes").move_to(1187)
        await until(pilot, "its details", lambda: "traced by gdb" in words(screen, "#details"))
        assert_looks_as_before(app, "refused", tmp_path)
        screen.query_one("#filter").cursor_blink = False
        await pilot.press("slash", *"perl")
        await shows(pilot, "no process matches 'perl'")
        await settled(pilot)
        assert_looks_as_before(app, "nothing-found", tmp_path)


async def test_help_and_palette(make_app, tmp_path):
    app = regions_app(make_app)
    async with app.run_test(size=MIDDLE) as pilot:
        await loaded(pilot)
        await pilot.press("question_mark")
        await on_screen(pilot, HelpScreen)
        assert_looks_as_before(app, "help", tmp_path)
        await pilot.press("escape", "ctrl+p")
        palette = await until(pilot, "it", lambda: isinstance(app.screen, CommandPalette) and app.screen)
        palette.query_one("CommandInput").cursor_blink = False
        await pilot.press(*"sort")
        await shows(pilot, "Sort by touched")
        await settled(pilot)
        assert_looks_as_before(app, "palette", tmp_path)


async def test_an_engine_that_was_killed(make_app, tmp_path):
    app = regions_app(make_app, [*dump_script()[:-2], Ended(137, "SIGKILL")])
    async with app.run_test(size=MIDDLE) as pilot:
        await loaded(pilot)
        await pilot.press("d")
        await on_screen(pilot, ResultScreen)
        await settled(pilot)
        assert_looks_as_before(app, "killed", tmp_path)


async def test_a_process_that_has_gone(make_app, tmp_path):
    def gone(pid, options):
        raise NoSuchProcessError(f"process {pid} does not exist or ended", "ps -e | less   # find the process")

    app = make_app(pid=fakes.FIRST_PID, load=gone)
    async with app.run_test(size=MIDDLE) as pilot:
        await on_screen(pilot, RegionsScreen)
        await shows(pilot, "does not exist or ended")
        await settled(pilot)
        assert_looks_as_before(app, "gone", tmp_path)


async def test_themes(make_app, tmp_path):
    app = regions_app(make_app)
    async with app.run_test(size=MIDDLE) as pilot:
        await loaded(pilot)
        await pilot.press(*["down"] * 6, "space")
        for theme in ("corepipe-light", "corepipe-colorblind", "corepipe-contrast"):
            app.theme = theme
            await settled(pilot)
            assert_looks_as_before(app, theme, tmp_path)


async def test_without_colours(make_app, monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    app = regions_app(make_app)
    async with app.run_test(size=MIDDLE) as pilot:
        await loaded(pilot)
        await pilot.press(*["down"] * 6, "space")
        await settled(pilot)
        assert_looks_as_before(app, "no-color", tmp_path)


async def test_hostile_names(make_app, tmp_path):
    age = fakes.time.time() - 7.5 * 3600
    rows = [
        fakes.row(index, name=data, command=data, user=data, started=age) for index, data in enumerate(fakes.HOSTILE)
    ]
    provider = fakes.FakeProcesses(rows)
    app = make_app(provider)
    async with app.run_test(size=MIDDLE) as pilot:
        await on_screen(pilot, ProcessScreen)
        await until(pilot, "the list", lambda: listing(app, "#processes").rows)
        await pilot.press("down", "down", "down")
        await until(pilot, "the details", lambda: "does not exist" in words(app.screen, "#details"))
        await settled(pilot)
        assert_looks_as_before(app, "hostile-names", tmp_path)


async def test_a_picture_that_differs_is_told_with_its_lines(make_app, tmp_path):
    if os.environ.get("COREPIPE_SNAPSHOTS") == "new":
        return
    app = make_app(processes())
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(pilot)
        await pilot.press("Z")
        assert "paused" in screen_text(app)
        with pytest.raises(pytest.fail.Exception, match="paused"):
            assert_looks_as_before(app, "processes-80", tmp_path)
        assert (tmp_path / "processes-80.svg").exists()
