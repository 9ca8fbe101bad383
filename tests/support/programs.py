"""Where the programs are that tests need: on PATH, beside this Python, and where Debian keeps servers."""

from __future__ import annotations

import glob
import os
import shutil
import sys
from pathlib import Path


def program_path(name: str) -> str:
    """Return a program's path, its name where it is nowhere."""
    clusters = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4]))
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin", "/sbin", *reversed(clusters)]
    return shutil.which(name, path=os.pathsep.join(folders)) or name


def installed(name: str) -> bool:
    """Return whether a program is found."""
    return os.path.isabs(program_path(name))
