"""The application: what was asked for on the command line, and which screen comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.theme import Theme

from corepipe_engine.options import DumpOptions
from corepipe_engine.sink import Invoker, sudo_invoker

from .processes import HostProcesses, ProcessProvider
from .runner import DumpRequest, EngineRun, Outcome
from .screens.base import CorepipeScreen
from .screens.confirm import ConfirmScreen
from .screens.dump import DumpScreen
from .screens.help import HelpScreen
from .screens.processes import ProcessScreen
from .screens.regions import RegionsScreen
from .selection import Selection, load_selection
from .store import Store
from .themes import DEFAULT, THEMES

REFRESH_SECONDS = 2.0


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
        Binding("ctrl+z", "suspend_process", "Suspend", show=False, id="suspend"),
    ]

    class Settled(Message):
        """A worker has read which theme was chosen."""

        def __init__(self, theme: str) -> None:
            super().__init__()
            self.theme = theme

    def __init__(
        self,
        settings: Settings,
        provider: ProcessProvider | None = None,
        start_engine: Callable[..., EngineRun] = EngineRun,
        load_selection: Callable[[int, DumpOptions], Selection] = load_selection,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.provider = provider or HostProcesses()
        self.start_engine = start_engine
        self.load_selection = load_selection
        self.outcome: Outcome | None = None
        self.leaving = False
        self._caller = caller = sudo_invoker()
        self.invoker: Invoker | None = None if settings.pipe_as_root else caller
        self.store = Store(caller)
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = self._kept_theme = DEFAULT

    def on_mount(self) -> None:
        """Go to the first screen."""
        self.theme_changed_signal.subscribe(self, self._keep_theme)
        self._settle()
        settings = self.settings
        if settings.straight:
            self.push_screen(DumpScreen(self.request(settings.pid, settings.pipe, settings.options)))
        elif settings.pid:
            self.push_screen(RegionsScreen(settings.pid))
        else:
            self.push_screen(ProcessScreen())

    # themes, palette -----------------------------------------------------------------------------------------------

    @work(thread=True, exit_on_error=False)
    def _settle(self) -> None:
        self.post_message(self.Settled(self.store.theme()))

    def on_corepipe_app_settled(self, message: Settled) -> None:
        """Take the theme that was chosen in an earlier run."""
        if message.theme in self.available_themes and self.theme == DEFAULT:
            self._kept_theme = message.theme
            self.theme = message.theme

    def _keep_theme(self, theme: Theme) -> None:
        if theme.name != self._kept_theme:
            self._kept_theme = theme.name
            self._store_theme(theme.name)

    @work(thread=True, exclusive=True, group="theme", exit_on_error=False)
    def _store_theme(self, name: str) -> None:
        self.store.keep_theme(name)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """See App: all that the screen below can do, with its keys; themes; the screen's own additions."""
        seen = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            moves = not binding.id or binding.id.startswith("list.")
            if not moves and binding.description and binding.description not in seen and active.enabled:
                seen.add(binding.description)
                key = binding.key_display or self.get_key_display(binding)
                yield SystemCommand(
                    binding.description, f"key {key}", partial(self.run_action, binding.action, active.node)
                )
        if isinstance(screen, CorepipeScreen):
            for words, about, callback in screen.palette():
                yield SystemCommand(words, about, callback)
        yield SystemCommand("Theme", "choose the colours; kept for the next time", self.action_change_theme)

    # what screens ask for ------------------------------------------------------------------------------------------

    def request(self, pid: int, pipe: str, options: DumpOptions) -> DumpRequest:
        """Return the order for a dump; pipe is expanded already."""
        settings = self.settings
        return DumpRequest(pid, pipe, options, settings.strict, settings.pipe_as_root, settings.report)

    @property
    def by_sudo(self) -> bool:
        """True where the same takes sudo on the command line: for one who is root already it need not exist."""
        return self._caller is not None

    def action_help(self) -> None:
        """Show the keys of the current screen."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def exit(self, *arguments: Any, **options: Any) -> None:
        """See App; from now on keys do nothing: a screen that came up now would find nothing to stand on."""
        self.leaving = True
        super().exit(*arguments, **options)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """See App."""
        return not self.leaving

    async def action_quit(self) -> None:
        """End the program; a dump that runs is asked about first."""
        dump = next((screen for screen in self.screen_stack if isinstance(screen, DumpScreen) and screen.running), None)
        if dump is None:
            self.exit(self.outcome.exit_code if self.outcome else 0)
        elif not isinstance(self.screen, ConfirmScreen):
            dump.action_quit_dump()
