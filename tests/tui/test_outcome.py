"""How a dump ended, told from what the engine said."""

from __future__ import annotations

import pytest

from corepipe_engine.events import Failed, Finished
from corepipe_tui.runner import Ended, Outcome
from corepipe_tui.screens.result import facts

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


# what the result says of it ------------------------------------------------------------------------------------------


def words_of(outcome, pipe="cat >/dev/null", expected=None):
    return "\n".join(f"{label}: {text}" for label, text in facts(outcome, pipe, expected))


def test_bytes_as_foretold_need_no_further_word():
    told = words_of(outcome_of(Finished(0, report()), Ended(0)), expected=1 << 20)
    assert "core: 1,048,576 bytes" in told
    assert "shown before" not in told


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ((1 << 20) - 4096, "4,096 bytes more than 1,044,480 shown before: the target grew"),
        ((1 << 20) + 1, "1 byte less than 1,048,577 shown before: the target shrank"),
    ],
)
def test_a_core_that_is_not_as_large_as_foretold_says_what_changed_and_by_how_much(expected, says):
    assert says in words_of(outcome_of(Finished(0, report()), Ended(0)), expected=expected)


def test_a_core_that_is_not_whole_says_how_much_of_it_there_is():
    told = words_of(outcome_of(Finished(5, report(exit_code=5, bytes_written=512)), Ended(5)))
    assert "core: 512 bytes of 1,048,576 planned" in told


@pytest.mark.parametrize("items", [(Ended(137, "SIGKILL"),), (Finished(5, report(exit_code=5)), Ended(5))])
def test_the_file_of_a_dump_that_failed_is_said_to_be_no_core(tmp_path, items):
    (tmp_path / "core").write_bytes(bytes(2048))
    told = words_of(outcome_of(*items), f"cat > {tmp_path}/core")
    assert f"file: 2.00 KiB, no whole core  {tmp_path}/core" in told
    assert "ratio" not in told


def test_what_was_left_out_is_told_to_the_last_byte():
    omitted = {f"reason {number}": (1, (20 - number) << 20) for number in range(12)}
    told = words_of(outcome_of(Finished(0, report(omitted=omitted)), Ended(0)))
    assert "20.0M      1 x  reason 0" in told
    assert "42.0M      4 x  for 4 other reasons; --report has them all" in told
