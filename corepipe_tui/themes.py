"""How it looks: themes of its own beside those of Textual. No state is told by their colours alone."""

from __future__ import annotations

from textual.theme import Theme

DEFAULT = "corepipe"

THEMES = (
    Theme(
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
    ),
    Theme(
        name="corepipe-light",
        primary="#2F6FA7",
        secondary="#0072B2",
        accent="#9A6400",
        foreground="#1F2733",
        background="#FFFFFF",
        surface="#F7F8FA",
        panel="#E8ECF1",
        success="#1B7A57",
        warning="#9A6400",
        error="#B93826",
        dark=False,
    ),
    # Blue, yellow and vermilion of Okabe and Ito: told apart with any colour vision, and by their lightness.
    Theme(
        name="corepipe-colorblind",
        primary="#0072B2",
        secondary="#56B4E9",
        accent="#F0E442",
        foreground="#E6E6E6",
        background="#0E1116",
        surface="#12161D",
        panel="#1C222C",
        success="#56B4E9",
        warning="#F0E442",
        error="#D55E00",
        dark=True,
    ),
    Theme(
        name="corepipe-contrast",
        primary="#005FAF",
        secondary="#5FD7FF",
        accent="#FFD75F",
        foreground="#FFFFFF",
        background="#000000",
        surface="#000000",
        panel="#262626",
        success="#5FFFAF",
        warning="#FFD75F",
        error="#FF8787",
        dark=True,
    ),
)
