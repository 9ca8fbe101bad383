"""errors.py: what the host refuses is told in words, and what nobody foresaw in one line."""

from __future__ import annotations

import errno
import os

import pytest

from corepipe_engine.errors import ExitCode, NoSuchProcessError, in_words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "ran out of memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "ran out of memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "open no more files"),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), "open no more files"),
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "start no more threads or processes"),
        (RuntimeError("can't start new thread"), "start no more threads or processes"),
        (RuntimeError("something else"), "internal error: RuntimeError: something else"),
        (OSError(errno.EIO, "I/O"), "internal error: OSError: [Errno 5] I/O"),
        (KeyError("x"), "internal error: KeyError: 'x'"),
    ],
)
def test_every_error_is_a_failed_dump_in_words(error: Exception, words: str) -> None:
    told = in_words(error)
    assert words in told.message
    assert told.message.endswith("; the target runs")
    assert told.hint
    assert told.exit_code is ExitCode.FAILED


def test_an_error_in_words_stays_as_it_is() -> None:
    error = NoSuchProcessError("gone")
    assert in_words(error) is error
