"""naming.py: what is shown as the next step can be typed as it stands."""

from __future__ import annotations

import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import corepipe_engine
from corepipe_engine import naming

ZIPAPP = """
import sys
from corepipe_engine.naming import program
sys.executable = "/venv/python"  # nothing of ours is beside it
print(*program(folders=[]), sep="\\n")
"""


def make_program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment's folder of programs, with a blank in its name; we run from it."""
    folder = tmp_path / "my venv"
    monkeypatch.setattr(sys, "executable", str(make_program(folder, "python")))
    return folder


def test_a_name_that_is_found_is_enough(tmp_path: Path, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_program(venv, "corepipe")
    make_program(tmp_path / "bin", "corepipe")
    assert naming.program(folders=[str(tmp_path / "none"), str(tmp_path / "bin")]) == ("corepipe",)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert naming.program() == ("corepipe",)


def test_what_is_found_only_in_a_virtual_environment_is_named_with_its_path(
    tmp_path: Path, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_program(venv, "corepipe")
    assert naming.program(folders=[str(tmp_path)]) == (str(program),)
    monkeypatch.setattr(naming, "SUDO_PATH", (str(tmp_path),))
    monkeypatch.setattr(sys, "argv", ["/anywhere/corepipe"])
    assert shlex.split(naming.as_root(7)) == ["sudo", str(program), "7"]


def test_the_user_interface_leads_back_to_itself(tmp_path: Path, venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_program(venv, "corepipe-tui")
    monkeypatch.setattr(naming, "SUDO_PATH", (str(tmp_path),))
    monkeypatch.setattr(sys, "argv", ["/anywhere/corepipe-tui"])
    assert shlex.split(naming.as_root(7)) == ["sudo", str(program), "--pid", "7"]


def test_a_file_that_cannot_be_run_is_no_program(tmp_path: Path, venv: Path) -> None:
    (tmp_path / "corepipe").write_text("")
    (tmp_path / "folder" / "corepipe").mkdir(parents=True)
    folders = [str(tmp_path), str(tmp_path / "folder")]
    assert naming.program(folders=folders) == (sys.executable, "-m", "corepipe_engine")


@pytest.mark.parametrize("mode", [0o755, 0o644])
def test_a_zipapp_names_itself(tmp_path: Path, mode: int) -> None:
    archive = tmp_path / "corepipe.pyz"
    package = Path(corepipe_engine.__file__).parent
    with archive.open("wb") as file:
        file.write(f"#!{sys.executable}\n".encode())
        with zipfile.ZipFile(file, "w") as packed:
            for name in ("__init__.py", "naming.py"):
                packed.write(package / name, f"corepipe_engine/{name}")
            packed.writestr("__main__.py", ZIPAPP)
    archive.chmod(mode)
    output = subprocess.run([sys.executable, "-I", archive], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert output.splitlines() == ([str(archive)] if mode == 0o755 else ["/venv/python", str(archive)])
