"""`ensue new`: the project works as it is made, with the commands its README names."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Ensue, Start


def test_a_new_project_runs_handles_an_order_and_explains_it(folder: Path, ensue_: Ensue, start: Start) -> None:
    result = ensue_("new", "bakery")
    assert result.exit_code == 0
    assert "cd bakery" in result.stdout
    project = folder / "bakery"
    running = start("run", "app:app", cwd=project)
    assert running.stderr is not None
    while "ship" not in running.stderr.readline():
        assert running.poll() is None
    placed = subprocess.run(
        [sys.executable, "place_order.py", "o1", "9.50"], cwd=project, capture_output=True, text=True, check=True
    )
    assert placed.stdout == "order o1 is stored at position 1\n"
    following = start("log", "--follow", cwd=project)
    assert following.stdout is not None
    types = [following.stdout.readline().split("\t")[2] for _ in range(3)]
    assert types == ["OrderPlaced", "PaymentProcessed", "OrderShipped"]
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 0
    traced, _ = start("trace", "1", cwd=project).communicate(timeout=20)
    assert "take_payment handled" in traced


def test_the_tests_of_a_new_project_pass(folder: Path, ensue_: Ensue) -> None:
    ensue_("new", "bakery")
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=folder / "bakery",
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout


def test_a_new_project_is_accepted_by_a_strict_type_checker(folder: Path, ensue_: Ensue) -> None:
    ensue_("new", "bakery")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "app.py", "place_order.py"],
        cwd=folder / "bakery",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_a_folder_that_is_not_empty_is_left_alone(folder: Path, ensue_: Ensue) -> None:
    (folder / "bakery").mkdir()
    (folder / "bakery" / "recipe").write_text("flour")
    result = ensue_("new", "bakery")
    assert result.exit_code == 2
    assert "bakery exists and is not empty; nothing was written" in result.stderr
    assert [path.name for path in (folder / "bakery").iterdir()] == ["recipe"]


@pytest.mark.parametrize("name", ["3 breads", "class", "bäckerei", "-", ".."])
def test_a_name_that_cannot_be_one_is_refused(folder: Path, ensue_: Ensue, name: str) -> None:
    result = ensue_("new", "--", name)
    assert result.exit_code == 2
    assert "is not a name for a project" in result.stderr
    assert list(folder.iterdir()) == []
