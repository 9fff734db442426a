"""What is said when MODULE:APP leads to no application. Never a traceback of Ensue; one of the user's where it is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ensue


def said(ensue_: Ensue, name: str) -> str:
    result = ensue_("run", name)
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr


def test_a_module_that_is_not_there_is_named_with_the_folder(folder: Path, ensue_: Ensue) -> None:
    assert f"there is no module 'shopp' in {folder}, nor is one installed" in said(ensue_, "shopp:app")


def test_a_package_that_is_not_there_is_named(folder: Path, ensue_: Ensue) -> None:
    assert "there is no module 'shopp'" in said(ensue_, "shopp.main:app")


@pytest.mark.parametrize("name", ["app", "app.py", ":app", "app:", "a b:app"])
def test_what_does_not_name_an_application_says_how_one_is_named(folder: Path, ensue_: Ensue, name: str) -> None:
    assert "does not name an application; write module:name, such as " in said(ensue_, name)


def test_a_name_that_the_module_lacks_lists_its_applications(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text('from ensue import App\nshop = App("shop")\nother = App("other")\n')
    assert "the module bakery has no 'app'; it has bakery:shop, bakery:other" in said(ensue_, "bakery:app")


def test_what_is_no_application_says_what_it_is(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text("app = 3\ndef make(): ...\n")
    assert "bakery:app is a int, not an App; it has no App at its top level" in said(ensue_, "bakery:app")
    assert "bakery:make is a function, not an App" in said(ensue_, "bakery:make")


def test_a_module_that_raises_shows_its_own_traceback_only(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text("import broken_part\n")
    (folder / "broken_part.py").write_text("def oven():\n    return 1 / 0\n\noven()\n")
    text = said(ensue_, "bakery:app")
    assert text.startswith("Traceback (most recent call last):\n")
    assert [line.split(", line")[0].strip() for line in text.splitlines() if line.startswith("  File")] == [
        f'File "{folder}/bakery.py"',
        *[f'File "{folder}/broken_part.py"'] * 2,
    ]
    assert text.splitlines()[-1] == (
        "ensue: the module bakery raised ZeroDivisionError while it was imported, see above."
    )


def test_a_module_that_lacks_another_one_shows_where_it_is_imported(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text("import not_installed_anywhere\n")
    text = said(ensue_, "bakery:app")
    assert "import not_installed_anywhere" in text
    assert "raised ModuleNotFoundError" in text


def test_a_module_with_a_mistake_in_its_grammar_shows_the_line(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text("app = App(\n")
    text = said(ensue_, "bakery:app")
    assert "bakery.py" in text
    assert "SyntaxError" in text


def test_a_module_that_exits_does_not_end_the_command_silently(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text("raise SystemExit(0)\n")
    assert "raised SystemExit" in said(ensue_, "bakery:app")


def test_an_application_without_handlers_says_how_to_register_one(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery.py").write_text('from ensue import App\napp = App("bakery")\n')
    assert "bakery:app has no handlers to run; register some with @app.on" in said(ensue_, "bakery:app")


def test_without_a_name_the_application_of_pyproject_toml_is_meant(folder: Path, ensue_: Ensue) -> None:
    (folder / "pyproject.toml").write_text('[tool.ensue]\napp = "nowhere:app"\n')
    result = ensue_("run")
    assert result.exit_code == 2
    assert "there is no module 'nowhere'" in result.stderr


def test_without_any_name_it_is_said_where_to_put_one(folder: Path, ensue_: Ensue) -> None:
    result = ensue_("run")
    assert result.exit_code == 2
    assert 'app = "module:app" under [tool.ensue]' in result.stderr


def test_a_declaration_that_is_no_text_is_wrong(folder: Path, ensue_: Ensue) -> None:
    (folder / "pyproject.toml").write_text("[tool.ensue]\napp = 3\n")
    assert 'write app = "module:app"' in ensue_("run").stderr
