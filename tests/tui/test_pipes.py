"""The pipe command: placeholders, suggestions, where it writes to, what to type next."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from corepipe_engine.naming import SUDO_PATH, program
from corepipe_tui.pipes import (
    corepipe_command,
    destination,
    expand,
    next_commands,
    output_file,
    shell,
    suggestions,
)

from .fakes import HOSTILE


def test_placeholders_are_filled_in():
    command = expand("zstd > core.{comm}.{pid}.{host}.{time}.zst", 42, "java")
    assert command.startswith("zstd > core.java.42.")
    assert "{" not in command


def test_what_is_no_placeholder_stays():
    command = "awk '{print $1}' > ${HOME}/{other}"
    assert expand(command, 1, "x") == command


@pytest.mark.parametrize("comm", [data.decode("utf-8", "replace")[:64] for data in HOSTILE] + ["$(id)", "a b", "-rf"])
@pytest.mark.parametrize(
    "template", ["cat > core.{comm}", "cat > '{comm}'", 'cat > "x/{comm}"', "ssh host 'cat > {comm}'"]
)
def test_a_hostile_name_cannot_add_a_word_to_the_command(template, comm):
    harmless = shlex.split(expand(template, 1, "plain"))
    assert [word.replace("plain", "") for word in harmless] == [
        word.replace(expand("{comm}", 1, comm), "") for word in shlex.split(expand(template, 1, comm))
    ]


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("zstd > core.zst", "core.zst"),
        ("zstd>core.zst", "core.zst"),
        ("zstd -T0 >> 'with space.zst'", "with space.zst"),
        ("zstd 2>errors > /var/core.zst", "/var/core.zst"),
        ("zstd > core.zst 2>errors", "core.zst"),
        ("tee a > b | cat > c", "c"),
        ("(echo x >&2; zstd > core.zst)", "core.zst"),
        ("cat >| core", "core"),
        ("cat >/dev/null", ""),
        ("cat > $HOME/core", ""),
        ("cat > core.*", ""),
        ("ssh host 'cat > core.zst'", ""),
        ("aws s3 cp - s3://bucket/core", ""),
        ("echo 'unterminated", ""),
        ("cat >", ""),
        ("", ""),
    ],
)
def test_the_local_file_a_command_writes_to_is_told(command, path):
    assert output_file(command) == (os.path.abspath(path) if path else "")


def test_free_space_is_told_where_the_folder_exists(tmp_path):
    place = destination(f"cat > {tmp_path}/core")
    assert place is not None
    assert place.free_bytes > 0
    assert destination(f"cat > {tmp_path}/none/core").free_bytes == -1
    assert destination("cat >/dev/null") is None


def test_only_what_this_host_has_is_suggested():
    def only(*names):
        return lambda name: f"/bin/{name}" if name in names else None

    assert suggestions(only("zstd", "gzip"))[0] == "zstd -T0 > core.{comm}.{pid}.zst"
    assert suggestions(only("pigz", "gzip"))[0] == "pigz > core.{comm}.{pid}.gz"
    assert suggestions(only("gzip"))[0] == "gzip > core.{comm}.{pid}.gz"
    assert not any("ssh" in command for command in suggestions(only("ssh")))  # it is fed by zstd
    assert suggestions(only()) == ["cat > core.{comm}.{pid}"]


def test_the_next_commands_unpack_and_read_the_core(tmp_path):
    (gdb, stack) = next_commands("zstd > core.zst", b"/usr/bin/server")
    assert gdb == "zstd -dc core.zst > core && gdb /usr/bin/server core"
    assert stack == "eu-stack --core=core -e /usr/bin/server"
    assert next_commands("gzip > c.gz", b"/bin/x")[0] == "gzip -dc c.gz > c && gdb /bin/x c"
    assert next_commands("cat > core", b"/bin/x")[0] == "gdb /bin/x core"
    assert next_commands(f"cat > {tmp_path}/sub/core", b"/bin/x")[0] == f"cd {tmp_path}/sub && gdb /bin/x core"
    assert next_commands("ssh host 'cat > core'", b"/bin/x") == []


def test_the_next_commands_know_java_and_python():
    assert any(line.startswith("jhsdb jstack --exe /opt/java") for line in next_commands("cat > c", b"/opt/java"))
    assert any(line.startswith("pystack core c ") for line in next_commands("cat > c", b"/usr/bin/python3.11"))


def test_an_executable_that_was_replaced_loses_the_kernels_remark():
    assert next_commands("cat > c", b"/bin/x (deleted)")[0] == "gdb /bin/x c"


@pytest.mark.parametrize("name", HOSTILE[:5] + HOSTILE[6:])
def test_hostile_paths_in_the_next_commands_are_one_word_each(name):
    exe = b"/opt/" + name.replace(b"/", b"_")
    command = next_commands("cat > core", exe)[0]
    assert command.isprintable()
    printed = subprocess.run(
        ["bash", "-c", command.replace("gdb", r"printf '%s\0'", 1)], stdout=subprocess.PIPE, check=True
    ).stdout
    assert printed.split(b"\0")[:-1] == [exe, b"core"]


def test_the_one_line_command_is_read_back_by_a_shell():
    line = corepipe_command(7, "zstd | ssh h 'cat > \"c\"'", ["--exclude", "10-20"], by_sudo=True)
    assert shlex.split(line) == [
        "sudo", *program(folders=SUDO_PATH), "7", "--pipe", "zstd | ssh h 'cat > \"c\"'", "--exclude", "10-20",
    ]  # fmt: skip


def test_the_shell_that_checks_is_the_one_that_runs():
    assert os.access(shell(), os.X_OK)
