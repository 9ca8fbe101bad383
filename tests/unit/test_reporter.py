"""reporter.py: people and programs are told, and neither can hold up a dump or be harmed by what a target is called."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepipe_engine import reporter as reporter_module
from corepipe_engine.events import Event, Failed, Finished, ModeChosen, Notice, Progress, SinkStderr, Started
from corepipe_engine.report import Report
from corepipe_engine.reporter import Console, Reporter, format_bytes, format_rate, printable, summary

PATIENCE_SECONDS = 60.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass


def shown(event: Event, verbosity: int = 0) -> str:
    read_fd, write_fd = os.pipe()
    Console(write_fd, verbosity).show(event)
    os.close(write_fd)
    data = b""
    while piece := os.read(read_fd, 65536):
        data += piece
    os.close(read_fd)
    return data.decode()


def until(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@given(st.text(st.characters(), max_size=200))
def test_no_text_of_foreign_origin_controls_the_terminal(text: str) -> None:
    harmless = printable(text)
    assert all(char.isprintable() or char in "\n\t" for char in harmless)
    harmless.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\x08", "\u202e", "\u200b", "\ud800", "\x00", "\x7f"]
)
def test_escapes_become_visible(text: str) -> None:
    assert text[0] not in printable(text)
    assert printable(text).startswith("\\")


@pytest.mark.parametrize("verbosity", [-1, 0, 1])
@pytest.mark.parametrize(
    "event",
    [
        SinkStderr("\x1b]0;title\x07"),
        Failed("no \x1b[1m", "try \x1b[2m", 1),
        Notice("\x1b[3m"),
        ModeChosen("direct", "why", ["\x1b[4m"]),
        Finished(0, Report(version="1", pid=7, comm="\x1b[5m", stop_seconds=0.1, stream_seconds=1.0).to_dict()),
    ],
)
def test_the_console_passes_no_escape_on(event: Event, verbosity: int) -> None:
    assert "\x1b" not in shown(event, verbosity)


def test_quiet_shows_errors_and_what_the_command_prints_alone() -> None:
    assert shown(Failed("it failed", "do this", 1), -1) == "corepipe: it failed\n  try: do this\n"
    assert shown(SinkStderr("zstd: warning\n"), -1) == "zstd: warning\n"
    for event in (Notice("n"), ModeChosen("direct", "why", ["no buffer"]), Finished(0, Report("1", 7).to_dict())):
        assert shown(event, -1) == ""


def test_a_fallback_is_told_without_being_asked() -> None:
    assert shown(ModeChosen("direct", "last resort", ["no buffer: too little"])).splitlines() == [
        "corepipe: no buffer: too little",
        "corepipe: mode direct: last resort",
    ]
    assert shown(ModeChosen("buffer", "why")) == ""
    assert "buffer" in shown(ModeChosen("buffer", "why"), 1)


def test_there_is_no_progress_line_without_a_terminal() -> None:
    assert shown(Progress(1.0, 5, 10)) == ""


def test_a_failed_dump_has_no_closing_summary() -> None:
    assert shown(Finished(1, Report("1", 7).to_dict())) == ""


def test_the_summary_tells_what_is_not_as_it_should_be() -> None:
    record = Report("1", 7, "server", unreadable_bytes=8192, shared_live=[(4096, 1 << 20)]).to_dict()
    text = summary(record)
    assert "8.00 KiB could not be read" in text
    assert "1.00 MiB of shared memory" in text
    assert "could not be read" not in summary(Report("1", 7).to_dict())


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1 << 30, "1.00 GiB"), (1 << 62, "4096.00 PiB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
    assert format_rate(count, 1.0) == f"{text}/s"
    assert format_rate(count, 0.0) == "-"


def test_events_come_out_in_order_as_lines(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    reporter = Reporter(None, write_fd)
    reporter.emit(Started(7, "server", "1"))
    for number in range(200):
        reporter.emit(Notice(str(number)))
    reporter.close()
    os.close(write_fd)
    with open(read_fd, "rb", closefd=False) as file:
        lines = [json.loads(line) for line in file]
    assert [line["event"] for line in lines] == ["started"] + ["notice"] * 200
    assert [line["text"] for line in lines[1:]] == [str(number) for number in range(200)]
    assert not reporter.reader_gone


def test_a_reader_that_hangs_holds_up_nothing(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "_CLOSE_SECONDS", 0.01)
    read_fd, write_fd = pipe
    reporter = Reporter(None, write_fd)
    for _ in range(2000):
        reporter.emit(Notice("x" * 200))  # far more than a pipe holds
    reporter.close()
    waiting = reporter._queue.qsize()
    for _ in range(10_000):
        reporter.emit(Progress(0.0, 0, 0))
    assert reporter._queue.qsize() <= waiting  # progress does not pile up behind a reader that hangs
    os.close(read_fd)
    until(lambda: reporter.reader_gone)


def test_a_reader_that_is_gone_is_noticed_and_the_console_goes_on(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    console_read, console_write = os.pipe()
    os.close(read_fd)
    reporter = Reporter(Console(console_write, 0), write_fd)
    reporter.emit(Notice("one"))
    reporter.emit(Notice("two"))
    reporter.close()
    assert reporter.reader_gone
    assert os.read(console_read, 4096) == b"corepipe: one\ncorepipe: two\n"
    os.close(console_read)
    os.close(console_write)


def test_a_console_that_is_closed_breaks_nothing(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    console = Console(write_fd, 0)
    os.close(read_fd)
    console.show(Notice("into the void"))
