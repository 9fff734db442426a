"""`ensue views --database`: the versions of views in another database, shown and changed as those beside the log are."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ensue import App
from ensue.cli.program import ensue as program
from ensue.domain.views import keeper
from tests.domain.balances import Balance, Deposited, ledger


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.1)


def bank(folder: Path) -> App:
    app = App("bank", url=f"sqlite:///{folder}/bank.db")
    app.view(database=f"sqlite:///{folder}/rows.db")(Balance)
    app.view(schema=ledger.schema, when="inline")(ledger.function)
    return app


def ensue(folder: Path, *arguments: str, there: bool = True) -> Result:
    where = ["--url", f"sqlite:///{folder}/bank.db"]
    if there:
        where += ["--database", f"sqlite:///{folder}/rows.db"]
    return CliRunner().invoke(program, ["views", *arguments, *where])


def listed(folder: Path, *, there: bool = True) -> dict[int, dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ensue(folder, "--json", there=there).output)["views"]
    return {one["version"]: one for one in found}


def test_versions_in_another_database_are_shown_and_changed(tmp_path: Path) -> None:
    async def fill(count: int) -> None:
        async with bank(tmp_path) as app:
            receipt = await app.publish(Deposited(account_id="a0", amount=Decimal(1)))
            for number in range(1, count):
                receipt = await app.publish(Deposited(account_id=f"a{number}", amount=Decimal(1)))
            await app.get(Balance, "a0", after=receipt.position)
            async with asyncio.timeout(20):
                while any(one["state"] == "building" for one in (await asyncio.to_thread(listed, tmp_path)).values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    asyncio.run(fill(3))
    (version,) = listed(tmp_path).values()
    assert (version["name"], version["state"], version["current"], version["rows"]) == (
        "balances",
        "following",
        True,
        3,
    )
    (inline,) = listed(tmp_path, there=False).values()
    assert (inline["name"], inline["state"], inline["kept"]) == ("deposits", "following", "inline")
    assert "balances" in ensue(tmp_path).output
    assert ensue(tmp_path, "pause", "balances").exit_code == 0
    assert listed(tmp_path)[1]["state"] == "paused"
    assert ensue(tmp_path, "resume", "balances").exit_code == 0
    assert ensue(tmp_path, "rebuild", "balances").exit_code == 0
    assert listed(tmp_path)[2]["state"] == "building"
    asyncio.run(fill(4))
    shown = listed(tmp_path)
    assert (shown[2]["current"], shown[2]["rows"], shown[1]["current"]) == (True, 4, False)
    assert ensue(tmp_path, "swap", "balances", "1").exit_code == 0
    assert listed(tmp_path)[1]["current"]
    assert ensue(tmp_path, "swap", "balances", "2").exit_code == 0
    assert ensue(tmp_path, "drop", "balances", "1").exit_code == 0
    assert list(listed(tmp_path)) == [2]
    assert ensue(tmp_path, "drop", "nothing").exit_code != 0
