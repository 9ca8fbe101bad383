"""History and theme: kept in the home of who called, as that user, for nobody else to read."""

from __future__ import annotations

import os
import stat

import pytest

from corepipe_engine.sink import Invoker
from corepipe_tui.store import Store

NOBODY = 65534


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def store(tmp_path):
    return Store(None, {"XDG_STATE_HOME": str(tmp_path / "state")})


def test_the_newest_command_is_the_last_and_none_is_twice(store):
    assert store.history() == []
    for command in ("zstd > a", "gzip > b", "zstd > a"):
        kept = store.remember(command)
    assert kept == store.history() == ["gzip > b", "zstd > a"]


def test_files_are_for_their_owner_alone(store, tmp_path):
    os.umask(os.umask(0))  # whatever it is, it does not matter
    store.remember("zstd > a")
    store.keep_theme("corepipe-light")
    assert store.theme() == "corepipe-light"
    assert mode(tmp_path / "state/corepipe") == 0o700
    assert {mode(tmp_path / "state/corepipe" / name) for name in ("history", "theme")} == {0o600}
    assert sorted(os.listdir(tmp_path / "state/corepipe")) == ["history", "theme"]


def test_the_history_does_not_grow_without_end(store, tmp_path):
    (tmp_path / "state/corepipe").mkdir(parents=True)
    (tmp_path / "state/corepipe/history").write_text("".join(f"cat > {number}\n" for number in range(1000)))
    kept = store.remember("zstd > new")
    assert len(kept) == 200
    assert kept[0] == "cat > 801"
    assert kept[-1] == "zstd > new"


@pytest.mark.parametrize("data", [b"\x1b[2J\n", b"\xff\xfe\n", b"\n \n", b"a\x00b\n", "\u202egnp\n".encode()])
def test_lines_that_are_no_commands_are_left_out(store, tmp_path, data):
    (tmp_path / "state/corepipe").mkdir(parents=True)
    (tmp_path / "state/corepipe/history").write_bytes(data + b"zstd > a\n")
    assert [line for line in store.history() if "�" not in line] == ["zstd > a"]
    assert all(line.isprintable() for line in store.history())


def test_what_cannot_be_kept_is_forgotten(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(None, {"XDG_STATE_HOME": str(tmp_path / "file")})
    assert store.remember("zstd > a") == ["zstd > a"]
    store.keep_theme("corepipe-light")
    assert (store.history(), store.theme()) == ([], "")


def test_a_relative_state_home_does_not_count():
    assert Store(None, {"XDG_STATE_HOME": "state"}).folder == os.path.expanduser("~/.local/state/corepipe")


@pytest.mark.live  # takes root
def test_under_sudo_nothing_in_the_home_belongs_to_root(open_folder):
    open_folder.chmod(0o700)
    os.chown(open_folder, NOBODY, NOBODY)
    store = Store(Invoker(NOBODY, NOBODY, "nobody", str(open_folder), (NOBODY,)), {})
    store.remember("zstd > a")
    store.keep_theme("corepipe-light")
    assert store.history() == ["zstd > a"]
    found = [open_folder / folder / name for folder, _, names in os.walk(open_folder) for name in ("", *names)]
    assert len(found) == 6  # the home, .local, state, corepipe, and two files
    assert {os.stat(path).st_uid for path in found} == {NOBODY}


@pytest.mark.live
def test_under_sudo_a_link_in_the_home_leads_root_nowhere(open_folder, tmp_path):
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("of root\n")
    secret.chmod(0o600)
    state = open_folder / ".local/state/corepipe"
    state.mkdir(parents=True)
    os.symlink(secret, state / "history")
    os.symlink(target, state / "theme")
    for folder in (open_folder, state.parent.parent, state.parent, state):
        os.chown(folder, NOBODY, NOBODY)
    store = Store(Invoker(NOBODY, NOBODY, "nobody", str(open_folder), (NOBODY,)), {})
    assert store.history() == []
    store.remember("zstd > a")
    store.keep_theme("corepipe")
    assert secret.read_text() == "of root\n"
    assert not target.exists()
    assert not os.path.islink(state / "history")
