"""Watch the dump: phases, stop clock, progress, throughput, what the pipe command says. Abort at any time."""

from __future__ import annotations

import time
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, Log, ProgressBar, Sparkline, Static

from corepipe_engine.events import (
    Event,
    ModeChosen,
    Notice,
    Phase,
    PhaseChanged,
    Planned,
    Progress,
    Resumed,
    SinkStderr,
    Started,
    Stopped,
)

from .. import format as fmt
from ..runner import DumpRequest, Ended, EngineRun, Outcome
from ..sanitize import clean
from ..selection import Selection
from ..styled import title
from ..widgets.clock import StopClock
from .base import CorepipeScreen
from .confirm import ConfirmScreen
from .result import ResultScreen

_SAMPLES = 240
_PATIENCE_SECONDS = 3.0
"""An engine that was asked to end and has not by then may be killed."""
_WORDS = {
    Phase.PREPARE: "prepare",
    Phase.FREEZE: "freeze",
    Phase.SNAPSHOT: "snapshot",
    Phase.COPY: "copy to memory",
    Phase.RESUME: "resume",
    Phase.STREAM: "stream",
    Phase.FINISH: "finish",
}


class DumpScreen(CorepipeScreen):
    """One dump from start to end."""

    HELP_TEXT = (
        "Aborting lets the target go first; what the pipe command made of the stream so far is not a whole core."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "abort", "Abort", id="dump.abort"),
        Binding("ctrl+c", "abort", "Abort", show=False, id="dump.interrupt"),
        Binding("q", "quit_dump", "Quit", id="dump.quit"),
        Binding("f10", "quit_dump", "Quit", show=False, id="dump.leave"),
    ]

    class EngineItem(Message):
        """Something from the engine's thread."""

        def __init__(self, item: Event | Ended) -> None:
            super().__init__()
            self.item = item

    def __init__(self, request: DumpRequest, selection: Selection | None = None) -> None:
        super().__init__()
        self.request = request
        self.selection = selection
        self.outcome = Outcome()
        self.running = True
        self._engine: EngineRun | None = None
        self._comm = clean(selection.inspection.comm) if selection else ""
        self._phases: list[tuple[Phase, float]] = []
        self._clock_offset = 0.0
        self._aborted_at: float | None = None
        self._killing = False
        self._planned = 0
        self._mode = ""
        self._rates: list[float] = []
        self._last: tuple[float, int] | None = None
        self._stream_began = 0.0
        self._stderr_open = False

    def compose(self) -> ComposeResult:
        """Title; clock and phases; progress; throughput; the command's words; keys."""
        yield Static("", id="title", markup=False)
        with Horizontal(id="dump-top"):
            yield StopClock(id="clock")
            yield Static("", id="phases", markup=False)
        yield Static("", id="aborting", markup=False)
        with Vertical(id="dump-progress"):
            yield ProgressBar(total=None, show_eta=False, id="bar")
            yield Static("nothing streamed yet", id="figures", markup=False)
        yield Sparkline([], id="throughput", classes="empty")
        yield Static("", id="mode", markup=False)
        yield Log(max_lines=2000, auto_scroll=True, id="stderr")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Start the engine."""
        log = self.query_one("#stderr", Log)
        log.can_focus = False
        log.border_title = Content(f"pipe ▸ {clean(self.request.pipe)}")
        log.border_subtitle = Content("what it prints")
        self._title()
        self.query_one("#aborting").display = False
        self.set_interval(0.1, self._tick)
        self._start()

    @work(thread=True, exit_on_error=False)
    def _start(self) -> None:
        try:
            engine = self.corepipe.start_engine(self.request, self._from_engine)
        except OSError as error:
            self._from_engine(Ended(1, stderr=f"cannot start the engine: {error.strerror}"))
            return
        self._engine = engine
        if self._aborted_at is not None:
            engine.abort()

    def _from_engine(self, item: Event | Ended) -> None:
        self.post_message(self.EngineItem(item))

    # events --------------------------------------------------------------------------------------------------------

    def on_dump_screen_engine_item(self, message: EngineItem) -> None:
        """Show what the engine tells."""
        item = message.item
        self.outcome.take(item)
        if isinstance(item, Started):
            self._comm = clean(item.comm)
            self._title()
        elif isinstance(item, PhaseChanged):
            self._clock_offset = time.monotonic() - item.at
            self._phases.append((item.phase, item.at))
            self._show_phases()
        elif isinstance(item, Stopped):
            self.query_one(StopClock).start()
        elif isinstance(item, Resumed):
            self.query_one(StopClock).stop(item.stop_seconds)
        elif isinstance(item, ModeChosen):
            self._mode = item.mode
            lines = [f"mode {item.mode}: {item.why}", *item.fallbacks]
            self.query_one("#mode", Static).update(clean(" · ".join(lines)))
        elif isinstance(item, Planned):
            self._planned = item.core_bytes
            self.query_one("#bar", ProgressBar).update(total=item.core_bytes, progress=0)
        elif isinstance(item, Progress):
            self._progress(item)
        elif isinstance(item, SinkStderr):
            self._say(item.text)
        elif isinstance(item, Notice):
            self._say(item.text + "\n")
        elif isinstance(item, Ended):
            self._ended()

    def _say(self, text: str) -> None:
        log = self.query_one("#stderr", Log)
        pieces = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            log.write(clean(piece) + ("" if last else "\n"))

    def _progress(self, item: Progress) -> None:
        if self._last is None:
            self._stream_began = item.at
        else:
            at, written = self._last
            if item.at > at:
                self._rates.append((item.bytes_written - written) / (item.at - at))
                throughput = self.query_one("#throughput", Sparkline)
                throughput.data = self._rates[-_SAMPLES:]
                throughput.remove_class("empty")
        self._last = (item.at, item.bytes_written)
        self.query_one("#bar", ProgressBar).update(progress=item.bytes_written)
        seconds = item.at - self._stream_began
        parts = [
            f"{fmt.exact_size(item.bytes_written)} of {fmt.exact_size(item.bytes_planned)}",
            fmt.rate(item.bytes_written, seconds),
        ]
        if len(self._rates) > 1:
            parts.append(f"peak {fmt.size(max(self._rates))}/s")
        if item.bytes_written and seconds > 1 and item.bytes_written < item.bytes_planned:
            remaining = (item.bytes_planned - item.bytes_written) * seconds / item.bytes_written
            parts.append(f"{fmt.duration(remaining)} left")
        self.query_one("#figures", Static).update("  ·  ".join(parts))

    def _title(self) -> None:
        verb = "dumping" if self.running else "dumped"
        self.query_one("#title", Static).update(title(f"{verb} {self._comm or 'process'} ({self.request.pid})"))

    def _tick(self) -> None:
        if self.running:
            self._show_phases()
            self._show_aborting()

    def _show_aborting(self) -> None:
        if self._aborted_at is None:
            return
        line = self.query_one("#aborting", Static)
        line.display = True
        if self._killing:
            text = "killing the engine and the pipe command; the kernel lets the target go"
        elif time.monotonic() - self._aborted_at < _PATIENCE_SECONDS:
            text = "aborting: the target is let go first, then the pipe command is ended"
        else:
            text = "the engine has not ended yet; Esc once more kills it, and the kernel lets the target go"
        line.update(Content.styled(f"■ {text}", "bold $text-warning"))

    def _show_phases(self) -> None:
        lines = []
        for index, (phase, at) in enumerate(self._phases):
            last = index == len(self._phases) - 1
            end = time.monotonic() - self._clock_offset if last else self._phases[index + 1][1]
            if last and not self.running:
                mark, style = "✓", "$text-success"
            else:
                mark, style = ("▸", "bold $text-warning") if last else ("✓", "$text-success")
            lines.append(Content.assemble((f"{mark} ", style), f"{_WORDS[phase]:<15}", f"{max(end - at, 0):8.3f} s"))
        self.query_one("#phases", Static).update(Content("\n").join(lines))

    # the end -------------------------------------------------------------------------------------------------------

    def action_abort(self) -> None:
        """Let the target go and end the dump; once more, if the engine has not ended by then, kills it."""
        if not self.running:
            return
        now = time.monotonic()
        if self._aborted_at is None:
            self._aborted_at = now
            if self._engine is not None:
                self._engine.abort()
        elif self._engine is not None and now - self._aborted_at >= _PATIENCE_SECONDS:
            self._killing = True
            self._engine.kill()
        self._show_aborting()

    def action_quit_dump(self) -> None:
        """Ask, then abort and leave."""
        if self.quit_after:
            self.action_abort()
            return
        question = "A dump is running. Abort it and quit? The target is let go first."
        self.app.push_screen(ConfirmScreen(question, "Abort and quit", "Go on"), self._quit_answered)

    def _quit_answered(self, yes: bool | None) -> None:
        if yes and self.running:
            self.quit_after = True
            self.action_abort()
        elif yes:
            self.app.exit(self.outcome.exit_code)

    quit_after = False

    def _ended(self) -> None:
        self.running = False
        self.query_one(StopClock).gone()
        self._title()
        self._show_phases()
        self.corepipe.outcome = self.outcome
        if self.corepipe.settings.straight or self.quit_after:
            self.app.exit(self.outcome.exit_code)
            return
        result = ResultScreen(self.request, self.outcome, self._comm, self.selection)
        while self.app.screen is not self:  # a question, the keys, the palette
            self.app.pop_screen()
        self.app.switch_screen(result)
