"""Commands are about the log of one tenant, where each has one."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ensue

APP = """
from ensue import App, Event, Personal

class Baked(Event, key="bread", subject="bread"):
    bread: str
    baker: Personal[str] = "Ada"

app = App("bakery", url="sqlite:///{tenant}.db")

@app.on
async def sell(baked: Baked) -> None: ...
"""


@pytest.fixture
def bakery(folder: Path) -> Path:
    (folder / "bakery.py").write_text(APP)
    sys.path.insert(0, str(folder))
    module: Any = importlib.import_module("bakery")

    async def run() -> None:
        async with module.app:
            for name in ("acme", "globex"):
                async with module.app.tenant(name, create=True) as one:
                    await one.publish(module.Baked(bread=f"of-{name}", baker=f"baker of {name}"))

    asyncio.run(run())
    return folder


APPLICATION = ("--app", "bakery:app")


def test_a_command_shows_the_log_of_the_tenant_that_is_named_and_nothing_of_others(bakery: Path, ensue_: Ensue) -> None:
    for command in (("log",), ("log", "--json"), ("trace", "1"), ("consumers",)):
        result = ensue_(*command, *APPLICATION, "--tenant", "acme")
        assert result.exit_code == 0, result.output
        assert "globex" not in result.output
    assert "baker of acme" in ensue_("log", *APPLICATION, "--tenant", "acme").output
    result = ensue_("forget", "bread=of-acme", "--yes", *APPLICATION, "--tenant", "acme")
    assert result.exit_code == 0, result.output
    assert "baker of acme" not in ensue_("log", *APPLICATION, "--tenant", "acme").output
    assert "baker of globex" in ensue_("log", *APPLICATION, "--tenant", "globex").output


def test_a_command_without_a_tenant_or_with_one_that_is_none_says_so(bakery: Path, ensue_: Ensue) -> None:
    before = sorted(bakery.iterdir())
    for arguments, words in (
        (("log", *APPLICATION), "say which, --tenant NAME"),
        (("run", "bakery:app"), "--tenant NAME"),
        (("log", *APPLICATION, "--tenant", "nobody"), "there is no log at"),
        (("log", *APPLICATION, "--tenant", "../acme"), "is no name for a tenant"),
        (("log", "--url", "sqlite:///acme.db", "--tenant", "acme"), "there are no tenants"),
    ):
        result = ensue_(*arguments)
        assert result.exit_code in (2, 3), result.output
        assert words in result.output
    assert sorted(bakery.iterdir()) == before
