"""The shape of the code: sizes, names, what is public, and what may not stand in it."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

import ensue
from tests.tidy.repository import PACKAGE, ROOT, module_name, parsed, public_names, python_files, string_list

FILE_LINES, FUNCTION_LINES = 750, 70
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "core", "misc", "tools", "stuff"}
ALL_CODE = ("ensue", "tests", "bench", "docs")


def at(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def test_no_file_is_longer_than_750_lines() -> None:
    sizes = {file: len(file.read_text().splitlines()) for file in python_files(*ALL_CODE)}
    too_long = [f"{at(file, size)}" for file, size in sizes.items() if size > FILE_LINES]
    assert not too_long, f"split these, or make them simpler: {too_long}"


def test_no_function_is_longer_than_70_lines() -> None:
    too_long = [
        f"{at(file, node.lineno)} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for file in python_files(*ALL_CODE)
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not too_long, "\n".join(too_long)


def test_no_module_has_a_name_that_says_nothing() -> None:
    guilty = [
        str(file) for file in python_files(*ALL_CODE) if NAMES_THAT_SAY_NOTHING & {file.stem, *file.parent.parts[-2:]}
    ]
    assert not guilty


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in python_files("ensue", "bench")
        if parsed(file).body and ast.get_docstring(parsed(file)) is None
    ]
    assert not silent


def test_all_lists_what_is_public_in_every_module() -> None:
    problems: list[str] = []
    for file in python_files("ensue"):
        module = parsed(file)
        listed, public = string_list(module, "__all__"), list(public_names(module))
        if listed is None:
            if public:
                problems.append(f"{at(file, 1)} has no __all__, and {public}")
            continue
        problems += [
            f"{at(file, 1)} does not list {name}: list it, or call it _{name}" for name in public if name not in listed
        ]
        problems += [f"{at(file, 1)} lists {name} twice" for name in set(listed) if listed.count(name) > 1]
        found = vars(importlib.import_module(module_name(file)))
        problems += [f"{at(file, 1)} lists {name}, which it does not have" for name in listed if name not in found]
    assert not problems, "\n".join(problems)


def test_modules_take_from_each_other_only_what_is_public() -> None:
    modules = {module_name(file): string_list(parsed(file), "__all__") or [] for file in python_files("ensue")}
    problems = [
        f"{at(file, node.lineno)} imports {alias.name} from {node.module}, whose __all__ does not list it"
        for file in python_files("ensue")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ImportFrom) and node.module in modules
        for alias in node.names
        if alias.name not in modules[node.module] and f"{node.module}.{alias.name}" not in modules
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("package", ["ensue", "ensue.patterns", "ensue.testing", "ensue.errors"])
def test_every_public_name_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    silent = [name for name in module.__all__ if not _described(getattr(module, name), name)]
    assert not silent, f"{package}: {silent} have no docstring"


def test_every_public_method_of_the_front_door_says_what_it_does() -> None:
    classes = [vars(ensue)[name] for name in ensue.__all__ if isinstance(vars(ensue)[name], type)]
    silent = [
        f"{cls.__name__}.{name}"
        for cls in classes
        if cls.__module__.startswith("ensue.app")
        for name, value in vars(cls).items()
        if not name.startswith("_") and callable(value) and not value.__doc__
    ]
    assert not silent


def _described(value: object, name: str) -> bool:
    if isinstance(value, type) or callable(value):
        return bool(value.__doc__)
    # A constant or an alias is described by the text below its assignment.
    files = [file for file in python_files("ensue") if re.search(rf"^{name}\b.*=", file.read_text(), re.MULTILINE)]
    return any(_text_below(file, name) for file in files)


def _text_below(file: Path, name: str) -> bool:
    body = parsed(file).body
    for node, after in itertools.pairwise(body):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return False


def test_what_is_to_do_names_its_issue() -> None:
    word = "TO" + "DO"
    pattern = re.compile(rf"\b({word}|FIX{'ME'}|X{'XX'})\b(?!\(#\d+\))")
    lines = [
        f"{at(file, number)} {line.strip()}"
        for file in python_files(*ALL_CODE)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not lines, f"write {word}(#issue), or do it: {lines}"


def test_ignores_of_the_checkers_are_few_and_name_what_they_ignore() -> None:
    files = python_files("ensue", "tests", "bench")
    pattern = re.compile(r"#\s*(?:type: ignore|pyright: ignore|noqa)(\[|: ?)?")
    lines = [line for file in files for line in file.read_text().splitlines() if file.name != Path(__file__).name]
    ignores = [match for line in lines if (match := pattern.search(line))]
    assert all(match.group(1) for match in ignores), "an ignore names its rule"
    assert len(ignores) * 1000 <= 5 * len(lines), f"{len(ignores)} ignores in {len(lines)} lines; at most 5 in 1,000"


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
