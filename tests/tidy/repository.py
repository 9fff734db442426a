"""The repository as its own tests see it: which files there are, and what stands in them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = [
    "PACKAGE",
    "ROOT",
    "module_name",
    "papers",
    "parsed",
    "public_names",
    "python_files",
    "string_list",
    "known_tests",
]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ensue"


def python_files(*folders: str) -> list[Path]:
    """Every Python file below these folders of the repository."""
    found = [file for folder in folders for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts]
    assert found, f"no Python file below {folders}"
    return sorted(found)


def papers() -> list[Path]:
    """Every Markdown file that is part of the project."""
    folders = [ROOT / name for name in ("docs", "ensue", "bench", "tests")]
    return sorted([*ROOT.glob("*.md"), *(file for folder in folders for file in folder.rglob("*.md"))])


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def string_list(module: ast.Module, name: str) -> list[str] | None:
    """The texts of `name = [...]` at the top of a module; None where there is no such line."""
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            values: list[str] = ast.literal_eval(node.value)
            return values
    return None


def public_names(module: ast.Module) -> Iterator[str]:
    """Names of the functions and classes at the top of a module, without those that begin with an underscore and those
    that a command line knows by their decorator."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not any(".command(" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield node.name


@functools.cache
def known_tests() -> Mapping[str, frozenset[str]]:
    """Of every test file: the names of its tests, `Class::test` for those in classes."""
    return {str(file.relative_to(ROOT)): frozenset(_tests(parsed(file))) for file in python_files("tests")}


def _tests(module: ast.Module) -> Iterator[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in module.body:
        if isinstance(node, functions) and node.name.startswith("test_"):
            yield node.name
        elif isinstance(node, ast.ImportFrom | ast.Assign):
            # A suite shipped in ensue.testing becomes tests by being imported or assigned in a test file.
            names = (
                [alias.asname or alias.name for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else [target.id for target in node.targets if isinstance(target, ast.Name)]
            )
            yield from (name for name in names if name.startswith(("test_", "Test")))
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield node.name
            for inner in node.body:
                if isinstance(inner, functions) and inner.name.startswith("test_"):
                    yield f"{node.name}::{inner.name}"
