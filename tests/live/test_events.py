"""`--events-fd`: one JSON line an event, in the order in which things happen."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from corepipe_engine import events

from ..support.engine import ENGINE_SECONDS, corepipe_started, run_corepipe

pytestmark = pytest.mark.live


def collect_events(*arguments: object, status: int = 0) -> list[events.Event]:
    """Run corepipe and return all its events."""
    read_end, write_end = os.pipe()
    lines: list[bytes] = []

    def read() -> None:
        with open(read_end, "rb") as stream:
            lines.extend(stream)

    reader = threading.Thread(target=read)
    reader.start()
    with corepipe_started(
        *arguments, "--events-fd", write_end, pass_fds=(write_end,), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as engine:
        os.close(write_end)
        _, errors = engine.communicate(timeout=ENGINE_SECONDS)
        assert engine.returncode == status, errors
    reader.join()
    return [events.from_json(line) for line in lines]


def of(found: list[events.Event], kind: type) -> list[int]:
    return [index for index, event in enumerate(found) if isinstance(event, kind)]


@pytest.mark.parametrize("mode", ["direct", "buffer"])
def test_events_come_in_the_order_in_which_things_happen(spawn_target, mode):
    target = spawn_target("nine")
    found = collect_events(target.pid, "--mode", mode, "--pipe", "echo hello >&2; cat >/dev/null")

    assert isinstance(found[0], events.Started)
    assert (found[0].pid, found[0].comm) == (target.pid, "nine")
    (stopped,), (resumed,), (planned,), (chosen,) = (
        of(found, kind) for kind in (events.Stopped, events.Resumed, events.Planned, events.ModeChosen)
    )
    assert stopped < resumed
    assert chosen < planned
    assert found[chosen].mode == mode
    assert (resumed < planned) == (mode == "buffer")
    phases = [event.phase for event in found if isinstance(event, events.PhaseChanged)]
    assert phases[:2] == [events.Phase.PREPARE, events.Phase.FREEZE]
    assert phases[-1] == events.Phase.FINISH
    assert phases.index(events.Phase.RESUME) > phases.index(events.Phase.FREEZE)
    assert found[resumed].stop_seconds == pytest.approx(sum(found[resumed].steps.values()), abs=0.01)

    progress = [found[index] for index in of(found, events.Progress)]
    written = [event.bytes_written for event in progress]
    assert written == sorted(written)
    assert written[-1] == found[planned].core_bytes == progress[-1].bytes_planned
    times = [event.at for event in found if hasattr(event, "at")]
    assert times == sorted(times)

    assert "".join(found[index].text for index in of(found, events.SinkStderr)) == "hello\n"
    assert isinstance(found[-1], events.Finished)
    assert len(of(found, events.Finished)) == 1
    assert found[-1].exit_code == 0
    assert found[-1].report["bytes_written"] == found[planned].core_bytes
    assert found[-1].report["threads"] == found[planned].threads == 9
    assert not of(found, events.Failed)


def test_a_failure_is_an_event_with_its_hint_before_the_last_one(spawn_target):
    target = spawn_target("nine")
    found = collect_events(target.pid, "--pipe", "exit 9", status=5)
    (failed,) = of(found, events.Failed)
    assert failed < len(found) - 1
    assert found[failed].exit_code == 5
    assert "exit status 9" in found[failed].message
    assert found[failed].hint
    assert found[-1].exit_code == 5
    assert found[-1].report["error"] == found[failed].message


def test_a_process_that_does_not_exist_is_told_in_events_too():
    process = subprocess.Popen(["true"])
    process.wait()
    found = collect_events(process.pid, status=4)
    assert [type(event) for event in found] == [events.Failed, events.Finished]


def test_auto_says_which_mode_it_took(spawn_target, tmp_path):
    target = spawn_target("nine", 4096)
    found = collect_events(target.pid, "--pipe", "cat >/dev/null")
    (chosen,) = of(found, events.ModeChosen)
    assert found[chosen].mode in ("snapshot", "buffer")
    assert found[chosen].why
    outcome = run_corepipe(target.pid, "-v", output=tmp_path / "core")
    assert f"corepipe: mode {found[chosen].mode}: {found[chosen].why}" in outcome.stderr
