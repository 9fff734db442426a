"""Whole applications that decide and keep rows, in simulation: through lost answers, repeated calls, and a crash at every step."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from ensue import App
from ensue.errors import Conflict
from ensue.testing import AppSimulation, simulate
from tests.testing.ledger import (
    Account,
    BalanceOf,
    Deposited,
    Overdrawn,
    Transfer,
    Withdraw,
    Withdrawn,
    bank,
    deposited,
)
from tests.testing.test_given_views import Statement

kept = App("kept")
kept.include(bank)
kept.view(Statement)


async def withdraws(sim: AppSimulation, amounts: list[int]) -> int:
    """Send withdrawals at the same time, to two processes; how many were granted."""
    other = sim.start_another()

    async def withdraw(number: int, amount: int) -> bool:
        app = (sim.app, other.app)[number % 2]
        command = Withdraw(account_id="a", amount=Decimal(amount))
        for attempt in range(5):
            try:
                await app.send(command, idempotency_key=f"w{number}")
                return True
            except Overdrawn:
                return False
            except Conflict:
                assert attempt < 4
        raise AssertionError("unreachable")

    tasks = [sim.world.spawn(withdraw(number, one), name=f"w{number}") for number, one in enumerate(amounts)]
    return sum(await asyncio.gather(*tasks))


@pytest.mark.slow
@simulate(kept, runs=10)
async def test_of_many_withdrawals_only_what_is_there_is_granted_and_rows_agree(sim: AppSimulation) -> None:
    await sim.app.publish(deposited(10))
    granted = await withdraws(sim, [4, 4, 4, 4])
    assert granted == 2
    assert [event.amount for event in await sim.events(Withdrawn)] == [4, 4]
    await sim.run_until_quiet()
    assert await sim.app.get(Statement, "a") == Statement(account_id="a", balance=Decimal(2), movements=3)


@pytest.mark.slow
@simulate(kept, runs=10)
async def test_a_transfer_is_made_whole_and_once_and_read_by_whoever_made_it(sim: AppSimulation) -> None:
    await sim.app.publish(deposited(10))
    receipt = await sim.app.send(Transfer(source="a", target="b", amount=Decimal(7)), idempotency_key="t1")
    again = await sim.app.send(Transfer(source="a", target="b", amount=Decimal(7)), idempotency_key="t1")
    assert again.position == receipt.position
    assert await sim.app.ask(BalanceOf(account_id="b")) == 7
    row = await sim.app.get(Statement, "b", after=receipt.position)
    assert row == Statement(account_id="b", balance=Decimal(7), movements=1)
    assert [event.account_id for event in await sim.events(Deposited)] == ["a", "b"]
    assert (await sim.inside(lambda app: app.state(Account, "a"))).balance == 3


@simulate(kept, crashes="none", runs=30)
async def test_a_refusal_stays_the_answer_of_its_key_whatever_comes(sim: AppSimulation) -> None:
    command = Withdraw(account_id="a", amount=Decimal(5))
    for amount in (0, 9):
        if amount:
            await sim.app.publish(deposited(amount))
        with pytest.raises(Overdrawn) as refused:
            await sim.app.send(command, idempotency_key="once")
        assert refused.value.available == 0
    await sim.app.send(command, idempotency_key="twice")
