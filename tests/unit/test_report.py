"""report.py: all that happened, readable by its owner alone, and nothing on the host is damaged by writing it."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from corepipe_engine.errors import DumpFailedError
from corepipe_engine.policy import Decision, Extent
from corepipe_engine.report import Report, omitted_by_reason

from .model import ALL, BASE, FIRST, PAGE, plan_of, region


def report() -> Report:
    return Report(version="1", pid=7, comm="a\udcffb\x1b", omitted={"never touched": (2, 8192)}, unreadable=[(4096, 8)])


def test_a_report_is_json_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    old_mask = os.umask(0)
    try:
        report().write(str(path))
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = json.loads(path.read_bytes())
    assert record == json.loads(json.dumps(report().to_dict()))
    assert record["omitted"] == {"never touched": [2, 8192]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_an_older_report_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("x" * 100_000)
    path.chmod(0o666)
    report().write(str(path))
    json.loads(path.read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["report.json", "report.json.{pid}.tmp"])
def test_a_symbolic_link_is_never_followed(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    (tmp_path / name.format(pid=os.getpid())).symlink_to(secret)
    report().write(str(tmp_path / "report.json"))
    assert secret.read_text() == "untouched"
    assert not (tmp_path / "report.json").is_symlink()
    assert json.loads((tmp_path / "report.json").read_bytes())["pid"] == 7


def test_a_link_to_a_device_is_refused_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "report.json"
    link.symlink_to("/dev/null")
    with pytest.raises(DumpFailedError):
        report().write(str(link))
    assert link.is_symlink()


def test_a_link_to_a_descriptor_is_refused_and_stays(tmp_path: Path) -> None:
    """/dev/stdout is such a link."""
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    with pytest.raises(DumpFailedError):
        report().write(str(link))
    assert os.readlink(link) == "/proc/self/fd/1"


def test_a_fifo_gets_the_report_and_stays_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(DumpFailedError):  # nobody reads: an error, not a wait for ever
        report().write(str(path))
    received: list[bytes] = []
    opened = threading.Event()

    def read() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        opened.set()
        os.set_blocking(fd, True)
        done.wait(60)
        while data := os.read(fd, 65536):
            received.append(data)
        os.close(fd)

    done = threading.Event()
    thread = threading.Thread(target=read)
    thread.start()
    assert opened.wait(60)
    report().write(str(path))
    done.set()
    thread.join(60)
    assert json.loads(b"".join(received))["pid"] == 7
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_dev_null_stays_dev_null() -> None:
    report().write("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("path", ["no/such/folder/report.json", ".", "/dev/full"])
def test_a_report_that_cannot_be_written_is_told(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DumpFailedError, match="cannot write the report"):
        report().write(path)
    assert list(tmp_path.iterdir()) == []
    assert not stat.S_ISREG(Path("/dev/full").stat().st_mode)


def test_what_is_left_out_is_counted_by_reason() -> None:
    never = Decision(Extent.NONE, "never touched")
    plan = plan_of(
        [
            (region(BASE, 4 * PAGE), ALL, False),
            (region(BASE + 4 * PAGE, PAGE), never, False),
            (region(BASE + 5 * PAGE, 2 * PAGE), never, False),
            (region(BASE + 7 * PAGE, 3 * PAGE), FIRST, False),
            (region(BASE + 10 * PAGE, PAGE), FIRST, False),
        ]
    )
    assert omitted_by_reason(plan) == {
        "never touched": (2, 3 * PAGE),
        "all but the first page: first page": (1, 2 * PAGE),
    }


def test_a_report_takes_its_numbers_from_the_plan() -> None:
    plan = plan_of([(region(BASE, 8 << 20), ALL, True)], [BASE + PAGE, BASE + 2 * PAGE], notes_bytes=100)
    record = report()
    record.take_plan(plan, threads=3)
    assert (record.bytes_planned, record.segments, record.threads) == (plan.total_bytes, plan.segments, 3)
    assert (record.regions, record.regions_included) == (1, 1)
    assert record.holes_bytes + record.zero_bytes + PAGE == 8 << 20
