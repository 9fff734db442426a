"""One run of the bank: its customers in processes that are killed, the ledger looking on, and all that is checked afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import cast

import msgspec

from ensue import App
from ensue.domain.views import registry
from ensue.domain.views.registry import Database
from ensue.examples.bank.accounts import Account
from ensue.examples.bank.application import bank
from ensue.examples.bank.auditing import LARGE
from ensue.examples.bank.clients import clients as customers
from ensue.examples.bank.clients import opening
from ensue.examples.bank.ledger import Ledger
from ensue.examples.bank.messages import PayIn, PayInterest, PayOut, Transfer, is_the_banks_own
from ensue.examples.bank.statements import Statement
from ensue.examples.chance import Chance
from ensue.examples.crowd import DIFFERS, GRANTED, Crowd, Looking, Settings, on_a_log
from ensue.world import World

__all__ = ["Report", "run"]

LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
"""For views and the auditor, to have done what is left when the customers are gone."""
TIMES_COMPARED = 25
MODULE = "ensue.examples.bank.clients"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. `problems` says in words what did not hold, and is empty."""

    seconds: float
    clients: int
    processes: int
    kills: int
    commands_answered: int
    commands_per_second: float
    refused: dict[str, int]
    movements: int
    events_in_log: int
    sum_of_balances: str
    balances_at_times_compared: int
    rows_compared: int
    problems: list[str]


async def run(settings: Settings, world: World, *, stop: asyncio.Event, show: Callable[[Looking], None]) -> Report:
    """Open the accounts, let customers do what they do for so long or until `stop`, and check. Errors: those of the store."""
    app, ledger = bank(settings.url), Ledger()
    async with app:
        settings = on_a_log(settings, app.open_store().head())
        for key, command in opening():
            await app.send(command, idempotency_key=key)

        async def count() -> tuple[str, int]:
            await ledger.read(app)
            return f"{len(ledger.movements)} movements, sum of all balances {ledger.total}", len(ledger.problems)

        began = world.monotonic()
        async with Crowd(MODULE, settings, world) as crowd:
            await crowd.look_on(stop, show, count)
        seconds = world.monotonic() - began
        await _until_reported(app, ledger, world)
        problems = [*ledger.problems, *_answered(settings, crowd, ledger)]
        rows = await _compare_rows(app, ledger, problems)
        await _rebuild(app, world)
        rows += await _compare_rows(app, ledger, problems)
        times = await _compare_times(app, ledger, settings.seed, problems)
        _check_reports(ledger, problems)
        if ledger.total:
            problems.append(f"all balances together are {ledger.total}")
    return Report(
        seconds=round(seconds, 3),
        clients=settings.clients,
        processes=settings.processes,
        kills=crowd.kills,
        commands_answered=len(crowd.answers),
        commands_per_second=round(len(crowd.answers) / seconds, 1),
        refused=crowd.refused,
        movements=len(ledger.movements),
        events_in_log=ledger.position,
        sum_of_balances=str(ledger.total),
        balances_at_times_compared=times,
        rows_compared=rows,
        problems=problems,
    )


async def _until_reported(app: App, ledger: Ledger, world: World) -> None:
    """Count the rest, until the auditor has reported what he should, or has had time enough for it."""
    deadline = world.monotonic() + PATIENCE_SECONDS
    await ledger.read(app)
    while len(ledger.reported) < len(ledger.large) and world.monotonic() < deadline:
        await world.sleep(LOOK_SECONDS)
        await ledger.read(app)


def _answered(settings: Settings, crowd: Crowd, ledger: Ledger) -> list[str]:
    """Each answer that a customer heard is what the log says, and each was answered alike when it was sent again."""
    problems: list[str] = []
    granted: dict[str, bool] = {}
    for (client, number), outcome in crowd.answers.items():
        command = customers.act(settings.seed, client, number)
        if outcome == DIFFERS:
            problems.append(f"{command} was answered in two ways")
        elif isinstance(command, Transfer | PayIn | PayOut):
            granted[command.movement_id] = outcome == GRANTED
        elif isinstance(command, PayInterest) and outcome != GRANTED:
            granted[command.movement_id] = False
    return problems + ledger.answered(granted)


async def _compare_rows(app: App, ledger: Ledger, problems: list[str]) -> int:
    """The statements that are served are what the ledger counted."""
    position = (await app.publish()).position
    for account, balance in ledger.balances.items():
        row = await app.get(Statement, account, after=position, timeout=timedelta(seconds=PATIENCE_SECONDS))
        if row is None or (row.balance, row.movements) != (balance, ledger.of_account.get(account, 0)):
            problems.append(f"the statement of {account} is {row}, and its balance {balance}")
    return len(ledger.balances)


async def _rebuild(app: App, world: World) -> None:
    """Build the statements anew, beside those that are served, until they are served instead."""
    store = cast(Database, app.open_store())
    current = [one for one in await registry.versions(store) if one.current and one.name == "statement"]
    numbers: list[int] = []
    await registry.write(
        store, lambda sql: numbers.append(registry.rebuild(sql, current[0], used=current[0].number, now=world.now()))
    )
    deadline = world.monotonic() + PATIENCE_SECONDS
    while not any(one.current and one.number == numbers[0] for one in await registry.versions(store)):
        if world.monotonic() > deadline:
            raise TimeoutError(f"the statements are not built anew within {PATIENCE_SECONDS:.0f} s")
        await world.sleep(LOOK_SECONDS)


async def _compare_times(app: App, ledger: Ledger, seed: int, problems: list[str]) -> int:
    """Balances as of times are what the ledger had counted by then."""
    chance, times = Chance(seed), ledger.times()
    accounts = sorted(account for account in ledger.balances if not is_the_banks_own(account))
    for number in range(TIMES_COMPARED):
        account = accounts[int(chance.of(f"account/{number}") * len(accounts))]
        time = times[int(chance.of(f"time/{number}") * len(times))]
        state = await app.state(Account, account, at=time)
        if state.balance != ledger.balance_before(account, time):
            problems.append(
                f"{account} had {ledger.balance_before(account, time)} before {time}, and was said to have {state.balance}"
            )
    return TIMES_COMPARED


def _check_reports(ledger: Ledger, problems: list[str]) -> None:
    """Each large movement was reported, and once."""
    if sorted(ledger.reported) != sorted(ledger.large):
        problems.append(
            f"{len(ledger.large)} movements of {LARGE} or more, and {len(ledger.reported)} reports of "
            f"{len(set(ledger.reported))} movements"
        )
