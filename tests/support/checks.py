"""The promise that the target is safe, as assertions."""

from __future__ import annotations

from . import proc
from .targets import Fingerprint, Target
from .waiting import eventually


def assert_running(pid: int) -> None:
    """Nobody traces the process and none of its threads is stopped."""
    eventually(f"nobody traces process {pid}", lambda: not proc.tracers(pid))
    eventually(
        f"no thread of process {pid} is stopped",
        lambda: not set(proc.thread_states(pid).values()) & {"t", "T", "Z", "X"},
    )


def assert_counter_moves(target: Target) -> None:
    before = target.counter
    eventually("the target's counter moves", lambda: target.counter > before)


NET_BYTES = 16384
"""What a snapshot may leave of the target's main stack as touched: pages that hold what they held, mostly zeros."""
NET_TABLE_BYTES = 3 * 4096
"""And of page tables: one page a level, where a boundary of one lies between these pages and the rest of the stack."""


def assert_no_larger(pid: int, before: dict[str, int], mode: str) -> None:
    """The process pays for no more memory than before (proc.memory_fields)."""
    after = proc.memory_fields(pid)
    growth = {name: after[name] - before[name] for name in before if after[name] != before[name]}
    if mode == "snapshot":
        assert 0 <= growth.pop("RssAnon", 0) <= NET_BYTES
        assert 0 <= growth.pop("VmPTE", 0) <= NET_TABLE_BYTES
    assert not growth


def assert_target_untouched(target: Target, before: Fingerprint) -> None:
    """The target runs, untraced, with the descriptors it had, no signal, no child and nothing new in its session."""
    assert target.process.poll() is None, f"the target ended with {target.process.returncode}"
    assert_running(target.pid)
    if target.state is not None:
        assert_counter_moves(target)
        assert target.failures == 0
    # a snapshot whose maker was killed takes a moment to die
    eventually("no child is left", lambda: target.fingerprint().children == before.children)
    eventually("no process is left", lambda: target.fingerprint().session == before.session)
    after = target.fingerprint()
    assert after.signals == before.signals
    assert after.descriptors == before.descriptors


def assert_still_stopped(target: Target, before: Fingerprint, killed: bool = False) -> None:
    """As assert_target_untouched for a target that SIGSTOP held all the time.

    killed: corepipe was, perhaps while a call ran in a thread. Stopped as it is, that thread comes home, and reaps its
    helper, only when the target goes on.
    """
    assert target.process.poll() is None
    eventually("nobody traces the target", lambda: not proc.tracers(target.pid))
    eventually("it is stopped as before", lambda: set(proc.thread_states(target.pid).values()) == {"T"})
    if killed:
        after = target.fingerprint()
        assert (after.descriptors, after.signals) == (before.descriptors, before.signals)
        assert len(after.children - before.children) <= 1
        helpers = frozenset(proc.children(target.pid)) - before.children
        eventually("no process is left but a helper", lambda: target.fingerprint().session <= before.session | helpers)
    else:
        eventually("all is as before", lambda: target.fingerprint() == before)
