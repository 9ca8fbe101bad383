"""The application: what was asked for on the command line, and which screen comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.theme import Theme

from corepipe_engine.options import DumpOptions
from corepipe_engine.sink import Invoker, sudo_invoker

from .processes import HostProcesses, ProcessProvider
from .runner import DumpRequest, EngineRun, Outcome
from .screens.confirm import ConfirmScreen
from .screens.dump import DumpScreen
from .screens.help import HelpScreen
from .screens.processes import ProcessScreen
from .screens.regions import RegionsScreen

REFRESH_SECONDS = 2.0
THEME = Theme(
    name="corepipe",
    primary="#2F6FA7",
    secondary="#56B4E9",
    accent="#E69F00",
    foreground="#D8DEE9",
    background="#10141A",
    surface="#141922",
    panel="#1D2430",
    success="#3FB68B",
    warning="#E69F00",
    error="#E5604D",
    dark=True,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asked for. pid 0 stands for: pick one; pipe "" for: suggest one."""

    pid: int = 0
    pipe: str = ""
    options: DumpOptions = field(default_factory=DumpOptions)
    strict: bool = False
    pipe_as_root: bool = False
    report: str = ""
    read_only: bool = False
    refresh_seconds: float = REFRESH_SECONDS

    @property
    def straight(self) -> bool:
        """True where the dump starts at once and the program ends with it."""
        return bool(self.pid and self.pipe)


class CorepipeApp(App[int]):
    """corepipe-tui. run() returns the exit status; outcome is that of the last dump."""

    TITLE = "corepipe"
    CSS_PATH = "styles/app.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Keys", key_display="?", id="help"),
        Binding("f1", "help", "Keys", show=False, id="help.f1"),
        Binding("ctrl+q", "quit", "Quit", show=False, id="quit"),
    ]

    def __init__(
        self,
        settings: Settings,
        provider: ProcessProvider | None = None,
        start_engine: Callable[..., EngineRun] = EngineRun,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.provider = provider or HostProcesses()
        self.start_engine = start_engine
        self.outcome: Outcome | None = None
        self.invoker: Invoker | None = None if settings.pipe_as_root else sudo_invoker()
        self.register_theme(THEME)
        self.theme = "corepipe"

    def on_mount(self) -> None:
        """Go to the first screen."""
        settings = self.settings
        if settings.straight:
            self.push_screen(DumpScreen(self.request(settings.pid, settings.pipe, settings.options)))
        elif settings.pid:
            self.push_screen(RegionsScreen(settings.pid))
        else:
            self.push_screen(ProcessScreen())

    def request(self, pid: int, pipe: str, options: DumpOptions) -> DumpRequest:
        """Return the order for a dump; pipe is expanded already."""
        settings = self.settings
        return DumpRequest(pid, pipe, options, settings.strict, settings.pipe_as_root, settings.report)

    def action_help(self) -> None:
        """Show the keys of the current screen."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    async def action_quit(self) -> None:
        """End the program; a dump that runs is asked about first."""
        dump = next((screen for screen in self.screen_stack if isinstance(screen, DumpScreen) and screen.running), None)
        if dump is None:
            self.exit(self.outcome.exit_code if self.outcome else 0)
        elif not isinstance(self.screen, ConfirmScreen):
            dump.action_quit_dump()
