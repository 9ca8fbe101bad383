"""Where the programs are that tests need: on PATH, beside this Python, and where Debian keeps servers."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def program_path(name: str) -> str:
    """Return a program's path, its name where it is nowhere."""
    clusters = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4]))
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin", "/sbin", *reversed(clusters)]
    return shutil.which(name, path=os.pathsep.join(folders)) or name


def installed(name: str) -> bool:
    """Return whether a program is found. "gcc -m32": whether gcc makes 32-bit programs."""
    if name == "gcc -m32":
        return _links_32_bit()
    return os.path.isabs(program_path(name))


@functools.lru_cache(maxsize=1)
def _links_32_bit() -> bool:
    """Linking takes a C library, a libgcc and a linker that knows them."""
    if shutil.which("gcc") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = ["gcc", "-m32", "-pthread", "-x", "c", "-", "-o", f"{folder}/program"]
        source = b'#include <stdio.h>\nint main(void) { return puts("") < 0; }'
        return subprocess.run(command, input=source, capture_output=True, check=False).returncode == 0
