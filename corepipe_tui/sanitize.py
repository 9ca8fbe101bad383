"""The one door through which text of a target (names, command lines, paths) enters the screen or a shell.

Such text may hold markup, escape sequences, newlines, bidirectional marks or bytes that are no UTF-8. clean() makes
it harmless to look at; quote() and safe_word() make it harmless to a shell.
"""

from __future__ import annotations

import re
import shlex
from functools import lru_cache

from rich.cells import cell_len, set_cell_size

SHOWN_CHARACTERS = 4096
"""Longer text is cut: nobody reads more, and a command line may have a megabyte."""
_ELLIPSIS = "…"
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


def _escape(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


@lru_cache(maxsize=16384)
def clean(text: str | bytes, limit: int = SHOWN_CHARACTERS) -> str:
    r"""Return text that shows as itself and does nothing else.

    Control, format (bidirectional and zero-width) and unassigned characters, newlines included, become escapes such
    as \x1b; bytes that are no UTF-8 become \xff. What is longer than limit characters ends in an ellipsis.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "backslashreplace")
    cut = len(text) > limit
    if cut:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(map(_escape, text))
    return text + _ELLIPSIS if cut else text


def fit(text: str, width: int, right: bool = False) -> str:
    """Return text of exactly width terminal cells: padded, or cut with an ellipsis. The text must be clean."""
    length = cell_len(text)
    if length == width:
        return text
    if length > width:
        return set_cell_size(text, width - 1) + _ELLIPSIS if width > 1 else set_cell_size(text, max(width, 0))
    padding = " " * (width - length)
    return padding + text if right else text + padding


def quote(text: str | bytes) -> str:
    """Return text as one word of a shell; what cannot be shown is written in the $'...' form of bash."""
    decoded = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
    if decoded.isprintable():
        return shlex.quote(decoded)
    return "$'" + "".join(map(_ansi_c_escape, decoded)) + "'"


def _ansi_c_escape(char: str) -> str:
    if char in "'\\":
        return "\\" + char
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def safe_word(text: str) -> str:
    """Return text that is a plain word or file name in any place of any shell command: other characters become _."""
    return _UNSAFE.sub("_", text).lstrip("-.") or "_"
