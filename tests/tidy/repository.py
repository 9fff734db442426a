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
            decorators = map(ast.unparse, node.decorator_list)
            yield from () if any(".command(" in text for text in decorators) else (node.name,)


@functools.cache
def known_tests() -> Mapping[str, frozenset[str]]:
    """Of every test file: the names of its tests, `Class::test` for those in classes, inherited ones included."""
    return {str(file.relative_to(ROOT)): frozenset(_tests(parsed(file))) for file in python_files("tests")}


def _tests(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, _FUNCTIONS) and node.name.startswith("test_"):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            # A test that stands elsewhere becomes one of this file by being imported.
            yield from (alias.name for alias in node.names if alias.name.startswith("test_"))
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield node.name
            yield from (f"{node.name}::{name}" for name in _methods(node))


def _methods(cls: ast.ClassDef) -> Iterator[str]:
    yield from (node.name for node in cls.body if isinstance(node, _FUNCTIONS) and node.name.startswith("test_"))
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id in _contracts():
            yield from _methods(_contracts()[base.id])


@functools.cache
def _contracts() -> Mapping[str, ast.ClassDef]:
    """The suites that are shipped for adapters."""
    files = python_files("ensue/testing")
    return {node.name: node for file in files for node in parsed(file).body if isinstance(node, ast.ClassDef)}


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
