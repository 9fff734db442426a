"""Reading one's own write, and watching, where another process keeps the rows: also one that is killed."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from decimal import Decimal

import pytest

from ensue import seconds
from ensue.errors import HandlerFailed, NotCaughtUp
from tests.app.processes import Program
from tests.domain.desk import Deposit
from tests.domain.test_queries import Lines, with_rows


class Keeping(Program):
    """It says `keeping` when it does."""

    module = "tests.domain.keeping_program"


@pytest.mark.slow
def test_a_token_leads_to_rows_that_another_process_keeps_and_a_watch_goes_on_over_its_death(shared_url: str) -> None:
    async def run() -> None:
        app = with_rows(shared_url)
        async with app.connected():
            with Keeping("keep", shared_url) as first:
                await asyncio.to_thread(first.until, "keeping")
                position = (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).position
                assert len(await app.ask(Lines(account_id="a1"), after=position)) == 1
                async with aclosing(app.watch(Lines(account_id="a1"))) as answers:
                    assert len(await anext(answers)) == 1
                    await app.send(Deposit(account_id="a1", amount=Decimal(2)))
                    assert len(await anext(answers)) == 2
                    first.send(signal.SIGKILL)
                    await asyncio.to_thread(first.ended)
                    position = (await app.send(Deposit(account_id="a1", amount=Decimal(3)))).position
                    with pytest.raises((NotCaughtUp, HandlerFailed)):
                        await app.ask(Lines(account_id="a1"), after=position, timeout=seconds(0.2))
                    with Keeping("keep", shared_url) as second:
                        await asyncio.to_thread(second.until, "keeping")
                        assert len(await anext(answers)) == 3
                        assert len(await app.ask(Lines(account_id="a1"), after=position)) == 3

    asyncio.run(asyncio.wait_for(run(), 120))
