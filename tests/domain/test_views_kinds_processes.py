"""Views of each kind are kept by several processes that are killed again and again: each event is in each row once, in order."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ensue import Event
from tests.domain.balances import Closed, Deposited, Noted, Opened, Transferred, events_of, ledger_of
from tests.domain.kinds_child import Inline, Rows, bank
from tests.servers.postgresql import empty_schema


def expected(events: list[Event]) -> dict[str, tuple[int, str]]:
    """Account → how many events touched it, and the first letters of the last of them."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in events:
        if isinstance(event, Transferred):
            for account in {event.source, event.target}:
                found[account].append("T")
        elif isinstance(event, Deposited | Opened | Closed):
            found[event.account_id].append(type(event).__name__[0])
    return {account: (len(letters), "".join(letters)[-200:]) for account, letters in found.items()}


def started(url: str, rows_url: str, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.domain.kinds_child", url, rows_url, str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    _, said = process.communicate()
    assert "Traceback" not in said, said


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgresql"])
def test_rows_of_each_kind_survive_kills_of_the_processes_that_keep_them(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(place)
    url, rows_url = f"sqlite:///{tmp_path}/bank.db", f"sqlite:///{tmp_path}/rows.db"
    if place == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        rows_url = empty_schema(url)
    seed = 1
    running = [started(url, rows_url, seed)]
    try:
        for _ in range(5):
            seed += 1
            running.append(started(url, rows_url, seed))
            stdout = running[-1].stdout
            assert stdout is not None
            assert stdout.readline() == "open\n", running[-1].communicate()
            asyncio.run(_until_more(url, rows_url, chance.randrange(20, 60)))
            killed(running.pop(0))
    finally:
        for process in running:
            killed(process)
    asyncio.run(_check(url, rows_url))


async def _until_more(url: str, rows_url: str, count: int) -> None:
    """So many events more."""
    async with asyncio.timeout(60), bank(url, rows_url).connected() as app:
        head = app.open_store().head()
        while app.open_store().head() < head + count:
            await app.open_store().changed(app.open_store().head())


async def _check(url: str, rows_url: str) -> None:
    async with bank(url, rows_url) as app:
        receipt = await app.publish(Noted(account_id="a1"))
        rows = expected(await events_of(app))
        assert len(rows) > 4
        for account, found in rows.items():
            inline = await app.get(Inline, account)
            elsewhere = await app.get(Rows, account, after=receipt.position)
            assert inline is not None
            assert elsewhere is not None
            assert (inline.taken, inline.order) == found
            assert (elsewhere.taken, elsewhere.order) == found
        await ledger_of(app)
