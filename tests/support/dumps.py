"""A dump with all that every dump must keep, in the mode a test asks for or the one that `auto` takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .checks import assert_target_untouched
from .cores import Core, assert_well_formed, pattern
from .engine import assert_nothing_left, run_corepipe
from .targets import Target

AREA_BYTES = 4 * 4096
"""A target that tells of an `area` has at least that much of the pattern there."""


TABLE = "threads and targets"


def in_both_modes(row: str, *others: str):
    """Run a test with mode `direct` and `snapshot`, and with others that have no column in the README's table."""
    cells = [pytest.param(mode, marks=pytest.mark.tells(TABLE, row, mode)) for mode in ("direct", "snapshot")]
    return pytest.mark.parametrize("mode", [*cells, *others])


def tells_of_both_modes(row: str):
    """Mark a test that is of no mode."""

    def mark(test):
        return pytest.mark.tells(TABLE, row, "snapshot")(pytest.mark.tells(TABLE, row, "direct")(test))

    return mark


def dump(target: Target, folder: Path, *arguments: object, **options):
    """Dump, check what every dump must leave behind, and return (core, report, standard error)."""
    before = target.fingerprint()
    report = folder / "report.json"
    outcome = run_corepipe(target.pid, *arguments, "--report", report, output=folder / "core", **options)
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)
    assert "zombie" not in outcome.stderr
    core = Core(folder / "core")
    assert_well_formed(core)
    if "area" in target.facts:
        assert core.read(target.number("area"), AREA_BYTES) == pattern(AREA_BYTES)
    return core, outcome.report(report), outcome.stderr


def assert_snapshot(target: Target, folder: Path, **options) -> Core:
    """`auto` takes a snapshot at once."""
    core, report, _ = dump(target, folder, **options)
    assert (report["mode"], report["fallbacks"]) == ("snapshot", [])
    return core


def assert_falls_back(target: Target, folder: Path, reason: str, **options) -> Core:
    """`auto` says why in one line and takes buffer; `--mode snapshot` says the same and ends with 1.

    reason: a regular expression.
    """
    core, report, errors = dump(target, folder, **options)
    assert report["mode"] == "buffer"
    (line,) = report["fallbacks"]
    assert line.startswith("no snapshot: ")
    assert re.search(reason, line)
    assert "\n" not in line
    assert line in errors
    before = target.fingerprint()
    outcome = run_corepipe(target.pid, "--mode", "snapshot", check=1, **options)
    assert re.search(reason, outcome.stderr)
    assert_target_untouched(target, before)
    assert_nothing_left(outcome.pid)
    return core
