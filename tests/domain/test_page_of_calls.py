"""What docs/commands_and_queries.md shows, runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.test_page import program

PAGE = Path(__file__).parents[2] / "docs" / "commands_and_queries.md"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgresql"])
def test_the_program_of_the_page_runs(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "page.py").write_text(program(PAGE))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    url = request.getfixturevalue("postgresql_url") if place == "postgresql" else f"sqlite:///{tmp_path}/bank.db"
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(PAGE.parents[1]), "ENSUE_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "clerk-7: Deposit(account_id='a1', amount=Decimal('100')) at " in done.stdout
