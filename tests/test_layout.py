"""The rules of the layout (CONTRIBUTING.md) that no linter checks."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "artifact",
    "autotune",
    "cli",
    "compiler",
    "kernels",
    "models",
    "passes",
    "policies",
    "reference",
    "runtime",
    "spec",
    "tasks",
    "tuning_db",
)
LONGEST_FILE = 400  # lines; CONTRIBUTING.md asks for 300


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported_modules(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "dllmc":
            names = {alias.name for alias in node.names}
            found |= {f"dllmc.{name}" if name in ROOMS else "dllmc" for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def modules_after(statement: str) -> set[str]:
    """Modules loaded in a fresh process, away from the repository, after `statement`."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_linked_into_the_package(room: str) -> None:
    link = ROOT / "src" / "dllmc" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..", "..", room)
    assert (link / "__init__.py").is_file()


def test_every_link_is_a_room() -> None:
    links = {path.name for path in (ROOT / "src" / "dllmc").iterdir() if path.is_symlink()}
    assert links == set(ROOMS)


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in python_files(*ROOMS)}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_no_file_imports_a_room_by_its_bare_name() -> None:
    bare = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in python_files(*ROOMS, "src/dllmc", "tests", "benchmarks", "examples")
        for module in imported_modules(ast.parse(path.read_text()))
        if module.partition(".")[0] in ROOMS
    }
    assert not bare


def test_no_room_but_cli_imports_the_front() -> None:
    # The front reaches every room, so whoever imports it gets them all.
    fronted = [
        str(path.relative_to(ROOT))
        for path in python_files(*(room for room in ROOMS if room != "cli"))
        if "dllmc" in imported_modules(ast.parse(path.read_text()))
    ]
    assert not fronted


@pytest.mark.parametrize(
    "statement", ["import dllmc", "import dllmc; dllmc.load", "import dllmc.runtime"]
)
def test_production_start_loads_neither_compiler_nor_tuner(statement: str) -> None:
    loaded = modules_after(statement)
    assert "dllmc" in loaded
    assert not loaded & {"dllmc.autotune", "dllmc.compiler", "dllmc.passes", "optuna", "typer"}


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in python_files(*ROOMS)
    }
    assert not {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE}


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_exports_has_a_docstring(room: str) -> None:
    module = importlib.import_module(f"dllmc.{room}")
    exported = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    bare = [
        name
        for name, value in exported.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__
    ]
    assert module.__doc__
    assert not bare
