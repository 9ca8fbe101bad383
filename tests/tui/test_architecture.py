"""What corepipe_tui may know of the engine, and how text gets on the screen."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from ..support.engine import environment
from .conftest import python_sources

SOURCES = python_sources("corepipe_tui")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_public_names_of_the_engine_are_used(path):
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("corepipe_engine"):
            assert not any(part.startswith("_") for part in (node.module or "").split(".") if part != "__main__")
            for alias in node.names:
                modules.add(alias.asname or alias.name)
                assert not alias.name.startswith("_") or alias.name == "__version__"
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value
            assert isinstance(owner, ast.Name), f"line {node.lineno}: {node.attr}"
            assert owner.id in ("self", "cls"), f"line {node.lineno}: {owner.id}.{node.attr}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_text_is_never_taken_for_markup(path):
    """A Static that is given more than a literal, and every notification, must say that it is no markup."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in ("Static", "notify"):
            continue
        first = node.args[0] if node.args else None
        literal = isinstance(first, ast.Constant)
        content = isinstance(first, (ast.Call, ast.Attribute))  # a Content of ours
        plain = any(
            word.arg == "markup" and isinstance(word.value, ast.Constant) and not word.value.value
            for word in node.keywords
        )
        assert plain or literal or content, f"line {node.lineno}: {ast.unparse(node)}"


def test_the_engine_never_reaches_the_user_interface():
    code = (
        "import pkgutil, sys, corepipe_engine\n"
        "for module in pkgutil.walk_packages(corepipe_engine.__path__, 'corepipe_engine.'):\n"
        "    module.name.endswith('__main__') or __import__(module.name)\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('corepipe_tui', 'textual', 'rich', 'psutil', 'humanize')])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment()
    )
    assert result.stdout.strip() == "[]"
