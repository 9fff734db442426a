"""One session: what it makes of answers that come where none is awaited any more."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from ensue.store.postgresql.session import Session, Statement
from tests.store.postgresql_logs import sql, told

INSERT = Statement("INSERT INTO checked VALUES (1), (1)")()
ANSWER = Statement("SELECT 1")()


def test_an_error_after_the_last_answer_of_a_flight_is_that_flights(postgresql_url: str) -> None:
    sql(postgresql_url, "CREATE TABLE checked (number integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    async def story() -> None:
        session = await Session.connect(postgresql_url)
        failed, answered = session.run(ANSWER, INSERT), session.run(ANSWER)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await failed
        assert await answered == [[(1,)]]
        session.close()

    told(story)


def test_a_server_that_says_farewell_after_the_last_answer_of_a_flight_has_not_answered_it(postgresql_url: str) -> None:
    sql(
        postgresql_url,
        "CREATE TABLE checked (number integer)",
        "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER ended AFTER INSERT ON checked DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION ends()",
    )

    async def story() -> None:
        wrong: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context["message"]))
        session = await Session.connect(postgresql_url)
        for flight in (session.run(ANSWER, INSERT), session.run(ANSWER)):
            with pytest.raises(psycopg.OperationalError):
                await flight
        assert session.lost is not None
        assert wrong == []

    told(story)
