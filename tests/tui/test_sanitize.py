"""Text of a target is harmless on the screen and in a shell."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from corepipe_tui.sanitize import SHOWN_CHARACTERS, clean, fit, quote, safe_word

from .fakes import HOSTILE

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_BYTES = st.binary().map(lambda data: data.replace(b"\0", b"\x01"))


def _through_bash(word: str) -> bytes:
    command = ["bash", "--norc", "-c", f"printf %s {word}"]
    return subprocess.run([word.encode() for word in command], stdout=subprocess.PIPE, check=True).stdout


@settings(deadline=None, max_examples=60)
@given(st.one_of(_TEXT, _BYTES))
def test_a_quoted_word_is_read_back_by_bash_as_the_same_bytes(text):
    quoted = quote(text)
    assert quoted.isprintable()
    assert _through_bash(quoted) == (text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("data", HOSTILE[:5] + HOSTILE[6:])
def test_hostile_names_are_quoted_to_themselves(data):
    assert _through_bash(quote(data)) == data


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary()))
def test_cleaned_text_is_printable_and_shows_no_control_character(text):
    shown = clean(text)
    assert shown.isprintable()
    assert "\x1b" not in shown
    assert "\n" not in shown


def test_cleaned_text_is_itself_where_it_was_harmless():
    assert clean("[heap]") == "[heap]"
    assert clean("/usr/lib/größe/日本".encode()) == "/usr/lib/größe/日本"


def test_what_harms_becomes_an_escape():
    assert clean(b"\x1b[2J") == r"\x1b[2J"
    assert clean(b"\xff") == r"\xff"
    assert clean("\u202e") == r"\u202e"
    assert clean("a\nb") == r"a\nb"


def test_long_text_is_cut_with_an_ellipsis():
    assert clean("x" * 100_000) == "x" * SHOWN_CHARACTERS + "…"
    assert len(clean(b"\xff" * 100_000)) <= 4 * SHOWN_CHARACTERS + 1


@settings(deadline=None)
@given(st.text().map(clean), st.integers(0, 40), st.booleans())
def test_fitted_text_is_exactly_as_wide_as_asked_for(text, width, right):
    assert cell_len(fit(text, width, right)) == width


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_a_safe_word_means_nothing_to_a_shell_and_is_a_file_name(text):
    word = safe_word(text)
    assert quote(word) == word
    assert word not in ("", ".", "..")
    assert not word.startswith("-")
    assert "/" not in word
