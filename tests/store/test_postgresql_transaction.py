"""What a function inside the transaction may do to the session that it is lent."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ensue.errors import ApplyFailed, Misuse
from ensue.events.stored import Draft
from ensue.store.base import Request, SqlTransaction
from ensue.store.postgresql import PostgresqlStore
from tests.store.logs import draft
from tests.store.postgresql_logs import append, opened, rows_of, told


async def run(store: PostgresqlStore, *statements: str) -> list[tuple[object, ...]]:
    """The rows of the last one."""
    found: list[tuple[object, ...]] = []

    def function(transaction: SqlTransaction) -> Sequence[Draft]:
        for statement in statements:
            found[:] = transaction.execute(statement)
        return [draft()]

    await store.write(Request(apply=(function,)))
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path TO elsewhere",
        "/* now */ set session lock_timeout = 0",
        "SET ROLE nobody",
        "RESET ALL",
        "DISCARD PLANS;",
        "DEALLOCATE ALL",
        "LISTEN anything",
    ],
)
def test_a_function_does_not_change_the_session_of_the_log(postgresql_url: str, statement: str) -> None:
    async def story() -> None:
        async with opened(postgresql_url) as store:
            with pytest.raises(ApplyFailed, match="SET LOCAL") as refused:
                await run(store, statement)
            assert isinstance(refused.value.__cause__, Misuse)
            assert (await append(store, b"{}")).first == 1
            assert len(await rows_of(store)) == 1

    told(story)


def test_a_setting_for_the_transaction_alone_is_gone_after_it(postgresql_url: str) -> None:
    async def story() -> None:
        async with opened(postgresql_url) as store:
            now = "SELECT current_setting('statement_timeout')"
            assert await run(store, "SET LOCAL statement_timeout = '7s'", now) == [("7s",)]
            assert await run(store, "SET CONSTRAINTS ALL IMMEDIATE", now) == [("0",)]

    told(story)
