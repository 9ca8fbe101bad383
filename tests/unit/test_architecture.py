"""The shape of the engine: the standard library alone, one direction, nothing heavy on the way in."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corepipe_engine.arch import ARCHES, Arch, arch_of
from corepipe_engine.elf import ElfClass, Machine
from corepipe_engine.errors import DumpFailedError

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "corepipe_engine"
MODULES = sorted(ENGINE.rglob("*.py"))
names = [str(path.relative_to(ENGINE)) for path in MODULES]


def module_name(path: Path) -> str:
    """corepipe_engine/arch/base.py -> corepipe_engine.arch.base."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a module imports, inside functions too."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = ROOT / f"{origin.replace('.', '/')}/{alias.name}"
                yield f"{origin}.{alias.name}" if inner.with_suffix(".py").exists() or inner.is_dir() else origin


def loaded_by(statement: str) -> list[str]:
    """Names of the modules that a bare Python has loaded after a statement."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statement}\nimport json; print(json.dumps(sorted(NAMES)))"
    code = code.replace("\nimport json;", "\nNAMES = list(sys.modules)\nimport json;")
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_the_engine_imports_the_standard_library_alone(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top == "corepipe_engine" or top in sys.stdlib_module_names, name


def test_the_engine_loads_nothing_else_either() -> None:
    """All modules, in a Python that sees no installed package."""
    statement = "import importlib\n" + "".join(f"importlib.import_module({module_name(path)!r})\n" for path in MODULES)
    loaded = {name.split(".")[0] for name in loaded_by(statement)}
    assert loaded <= set(sys.stdlib_module_names) | {"corepipe_engine", "__main__"}
    assert "corepipe_engine" in loaded


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import corepipe_engine", {"asyncio", "json", "argparse", "ctypes", "subprocess", "threading"}),
        (
            "import corepipe_engine.command; corepipe_engine.command.make_parser()",
            {"asyncio", "json", "subprocess", "ctypes", "shutil"},
        ),
        (
            "import corepipe_engine.events, corepipe_engine.errors, corepipe_engine.options",
            {"asyncio", "json", "ctypes"},
        ),
        (
            "import corepipe_engine.dump",
            {"asyncio", "datetime", "platform", "subprocess", "traceback"},
        ),
    ],
)
def test_importing_stays_light(statement: str, unwanted: set[str]) -> None:
    assert not unwanted & set(loaded_by(statement))


def test_the_version_is_told_without_the_engine() -> None:
    """Nor anything of the standard library that a bare Python does not load anyway."""
    bare = set(loaded_by("import os"))
    statement = "import corepipe_engine.__main__ as way_in; sys.stdout = sys.stderr; way_in.main(['--version'])"
    loaded = set(loaded_by(f"{statement}; sys.stdout = sys.__stdout__"))
    assert loaded - bare == {"corepipe_engine", "corepipe_engine.__main__", "__future__"}


def import_graph() -> dict[str, set[str]]:
    """Module -> the engine's modules it imports; a package's __init__ gathers its modules, which see one another."""
    known = {module_name(path) for path in MODULES}
    graph = {module_name(path): set(imports(path)) & known for path in MODULES}
    return {name: found - {name, name.rpartition(".")[0]} for name, found in graph.items()}


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = import_graph()
    placed: set[str] = set()
    while graph:
        free = {name for name, needs in graph.items() if needs <= placed}
        assert free, f"a circle among: {sorted(graph)}"
        placed |= free
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_a_module_imports_only_from_its_left() -> None:
    """The arrow of the data flow: nothing on it needs what comes later."""
    graph = import_graph()
    arrow = ["errors", "procfs", "policy", "plan", "freeze", "stream", "report", "dump", "command", "__main__"]
    for position, name in enumerate(arrow):
        needed, waiting = set(), [f"corepipe_engine.{name}"]
        while waiting:
            for other in graph[waiting.pop()] - needed:
                needed.add(other)
                waiting.append(other)
        assert not needed & {f"corepipe_engine.{later}" for later in arrow[position + 1 :]}, name


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_the_engine_never_imports_the_user_interface(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith(("corepipe_tui", "textual"))]


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_nothing_prints_to_standard_output(path: Path) -> None:
    """It belongs to the core; only --plan writes there, and says so with sys.stdout."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    if path.name not in ("showplan.py", "__main__.py"):
        assert "sys.stdout" not in path.read_text(encoding="utf-8")


protocol = [name for name in vars(Arch) if not name.startswith("_")]


@pytest.mark.parametrize("arch", ARCHES, ids=[arch.name for arch in ARCHES])
@pytest.mark.parametrize("member", protocol)
def test_every_machine_has_the_whole_protocol(arch: Arch, member: str) -> None:
    wanted = inspect.getattr_static(Arch, member)
    if isinstance(wanted, property):
        assert not callable(getattr(arch, member))
    else:
        assert inspect.signature(getattr(arch, member)).parameters.keys() == (
            inspect.signature(wanted).parameters.keys() - {"self"}
        )


def test_machines_are_told_by_name_and_class() -> None:
    identities = [(arch.name, arch.machine, arch.elf.elf_class) for arch in ARCHES]
    assert len({name for name, _, _ in identities}) == len(ARCHES)
    for host in ("x86_64", "amd64"):
        for machine in (0, Machine.X86_64):
            assert arch_of(ElfClass.ELF64, machine, host).name == "x86_64"
        for machine in (0, Machine.I386):
            assert arch_of(ElfClass.ELF32, machine, host).name == "i386"


def test_a_machine_that_is_not_known_is_refused_in_words() -> None:
    with pytest.raises(DumpFailedError, match="64-bit programs on riscv64 are not supported"):
        arch_of(ElfClass.ELF64, host="riscv64")
    with pytest.raises(DumpFailedError, match=r"32-bit programs \(the x32 ABI\) on x86_64 are not supported"):
        arch_of(ElfClass.ELF32, Machine.X86_64, "x86_64")
