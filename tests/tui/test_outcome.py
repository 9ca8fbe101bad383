"""How a dump ended, told from what the engine said."""

from __future__ import annotations

import pytest

from corepipe_engine.events import Failed, Finished
from corepipe_tui.runner import Ended, Outcome

from .fakes import report


def outcome_of(*items):
    outcome = Outcome()
    for item in items:
        outcome.take(item)
    return outcome


def test_a_good_end():
    outcome = outcome_of(Finished(0, report()), Ended(0))
    assert (outcome.exit_code, outcome.error) == (0, "")


def test_a_failure_keeps_message_hint_and_status():
    outcome = outcome_of(Failed("no", "do this", 5), Finished(5, report(exit_code=5)), Ended(5))
    assert (outcome.exit_code, outcome.error, outcome.hint) == (5, "no", "do this")


def test_an_engine_that_was_killed_is_a_failed_dump():
    outcome = outcome_of(Ended(137, "SIGKILL", "", forced=False))
    assert outcome.exit_code == 1
    assert "SIGKILL" in outcome.error
    assert outcome.hint


def test_an_engine_that_we_killed_was_interrupted():
    outcome = outcome_of(Ended(137, "SIGKILL", "", forced=True))
    assert outcome.exit_code == 130
    assert "by force" in outcome.error


def test_an_engine_that_ended_before_it_could_be_killed_ended_as_it_says():
    outcome = outcome_of(Finished(0, report()), Ended(0, "", "", forced=True))
    assert outcome.exit_code == 0


@pytest.mark.parametrize(("code", "status"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_an_engine_without_a_last_word_tells_by_what_it_printed(code, status):
    outcome = outcome_of(Ended(code, "", "Traceback\ncorepipe: the last line\n"))
    assert (outcome.exit_code, outcome.error) == (status, "corepipe: the last line")


def test_an_engine_that_said_nothing_at_all_is_a_failure():
    assert outcome_of(Ended(0)).exit_code == 1
    assert "without a word" in outcome_of(Ended(0)).error
