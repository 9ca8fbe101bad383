"""No signal is lost, doubled or put out of order by a dump, and the core tells which were pending."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import threading
from collections.abc import Iterator

import pytest

from ..support import proc
from ..support.checks import assert_counter_moves, assert_running
from ..support.cores import NT_PRSTATUS, Core, assert_well_formed
from ..support.dumps import dump, in_both_modes
from ..support.engine import REPOSITORY, corepipe_started, environment, run_corepipe, wait_frozen
from ..support.waiting import eventually

pytestmark = pytest.mark.live
SOAK = bool(int(os.environ.get("COREPIPE_SOAK", "0")))
DUMPS = 200 if SOAK else 5
QUEUED = 40
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sigqueue.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_uint64)


def masks_of(pid: int) -> dict[int, tuple[int, int]]:
    """Thread id -> (pending for the thread itself, blocked)."""
    return {
        tid: (int(proc.status_field(pid, "SigPnd", tid), 16), int(proc.status_field(pid, "SigBlk", tid), 16))
        for tid in proc.tids(pid)
    }


@in_both_modes("signals pending, blocked, queued with values")
def test_what_is_pending_is_in_the_core_and_arrives_once_and_in_order_afterwards(spawn_target, tmp_path, mode):
    target = spawn_target("signals", "pending")
    masks = masks_of(target.pid)
    to_thread, to_process = target.number("to_thread"), target.number("to_process")
    both = 1 << (signal.SIGUSR2 - 1) | 1 << (to_thread - 1)
    assert all(pending == both == blocked & both for pending, blocked in masks.values())
    for _ in range(3):
        core, report, _ = dump(target, tmp_path, "--mode", mode)
        assert report["mode"] == mode
        told = {tid: struct.unpack_from("<2Q", note.data, core.layout.pending)
                for tid, note in zip(core.thread_ids, core.notes_of(NT_PRSTATUS), strict=True)}  # fmt: skip
        assert told == masks
        assert masks_of(target.pid) == masks
        assert target.signals == {}
    os.kill(target.pid, signal.SIGTERM)
    wanted = {
        signal.SIGUSR1: 1,
        signal.SIGUSR2: 2,
        signal.SIGTERM: 1,
        to_process: QUEUED,
        to_thread: 2 * QUEUED,
    }
    eventually("every signal has arrived", lambda: sum(target.signals.values()) >= sum(wanted.values()))
    assert target.signals == wanted
    assert target.failures == 0


@contextlib.contextmanager
def sending(pid: int, number: int) -> Iterator[list[int]]:
    """Queue the signal with values 1, 2, 3 ... all the time; the list holds how many were sent at the end."""
    over, sent = threading.Event(), [0]

    def send() -> None:
        while not over.is_set():
            if not _libc.sigqueue(pid, number, sent[0] + 1):
                sent[0] += 1
            elif ctypes.get_errno() != errno.EAGAIN:  # its queue is full while it stands still
                return
            over.wait(0.0002)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


@in_both_modes("queued signals that come in at any time")
def test_signals_that_come_at_any_time_arrive_once_and_in_order(spawn_target, tmp_path, mode, tell):
    target = spawn_target("signals", "storm")
    storm = target.number("storm")
    with sending(target.pid, storm) as sent:
        for _ in range(DUMPS):
            run_corepipe(target.pid, "--mode", mode, output=tmp_path / "core")
            core = Core(tmp_path / "core")
            assert_well_formed(core)
            assert_running(target.pid)
    assert sent[0] > 0
    eventually("the last one has arrived", lambda: target.signals.get(storm, 0) >= sent[0])
    assert target.signals == {storm: sent[0]}
    assert target.failures == 0
    assert_counter_moves(target)


AT_THE_STOP = """
import ctypes, os
import corepipe_engine.ptrace as ptrace

seize, libc = ptrace.seize, ctypes.CDLL(None)
libc.sigqueue.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_uint64)


def seize_and_signal(tid, options):
    seize(tid, options)
    libc.sigqueue(tid, {number}, int(os.environ["VALUE"]))
    while open(f"/proc/{{tid}}/stat").read().rpartition(")")[2].split()[0] != "t":
        pass


ptrace.seize = seize_and_signal
"""
"""A sitecustomize: a signal comes in between the seizing of a thread and its stop, which is then one for the signal."""


@in_both_modes("a signal on its way when it is stopped")
def test_a_signal_that_is_being_delivered_when_the_target_stops_arrives_afterwards(spawn_target, tmp_path, mode):
    target = spawn_target("signals", "storm")
    storm = target.number("storm")
    (tmp_path / "sitecustomize.py").write_text(AT_THE_STOP.format(number=storm))
    path = f"{tmp_path}:{REPOSITORY}"
    for value in (1, 2, 3):
        run_corepipe(
            target.pid, "--mode", mode, output=tmp_path / "core", extra_env={"PYTHONPATH": path, "VALUE": str(value)}
        )
        core = Core(tmp_path / "core")
        pending = struct.unpack_from("<Q", core.note(NT_PRSTATUS).data, core.layout.pending)[0]
        if mode == "direct":
            assert pending == 1 << (storm - 1), "the core was made before it was delivered, and tells so"
        eventually("it has arrived", lambda value=value: target.signals.get(storm) == value)
        assert target.failures == 0
    assert_running(target.pid)
    assert_counter_moves(target)


def test_a_signal_that_a_stop_has_taken_arrives_although_corepipe_is_killed(spawn_target, tmp_path):
    """A stop that a wait has told of is nobody's any more when its tracer dies, and the signal it took is lost."""
    target = spawn_target("signals", "storm")
    storm = target.number("storm")
    (tmp_path / "sitecustomize.py").write_text(AT_THE_STOP.format(number=storm))
    env = environment({"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "VALUE": "1"})
    read_end, write_end = os.pipe()
    with corepipe_started(target.pid, "--mode", "direct", "--preset", "full", stdout=write_end, env=env) as engine:
        os.close(write_end)
        wait_frozen(target.pid, engine.pid)
        engine.kill()
        engine.wait()
    os.close(read_end)
    eventually("it has arrived", lambda: target.signals == {storm: 1})
    assert target.failures == 0
    assert_running(target.pid)
    assert_counter_moves(target)
