"""The README's tables of what works, made by the tests that show it.

    @pytest.mark.tells("memory", "swapped-out pages", "snapshot")

puts a cell into the table `memory`, in the row and the column named; it says `yes` when every test that names the cell
passed, and `NO` when one did not. A test may say more with the fixture tell: tell("20 dumps, 81,000 requests"). Where a
row is values rather than `yes`, the fixture tell_row gives it: tell_row("programs", "nginx 1.22", {"dumps": "20"}).
`pytest --tables` rewrites the README between `<!-- tests:memory:begin -->` and `<!-- tests:memory:end -->`; a run that
leaves tests of a table out leaves their rows as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .machines import HOST

README = Path(__file__).parent.parent.parent / "README.md"
ARM_TABLE = "64-bit Arm"
"""Made on such a machine, which makes no other."""
_TOLD = pytest.StashKey[str]()
_ROWS = pytest.StashKey[list[tuple[str, str, dict[str, str]]]]()
_RANK = ("", "yes", "not here", "NO")
"""Outcomes, ascending: the highest of a cell's tests is shown. The first is of a value that stands for itself."""


@dataclass
class Table:
    """Rows and columns in the order of their first test."""

    columns: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, tuple[str, list[str]]]] = field(default_factory=dict)

    def add(self, row: str, column: str, outcome: str, told: str) -> None:
        """Note what one test showed."""
        if column not in self.columns:
            self.columns.append(column)
        before, words = self.rows.setdefault(row, {}).get(column, (_RANK[0], []))
        if told and told not in words:
            words = [*words, told]
        self.rows[row][column] = max(before, outcome, key=_RANK.index), words

    def markdown(self, name: str, old: str) -> str:
        """Return the table; what of the old one no test told of now is kept."""
        head, *lines = [line.strip("| ").split(" | ") for line in old.splitlines() if line.startswith("|")] or [[]]
        columns = [*head[1:], *(column for column in self.columns if column not in head[1:])]
        texts = {row: dict(zip(head[1:], cells, strict=False)) for row, *cells in lines[1:]}
        for row, cells in self.rows.items():
            texts.setdefault(row, {}).update({column: _text(cell) for column, cell in cells.items()})
        return "\n".join(
            [
                "| " + " | ".join([name, *columns]) + " |",
                "|---" * (1 + len(columns)) + "|",
                *(
                    "| " + " | ".join([row, *(cells.get(column, "-") for column in columns)]) + " |"
                    for row, cells in texts.items()
                ),
            ]
        )


def _text(cell: tuple[str, list[str]]) -> str:
    outcome, words = cell
    return ", ".join([outcome, *words] if outcome else words)


class Tables:
    """The plugin."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Note the outcome of a test that tells of a cell."""
        report = yield
        if report.when == "call" or report.outcome != "passed":
            outcome = {"passed": "yes", "skipped": "not here"}.get(report.outcome, "NO")
            for marker in item.iter_markers("tells"):
                table, row, column = marker.args
                if (table == ARM_TABLE) != (HOST == "aarch64"):
                    continue
                self.tables.setdefault(table, Table()).add(row, column, outcome, item.stash.get(_TOLD, ""))
            for table, row, cells in item.stash.get(_ROWS, []) if HOST != "aarch64" else ():
                for column, value in cells.items():
                    shown = ("", value) if outcome == "yes" else (outcome, "")
                    self.tables.setdefault(table, Table()).add(row, column, *shown)
        return report

    def pytest_sessionfinish(self) -> None:
        """Rewrite the README."""
        text = README.read_text()
        for name, table in self.tables.items():
            begin, end = f"<!-- tests:{name}:begin -->\n", f"\n<!-- tests:{name}:end -->"
            match = re.search(re.escape(begin) + "(.*?)" + re.escape(end), text, re.DOTALL)
            if match is None:
                raise pytest.UsageError(f"README.md has no place for the table {name}: {begin.strip()}")
            text = text[: match.start(1)] + table.markdown(name, match[1]) + text[match.end(1) :]
        README.write_text(text)


@pytest.fixture
def tell(request: pytest.FixtureRequest):
    """tell(text) puts words behind the `yes` of the cell that the test tells of."""

    def say(text: str) -> None:
        request.node.stash[_TOLD] = text

    return say


@pytest.fixture
def tell_row(request: pytest.FixtureRequest):
    """tell_row(table, row, {column: value}) puts values into a row, or what went wrong in their place."""

    def say(table: str, row: str, cells: dict[str, str]) -> None:
        request.node.stash.setdefault(_ROWS, []).append((table, row, cells))

    return say
