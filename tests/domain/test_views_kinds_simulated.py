"""Views of each kind through crashes at every step: rows are what follows from the log, however their process dies."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ensue import App, Event, Position
from ensue.domain.views import inline, keeper
from ensue.errors import EnsueError
from ensue.testing import AppSimulation, simulate
from tests.domain.balances import (
    ACCOUNTS,
    Balance,
    Closed,
    Deposited,
    Opened,
    Transferred,
    deposited,
    events_of,
    folded,
    ledger,
)


class Asked(Event, key="account_id"):
    account_id: str


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PAGE", 3)
    monkeypatch.setattr(inline, "MISSED", 3)


def bank(**options: Any) -> App:
    app = App("bank")
    view: Any = app.view
    view(**options)(Balance)
    if options.get("when") != "live":
        view(schema=ledger.schema, **options)(ledger.function)

    @app.on
    async def answers(event: Asked) -> Deposited:
        return Deposited(account_id=event.account_id, amount=Decimal(3))

    return app


EVENTS: list[Event] = [
    Opened(account_id="a0", owner="o"),
    Deposited(account_id="a0", amount=Decimal(5)),
    Deposited(account_id="a1", amount=Decimal(7)),
    Transferred(transfer_id="t1", source="a0", target="a1", amount=Decimal(2)),
    Asked(account_id="a2"),
    Deposited(account_id="a1", amount=Decimal(1)),
    Closed(account_id="a0"),
    Asked(account_id="a0"),
]


async def rows_by_key(app: App) -> dict[str, Any]:
    """What readers get, once the view has all that the log has."""
    store = app.open_store()
    await store.read(limit=1)
    await app._open_engine().domain.views.caught_up(Position.of(store.log_id, 1, store.head()), timeout_seconds=300)
    found = {account: await app.get(Balance, account) for account in ACCOUNTS}
    rows = {account: (row.owner, row.balance, row.moves) for account, row in found.items() if row is not None}
    assert rows == folded(await events_of(app)), rows
    return rows


async def story(sim: AppSimulation) -> None:
    for first in range(0, len(EVENTS), 2):
        for event in EVENTS[first : first + 2]:
            try:
                await sim.app.publish(event, idempotency_key=f"e{EVENTS.index(event)}")
            except EnsueError:
                continue
        await sim.advance(timedelta(seconds=1))
    await sim.run_until_quiet()
    await sim.inside(rows_by_key)


def test_inline_rows_follow_through_a_crash_at_every_step() -> None:
    async def inline_story(sim: AppSimulation) -> None:
        await story(sim)
        events = await sim.inside(events_of)
        assert await sim.rows("SELECT account, number, hundredths FROM deposits ORDER BY account") == deposited(events)
        shown = await sim.rows("SELECT account_id, owner FROM balances ORDER BY account_id")
        assert shown == [(account, row[0]) for account, row in sorted(folded(events).items())]

    checked = simulate(bank(when="inline"), runs=20, pairs=20)(inline_story)
    checked()
    assert checked.report is not None
    assert {"view.created", "view.taken"} <= checked.report.failpoints.keys()


def test_live_rows_follow_through_a_crash_at_every_step() -> None:
    simulate(bank(when="live"), runs=20, pairs=20)(story)()


def test_rows_in_plain_sql_follow_through_a_crash_at_every_step() -> None:
    app = App("bank")
    app.view(schema=ledger.schema)(ledger.function)

    async def sql_story(sim: AppSimulation) -> None:
        for number, event in enumerate(EVENTS):
            await sim.app.publish(event, idempotency_key=f"e{number}")
        await sim.run_until_quiet()
        rows: list[tuple[Any, ...]] = []
        for _ in range(60):
            found = await sim.rows("SELECT name FROM sqlite_schema WHERE name = 'deposits'")
            rows = await sim.rows("SELECT account, number, hundredths FROM deposits ORDER BY 1") if found else []
            if rows == deposited(await sim.inside(events_of)):
                return
            await sim.advance(timedelta(seconds=1))
        raise AssertionError(rows)

    checked = simulate(app, runs=20, pairs=20)(sql_story)
    checked()
    assert checked.report is not None
    assert {"view.created", "view.taken"} <= checked.report.failpoints.keys()


def test_rows_elsewhere_follow_through_a_crash_at_every_step(tmp_path: Path) -> None:
    app = App("bank")
    app.view(database=f"sqlite:///{tmp_path}/rows.db")(Balance)

    async def elsewhere(sim: AppSimulation) -> None:
        try:
            await story(sim)
        finally:  # each run begins with a database that is not there
            _clear(tmp_path)

    checked = simulate(app, runs=20, pairs=20)(elsewhere)
    checked()
    assert checked.report is not None
    assert {"view.created", "view.taken", "target.commit", "target.committed"} <= checked.report.failpoints.keys()


def _clear(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
