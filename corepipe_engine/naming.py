"""How to call corepipe again: by its name where that is found, else by its path. For what is shown as the next step."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

SUDO_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where sudo looks, whatever PATH says (sudoers(5), secure_path)."""
_USER_INTERFACE: Final = "corepipe-tui"


def program(name: str = "corepipe", folders: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the words that start a program of ours.

    Its name if it is in one of the folders (default: PATH); else its path beside our Python, as in a virtual
    environment; else the zipapp that we run from; else our Python and the engine's module.
    """
    for folder in os.get_exec_path() if folders is None else folders:
        if _is_program(os.path.join(folder, name)):
            return (name,)
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), name)
    if _is_program(beside):
        return (beside,)
    archive = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.isfile(archive):
        return (archive,) if _is_program(archive) else (sys.executable, archive)
    return (sys.executable, "-m", "corepipe_engine")


def as_root(pid: int) -> str:
    """Return the command line that does with root's rights what was refused without them."""
    import shlex

    tui = os.path.basename(sys.argv[0]) == _USER_INTERFACE
    words = program(_USER_INTERFACE if tui else "corepipe", SUDO_PATH)
    return shlex.join(("sudo", *words, *(("--pid",) if tui else ()), str(pid)))


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
