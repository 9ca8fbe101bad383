"""The pipe command: suggestions, placeholders, where it writes to, and what to type after it. Runs nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from corepipe_engine.naming import SUDO_PATH, program
from corepipe_engine.sink import Invoker

from .sanitize import quote, safe_word

_PLACEHOLDER = re.compile(r"\{(pid|comm|host|time)\}")
_UNFILLED = re.compile(r"\bssh (HOST)\b|://(BUCKET)/")
_EXPANDING = set("$`*?[]{}~\\")
_TEMPLATES = (
    ("zstd", "zstd -T0 > core.{comm}.{pid}.zst"),
    ("pigz", "pigz > core.{comm}.{pid}.gz"),
    ("gzip", "gzip > core.{comm}.{pid}.gz"),
    ("lz4", "lz4 > core.{comm}.{pid}.lz4"),
    ("xz", "xz -T0 > core.{comm}.{pid}.xz"),
    ("ssh", "zstd -T0 | ssh HOST 'cat > core.{comm}.{pid}.zst'"),
    ("aws", "zstd -T0 | aws s3 cp - s3://BUCKET/core.{comm}.{pid}.zst"),
    ("gsutil", "zstd -T0 | gsutil cp - gs://BUCKET/core.{comm}.{pid}.zst"),
    ("cat", "cat > core.{comm}.{pid}"),
)
_UNPACKERS = {".zst": "zstd -dc", ".gz": "gzip -dc", ".lz4": "lz4 -dc", ".xz": "xz -dc"}


def shell() -> str:
    """Return the shell that runs the pipe command."""
    return shutil.which("bash", path="/bin:/usr/bin") or "/bin/sh"


def suggestions(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Return pipe commands that this host can run, the best first."""
    found = []
    for tool, template in _TEMPLATES:
        if which(tool) and (not template.startswith("zstd") or which("zstd")):
            found.append(template)
    return found or ["cat > core.{comm}.{pid}"]


def expand(command: str, pid: int, comm: str) -> str:
    """Return the command with {pid}, {comm}, {host} and {time} filled in; what comes from the target is made safe."""
    values = {
        "pid": str(pid),
        "comm": safe_word(comm),
        "host": safe_word(socket.gethostname()),
        "time": time.strftime("%Y%m%dT%H%M%S"),
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], command)


def unfilled(command: str) -> str:
    """Return what is still to be filled into a suggestion, in words; empty if nothing is."""
    match = _UNFILLED.search(command)
    return f"put your own in the place of {match[1] or match[2]}" if match else ""


def output_file(command: str) -> str:
    """Return the local file that a command writes to by its last `>`; empty if it cannot be told without a shell."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return ""
    for position in range(len(words) - 2, -1, -1):
        if words[position] in (">", ">>", ">|"):
            descriptor = words[position - 1] if position else ""
            target = words[position + 1]
            if descriptor == "2" or set(target) & _EXPANDING or target.startswith(("&", "/dev/", "(")):
                continue
            return os.path.abspath(target)
    return ""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the core goes on this host: path of the file, free bytes there (-1 if there is no such folder), and whether
    there is such a file already.
    """

    path: str
    free_bytes: int
    exists: bool = False


def destination(command: str) -> Destination | None:
    """Return where an expanded command writes to, None if that is no local file."""
    path = output_file(command)
    if not path:
        return None
    try:
        free = shutil.disk_usage(os.path.dirname(path)).free
    except OSError:
        free = -1
    return Destination(path, free, os.path.isfile(path))


def corepipe_command(pid: int, pipe: str, arguments: list[str], by_sudo: bool) -> str:
    """Return the one-line corepipe command that does the same again."""
    words = ["sudo", *program(folders=SUDO_PATH)] if by_sudo else [*program()]
    words += [str(pid), "--pipe", pipe, *arguments]
    return " ".join(quote(word) for word in words)


def next_commands(pipe: str, exe: bytes) -> list[str]:
    """Return what to type to read the core: unpacked from the file, if there is one, then by what reads such a core."""
    path = output_file(pipe)
    if not path:
        return []
    base = os.path.basename(path)
    stem, extension = os.path.splitext(base)
    unpacker = _UNPACKERS.get(extension, "")
    core = stem if unpacker else base
    exe = exe.removesuffix(b" (deleted)")
    before = f"{unpacker} {quote(base)} > {quote(core)} && " if unpacker else ""
    program = os.path.basename(exe)
    folder = f"cd {quote(os.path.dirname(path))} && " if os.path.dirname(path) != os.getcwd() else ""
    commands = [f"{folder}{before}gdb {quote(exe)} {quote(core)}"]
    if program == b"java":
        java = quote(exe)
        commands.append(f"jhsdb jstack --exe {java} --core {quote(core)}")
        commands.append(f"jhsdb jmap --heap --exe {java} --core {quote(core)}")
    elif program.startswith(b"python"):
        commands.append(f"pystack core {quote(core)} {quote(exe)}")
    else:
        commands.append(f"eu-stack --core={quote(core)} -e {quote(exe)}")
    return commands


def run_as(invoker: Invoker | None) -> str:
    """Return whom the pipe command runs as, in words."""
    if invoker is not None:
        return f"{invoker.name} (who called sudo)"
    return "root" if os.geteuid() == 0 else "you"
