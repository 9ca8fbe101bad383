"""What is kept from one run to the next: pipe commands and the theme, in the home of the person.

Under sudo that is the home of who called it, and everything there is read and written as that user: nothing of root's
is left in it, and no link that waits there leads root anywhere. Files are for their owner alone: pipe commands may
hold secrets.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from corepipe_engine.sink import Invoker

_PATIENCE_SECONDS = 3.0
"""A home on a server that does not answer is done without."""
_MOST_BYTES = 1 << 16
_MOST_COMMANDS = 200
_MOST_LETTERS = 4096
_READ = 'tail -c "$3" -- "$1/$2"'
_WRITE = 'umask 077; mkdir -p -- "$1" && cat > "$1/.$2.$$" && mv -f -- "$1/.$2.$$" "$1/$2"'


def _is_command(line: str) -> bool:
    return bool(line.strip()) and line.isprintable() and len(line) <= _MOST_LETTERS


class Store:
    """The folder $XDG_STATE_HOME/corepipe (~/.local/state/corepipe). Methods read and write: they belong into a worker
    thread, and never fail: what cannot be kept is forgotten.
    """

    def __init__(self, invoker: Invoker | None, environment: Mapping[str, str] = os.environ) -> None:
        self._invoker = invoker
        home = invoker.home if invoker is not None else os.path.expanduser("~")
        state = environment.get("XDG_STATE_HOME", "")
        self.folder = os.path.join(state if os.path.isabs(state) else os.path.join(home, ".local", "state"), "corepipe")

    def history(self) -> list[str]:
        """Return the pipe commands of earlier dumps, with their placeholders; the newest last."""
        return [line for line in self._read("history").splitlines() if _is_command(line)]

    def remember(self, command: str) -> list[str]:
        """Put a pipe command at the end of the history, and return that."""
        commands = [known for known in self.history() if known != command]
        if _is_command(command):
            commands = [*commands, command][-_MOST_COMMANDS:]
            self._write("history", "".join(f"{known}\n" for known in commands))
        return commands

    def theme(self) -> str:
        """Return the name of the theme that was chosen, empty if none was."""
        return self._read("theme").strip()

    def keep_theme(self, name: str) -> None:
        """Keep the name of a theme."""
        self._write("theme", f"{name}\n")

    def _read(self, name: str) -> str:
        return self._run(_READ, name, str(_MOST_BYTES)).decode("utf-8", "replace")

    def _write(self, name: str, text: str) -> None:
        self._run(_WRITE, name, text=text)

    def _run(self, script: str, *arguments: str, text: str = "") -> bytes:
        who = self._invoker
        try:
            return subprocess.run(
                ["/bin/sh", "-c", script, "sh", self.folder, *arguments],
                input=text.encode("utf-8", "replace"),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                timeout=_PATIENCE_SECONDS,
                check=False,
                user=None if who is None else who.uid,
                group=None if who is None else who.gid,
                extra_groups=None if who is None else who.groups,
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return b""
