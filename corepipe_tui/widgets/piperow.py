"""The pipe command: an input with what was used before and what this host can run, and a line that says what is known
of the command. Nothing here runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.timer import Timer
from textual.widgets import Input, Static

from corepipe_engine.errors import CorepipeError
from corepipe_engine.sink import check_syntax

from .. import format as fmt
from ..pipes import Destination, destination, expand, run_as, shell, suggestions, unfilled
from ..sanitize import clean, fit
from ..styled import MUTED, refused

if TYPE_CHECKING:
    from ..app import CorepipeApp

_CHECK_DELAY_SECONDS = 0.15
_SHOWN_CHOICES = 8
_PARSE_PREFIX = "the shell cannot parse the pipe command: "
_USED, _OFFERED = "↺", "+"


@dataclass(frozen=True, slots=True)
class PipeCheck:
    """A pipe command as typed, expanded for a process, what is wrong with it (empty: nothing), where it writes to."""

    text: str
    command: str
    error: str
    destination: Destination | None


class PipeInput(Input):
    """The pipe command; up and down go through the choices."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Dump", id="pipe.dump"),
        Binding("up", "choose(-1)", "History", key_display="↑↓", id="pipe.previous"),
        Binding("down", "choose(1)", "History", show=False, key_display="↑↓", id="pipe.next"),
    ]

    class Choose(Message):
        """Another choice is wanted: the one above (-1) or below (1)."""

        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step

    def action_choose(self, step: int) -> None:
        """Ask for the choice above or below."""
        self.post_message(self.Choose(step))


