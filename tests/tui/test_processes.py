"""Rows of processes: filter, sort, tree, containers, and the real ones of this host."""

from __future__ import annotations

import os
import subprocess

import pytest

from corepipe_tui.filtering import parse_filter
from corepipe_tui.processes import (
    SORT_KEYS,
    HostProcesses,
    as_tree,
    container_of,
    matches,
    read_details,
)

from .fakes import FIRST_PID, row

_ID = "0123456789ab" + "c" * 52


@pytest.mark.parametrize(
    ("line", "container"),
    [
        (f"0::/system.slice/docker-{_ID}.scope", "0123456789ab"),
        (f"12:pids:/docker/{_ID}", "0123456789ab"),
        (f"0::/machine.slice/libpod-{_ID}.scope", "0123456789ab"),
        (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{_ID}.scope/container", "0123456789ab"),
        (f"0::/kubepods.slice/kubepods-pod12_3.slice/cri-containerd-{_ID}.scope", "0123456789ab"),
        (f"0::/kubepods/burstable/pod12345678-1234-1234-1234-123456789abc/{_ID}", "0123456789ab"),
        (f"0::/kubepods.slice/kubepods-burstable.slice/crio-{_ID}.scope", "0123456789ab"),
        ("0::/lxc/web/init.scope", "web"),
        ("0::/lxc.payload.web/init.scope", "web"),
        ("0::/lxc.payload/web", "web"),
        ("0::/machine.slice/machine-box.scope", "box"),
        ("0::/machine.slice/systemd-nspawn@box.service/payload", "box"),
        ("0::/lxc/\x1b[2J", r"\x1b[2J"),
        ("0::/lxc.monitor.web", ""),
        ("0::/user.slice/user-1000.slice/session-3.scope", ""),
        ("0::/system.slice/nginx.service", ""),
        ("0::/", ""),
        ("", ""),
        ("12:pids:/\n0::/docker/" + _ID, "0123456789ab"),
    ],
)
def test_containers_are_told_from_their_cgroup(line, container):
    assert container_of(line) == container


def test_the_filter_takes_all_words_and_leaves_out_those_with_a_mark():
    words = parse_filter("Java !root  ! 12")
    assert words == [(False, "java"), (True, "root"), (False, "12")]
    assert matches(row(1, pid=5123, user="app", command="/bin/JAVA -jar x"), words)
    assert not matches(row(1, pid=5123, user="root", command="/bin/java"), words)
    assert not matches(row(1, pid=5, user="app", command="/bin/java"), words)


def test_the_filter_looks_at_name_command_user_pid_and_container():
    one = row(1, pid=777, name="nam", command="cmd", user="usr", container="box")
    for word in ("nam", "cmd", "usr", "777", "box"):
        assert matches(one, parse_filter(word))
    assert not matches(one, parse_filter("other"))


def test_the_tree_puts_children_below_their_parents_in_the_given_order():
    rows = [
        row(0, pid=10, ppid=1),
        row(1, pid=11, ppid=10),
        row(2, pid=12, ppid=10),
        row(3, pid=13, ppid=11),
        row(4, pid=1, ppid=0),
        row(5, pid=99, ppid=99),
    ]
    tree = as_tree(rows)
    assert [(item.pid, lines) for item, lines in tree] == [
        (1, ""),
        (10, "└─ "),
        (11, "   ├─ "),
        (13, "   │  └─ "),
        (12, "   └─ "),
        (99, ""),
    ]


def test_a_deep_tree_is_no_recursion():
    rows = [row(index, pid=index + 2, ppid=index + 1) for index in range(5000)]
    assert len(as_tree(rows)) == 5000


def test_every_column_can_be_sorted_by():
    rows = [row(index) for index in range(20)]
    for key, _ in SORT_KEYS.values():
        assert len(sorted(rows, key=key)) == 20


def test_the_processes_of_this_host_are_found_with_ourselves_refused():
    provider = HostProcesses()
    provider.sample()
    rows = {item.pid: item for item in provider.sample()}
    me = rows[os.getpid()]
    assert "itself" in me.refusal
    assert me.rss > 0
    assert me.cpu_percent >= 0
    assert all(item.refusal for item in rows.values() if item.kernel)


def test_a_process_that_ends_while_one_looks_is_left_out_of_the_next_list():
    with subprocess.Popen(["sleep", "60"]) as child:
        provider = HostProcesses()
        assert child.pid in {item.pid for item in provider.sample()}
        child.kill()
        child.wait()
    assert child.pid not in {item.pid for item in provider.sample()}


def test_a_zombie_is_refused_in_words():
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        (zombie,) = [item for item in HostProcesses().sample() if item.pid == child.pid]
        assert "zombie" in zombie.refusal
        child.wait()


def test_details_of_a_real_process():
    details = read_details(os.getpid())
    assert details.exe == os.readlink("/proc/self/exe")
    assert details.cwd == os.getcwd()
    assert dict(details.memory)["anonymous"] > 0


def test_no_process_has_the_pids_of_the_fakes():
    assert not os.path.exists(f"/proc/{FIRST_PID}")
