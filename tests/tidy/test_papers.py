"""The papers of the project: what they name is there, and what is there they name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ensue.cli.program import COMMANDS
from tests.tidy.channel_tables import CHANNELS, declared_on_page, written
from tests.tidy.guarantees import PAGE, collected, generated, with_generated
from tests.tidy.repository import PACKAGE, ROOT, known_tests, papers, python_files

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NODE_ID = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
PROMISES = 10


def read(name: str) -> str:
    return (ROOT / name).read_text()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_every_relative_link_leads_somewhere() -> None:
    broken = [
        f"{paper.relative_to(ROOT)}: {target}"
        for paper in papers()
        for target in LINK.findall(without_code(paper.read_text()))
        if "://" not in target and not (paper.parent / target.partition("#")[0]).exists()
    ]
    assert not broken, "\n".join(broken)


def test_files_named_in_the_papers_are_there() -> None:
    named = re.compile(r"`((?:ensue|tests|docs|bench|examples)/[\w/.-]+|[\w/]+\.(?:py|md|toml))`")
    missing = [
        f"{paper.relative_to(ROOT)}: {name}"
        for paper in papers()
        for name in named.findall(without_code(paper.read_text()))
        if not (ROOT / name).exists()
        and not (PACKAGE / name).exists()
        and not any(file.name == name for file in python_files("ensue", "tests", "docs"))
    ]
    assert not missing, "\n".join(missing)


def test_the_map_of_the_code_names_every_package_and_no_other() -> None:
    table = re.findall(r"^\| ((?:`\w+(?:\.py|/)`(?:, )?)+) \|", read("ARCHITECTURE.md"), re.MULTILINE)
    named = {name.rstrip("/") for cell in table for name in re.findall(r"`([\w.]+/?)`", cell)}
    there = {
        path.name
        for path in PACKAGE.iterdir()
        if (path.is_dir() and (path / "__init__.py").exists()) or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert named == there


def test_every_target_of_make_is_explained_and_every_explained_one_is_there() -> None:
    makefile = read("Makefile")
    explained = set(re.findall(r'@echo "make ([\w-]+) ', makefile))
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    assert explained == targets - {"help"}
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == targets


def test_commands_shown_in_the_papers_exist() -> None:
    makefile = set(re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.MULTILINE))
    for paper in papers():
        text = paper.read_text()
        shown = set(re.findall(r"^(?:\$ |    )?ensue ([a-z][\w-]*)", text, re.MULTILINE))
        assert shown <= COMMANDS.keys(), f"{paper.name}: {shown - COMMANDS.keys()}"
        assert set(re.findall(r"`make ([\w-]+)`", text)) <= makefile, paper.name


@pytest.mark.parametrize("number", range(1, PROMISES + 1))
def test_each_promise_names_a_test_that_exists(number: int) -> None:
    sections = re.split(r"^## (\d+)\. ", read("docs/guarantees.md"), flags=re.MULTILINE)[1:]
    by_number = dict(zip(map(int, sections[::2]), sections[1::2], strict=True))
    assert sorted(by_number) == list(range(1, PROMISES + 1))
    named = NODE_ID.findall(by_number[number])
    assert named, f"promise {number} names no test"
    missing = [f"{file}::{test}" for file, test in named if test not in known_tests().get(file, ())]
    assert not missing, f"promise {number} names tests that do not exist: {missing}"


def test_what_each_backend_gives_is_what_would_be_written_now() -> None:
    page = PAGE.read_text()
    now = with_generated(page, generated(collected()))
    assert page == now, "`make guarantees` runs the contract on every backend and writes it anew"


def test_what_each_broker_gives_and_its_parameters_are_what_would_be_written_now() -> None:
    now = written(collected(), declared_on_page())
    assert CHANNELS.read_text() == now, (
        "`make guarantees` runs the contract on every broker and writes it anew; `python -m tests.tidy.channel_tables` the parameters alone"
    )


def test_the_readme_makes_the_promises_of_the_guarantees() -> None:
    titles = dict(re.findall(r"^## (\d+)\. (.+)$", read("docs/guarantees.md"), re.MULTILINE))
    shown = dict(re.findall(r"^\| (\d+) \| \*\*(.+?)\.\*\*", read("README.md"), re.MULTILINE))
    assert shown == titles


def test_decisions_are_numbered_and_say_what_was_rejected() -> None:
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text()
        assert text.startswith(f"# {int(record.name[:4])}. "), record.name
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Rejected", "Consequences"], record.name
        assert len(text.splitlines()) <= 60, f"{record.name}: one page"
    index = read("docs/decisions/README.md")
    assert all(f"({record.name})" in index for record in records)


def test_settings_from_the_environment_are_documented() -> None:
    found = re.compile(r"""["'](ENSUE_[A-Z_]+)["']""")
    used = {name for file in python_files("ensue") for name in found.findall(file.read_text())}
    text = "".join(paper.read_text() for paper in papers())
    assert used
    assert not [name for name in used if name not in text]


def test_the_change_log_begins_with_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[0] == version


def test_the_licence_is_the_one_that_is_declared() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert "Apache License" in read("LICENSE")
    assert "Apache-2.0" in read("README.md")


def test_nothing_names_a_folder_of_somebodys_machine() -> None:
    folder = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|mnt)/\w")
    files: list[Path] = [
        *papers(),
        *python_files("ensue", "tests", "bench", "docs"),
        *map(ROOT.joinpath, ("Makefile", "pyproject.toml")),
    ]
    lines = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if folder.search(line)
    ]
    assert not lines