class PipeChoices(Static):
    """The choices, drawn over what is above the input; the one that is in the input is marked."""

    DEFAULT_CSS = """
    PipeChoices {
        overlay: screen; height: auto; width: 100%; padding: 0 1; display: none;
        background: $panel; color: $foreground; border-top: solid $primary 60%; border-title-color: $foreground 55%;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """

    class Picked(Message):
        """A click on a choice."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, markup=False)
        self.border_title = Content(f"{_USED} used before   {_OFFERED} this host can run")
        self._first = 0

    def show(self, choices: Sequence[tuple[str, str]], chosen: int) -> None:
        """Show choices (sign, command), as many as there is room for, around the chosen one (-1 for none)."""
        room = max(min(_SHOWN_CHOICES, self.screen.size.height - 10), 1)
        middle = chosen if chosen >= 0 else len(choices) - 1
        self._first = min(max(middle - room // 2, 0), max(len(choices) - room, 0))
        lines = []
        for index, (sign, command) in list(enumerate(choices))[self._first : self._first + room]:
            mark, style = ("▸", "bold $text on $primary") if index == chosen else (" ", "")
            text = fit(f"{mark}{sign} {clean(command)} ", max(self.screen.size.width - 2, 4))
            lines.append(Content.styled(text, style))
        self.update(Content("\n").join(lines))
        self.styles.offset = (0, -len(lines) - 2)  # the line with the totals stays in sight

    def on_click(self, event: events.Click) -> None:
        """Take the choice under the mouse."""
        if event.y >= 1:
            self.post_message(self.Picked(self._first + event.y - 1))


class PipeRow(Vertical):
    """Label and input; the choices above them while the input has the focus; below what is known of the command."""

    DEFAULT_CSS = "PipeRow { height: auto; }"

    class Wanted(Message):
        """A dump into this command is wanted; it has been looked at and nothing is wrong with it."""

        def __init__(self, check: PipeCheck) -> None:
            super().__init__()
            self.check = check

    class Checked(Message):
        """A worker has looked at a command."""

        def __init__(self, check: PipeCheck, *, wanted: bool) -> None:
            super().__init__()
            self.check = check
            self.wanted = wanted

    class Recalled(Message):
        """A worker has read the history."""

        def __init__(self, commands: list[str]) -> None:
            super().__init__()
            self.commands = commands

    def __init__(self, command: str, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._offered = suggestions()
        self._command = command or self._offered[0]
        self._history: list[str] = []
        self._draft = self._command
        self._chosen: str | None = None
        self._timer: Timer | None = None
        self._target: tuple[int, str] | None = None
        self.core_bytes = 0
        """What the free space is measured against."""

    def compose(self) -> ComposeResult:
        """Choices, label and input, what is known."""
        yield PipeChoices(id="pipe-choices")
        with Horizontal(id="pipe-row"):
            yield Static("pipe ▸", id="pipe-label", markup=False)
            yield PipeInput(
                self._command, suggester=SuggestFromList(self._offered, case_sensitive=True), id="pipe", compact=True
            )
        yield Static("", id="pipe-check", markup=False)

    def on_mount(self) -> None:
        """Begin to read the history."""
        self._recall()

    @property
    def input(self) -> PipeInput:
        """The input."""
        return self.query_one(PipeInput)

    @property
    def _corepipe(self) -> CorepipeApp:
        return cast("CorepipeApp", self.app)

    # choices -------------------------------------------------------------------------------------------------------

    @work(thread=True, exclusive=True, group="history", exit_on_error=False)
    def _recall(self, used: str = "") -> None:
        store = self._corepipe.store
        self.post_message(self.Recalled(store.remember(used) if used else store.history()))

    def on_pipe_row_recalled(self, message: Recalled) -> None:
        """Offer what was used before, newest first."""
        self._history = message.commands
        known = [command for _, command in reversed(self._choices())]
        self.input.suggester = SuggestFromList(known, case_sensitive=True)
        self._show_choices()

    def remember(self, command: str) -> None:
        """Put a command into the history: a dump into it begins."""
        self._recall(command)

    def _choices(self) -> list[tuple[str, str]]:
        """Return all choices from top to bottom: the newest command is the lowest, next to the input."""
        offered = [command for command in reversed(self._offered) if command not in self._history]
        return [(_OFFERED, command) for command in offered] + [(_USED, command) for command in self._history]

    def on_descendant_focus(self) -> None:
        """The choices come with the focus."""
        self._show_choices()

    def on_descendant_blur(self) -> None:
        """And go with it."""
        self.query_one(PipeChoices).display = False

    def on_resize(self) -> None:
        """They have as much room as the screen leaves."""
        self._show_choices()

    def _show_choices(self) -> None:
        choices = self._choices()
        panel = self.query_one(PipeChoices)
        panel.display = self.input.has_focus and bool(choices)
        if panel.display:
            commands = [command for _, command in choices]
            panel.show(choices, commands.index(self.input.value) if self.input.value in commands else -1)

    def on_pipe_input_choose(self, message: PipeInput.Choose) -> None:
        """Put the choice above or below in; beyond the ends is what was typed."""
        commands = [command for _, command in self._choices()]
        if self._draft not in commands:
            commands.append(self._draft)
        value = self.input.value
        below = len(commands) - (commands[-1] == value)  # where one stands who has typed, or touched nothing yet
        position = commands.index(value) if value == self._chosen and value in commands else below
        position += message.step
        if commands[position % len(commands)] == value:
            position += message.step
        self._take(commands[position % len(commands)])

    def on_pipe_choices_picked(self, message: PipeChoices.Picked) -> None:
        """Put the clicked choice in."""
        choices = self._choices()
        if message.index < len(choices):
            self._take(choices[message.index][1])

    def _take(self, command: str) -> None:
        self._chosen = command
        self.input.value = command
        self.input.cursor_position = len(command)

    # what is known -------------------------------------------------------------------------------------------------

    def set_target(self, pid: int, comm: str, core_bytes: int) -> None:
        """Look at the command for this process, whose core has that size."""
        self._target, self.core_bytes = (pid, comm), core_bytes
        self._look_soon()

    def want(self) -> None:
        """Look at the command once more; Wanted follows if nothing is wrong with it, else the input gets the focus."""
        self._look(wanted=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Look at the command when the typing pauses."""
        event.stop()
        if event.value != self._chosen:
            self._draft = event.value
        self._show_choices()
        self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_CHECK_DELAY_SECONDS, lambda: self._look(wanted=False))

    def _look(self, *, wanted: bool) -> None:
        if self._target is not None:
            self._check(self.input.value, *self._target, wanted)

    @work(thread=True, group="check", exit_on_error=False)
    def _check(self, text: str, pid: int, comm: str, wanted: bool) -> None:
        command, error, place = expand(text, pid, comm), "", None
        try:
            check_syntax(command, shell())
            place = destination(command)
            error = unfilled(text)
        except CorepipeError as failure:
            error = clean(failure.message).removeprefix(_PARSE_PREFIX)
        self.post_message(self.Checked(PipeCheck(text, command, error, place), wanted=wanted))

    def on_pipe_row_checked(self, message: Checked) -> None:
        """Tell what is known of the command; pass it on if a dump into it was wanted."""
        check = message.check
        if check.text != self.input.value:
            return
        self._show_check(check)
        if message.wanted and check.error:
            self.screen.set_focus(self.input)
        elif message.wanted:
            self.post_message(self.Wanted(check))

    def _show_check(self, check: PipeCheck) -> None:
        line = self.query_one("#pipe-check", Static)
        if check.error:
            line.update(Content("\n").join(refused(check.error, "")))
            return
        parts = [f"runs as {run_as(self._corepipe.invoker)}"]
        place, warning = check.destination, ""
        if place is not None:  # the path last: the end may be cut
            parts.insert(0, f"{fmt.size(place.free_bytes)} free" if place.free_bytes >= 0 else "no such folder")
            parts.append(f"→ {clean(place.path)}")
            if 0 <= place.free_bytes < self.core_bytes:
                warning = "⚠ less free than the core has before compression · "
            elif place.free_bytes < 0:
                warning = "⚠ "
            elif place.exists:
                warning = "⚠ exists already · "
        line.update(Content.assemble((warning, "$text-warning"), (" · ".join(parts), MUTED)))
