"""Driving the application with Pilot: wait for conditions, read the screen as a person does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static

from corepipe_tui.widgets.listing import Listing

from ..support.waiting import PATIENCE_SECONDS

T = TypeVar("T")


async def until(pilot: Pilot[Any], what: str, condition: Callable[[], T]) -> T:
    """Return the first true value of condition(); fail with what was waited for if it does not come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        await pilot.pause()
        try:
            value = condition()
        except Exception as error:
            if type(error).__name__ not in ("NoMatches", "ScreenStackError"):
                raise
            value = None  # the screen is not there yet
        if value:
            return value  # type: ignore[return-value]
        assert time.monotonic() < deadline, f"waited in vain: {what}\n{screen_text(pilot.app)}"
        await asyncio.sleep(0.02)


_MARKS = {
    "ProcessScreen": "COMMAND",
    "RegionsScreen": "pipe ▸",
    "DumpScreen": "what it prints",
    "ResultScreen": "WHAT TO TYPE NEXT",
    "ConfirmScreen": "(n)",
    "HelpScreen": " Keys",
}


async def on_screen(pilot: Pilot[Any], kind: type[Screen[Any]]) -> Any:
    """Wait until a screen of that class is there and drawn, and return it."""
    app = pilot.app
    screen = await until(pilot, f"a {kind.__name__}", lambda: isinstance(app.screen, kind) and app.screen)
    mark = _MARKS[kind.__name__]
    await until(pilot, f"a picture of it with {mark!r}", lambda: app.screen is not screen or mark in screen_text(app))
    return screen


def screen_text(app: App[Any]) -> str:
    """The characters on the screen, line by line."""
    strips = app.screen._compositor.render_strips(app.screen.size)
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def shows(pilot: Pilot[Any], text: str) -> str:
    """Wait until the screen holds a text; return the whole screen."""
    return await until(pilot, f"{text!r} on the screen", lambda: text in (seen := screen_text(pilot.app)) and seen)


def words(screen: Screen[Any], selector: str) -> str:
    """The text of a Static."""
    return str(screen.query_one(selector, Static).render())


def listing(app: App[Any], selector: str) -> Listing[Any]:
    return app.screen.query_one(selector, Listing)
