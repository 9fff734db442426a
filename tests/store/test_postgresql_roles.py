"""What a role must be granted to use a log in PostgreSQL: the statements are those of docs/postgresql.md, run as they stand."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from click.testing import CliRunner

from ensue.app.urls import bring_up_to_date
from ensue.cli.program import ensue
from ensue.consumers.verify import verify
from ensue.errors import EnsueError, ReadOnlyLog
from ensue.events.stored import Draft
from ensue.store.base import Consumer, DeadLetter, Delivery, Lane, LaneState, Node, Operation, Request, SqlTransaction
from ensue.store.postgresql import PostgresqlStore
from ensue.testing.contracts.bench import commit_of, key_of
from tests.servers.postgresql import PostgresAddress, new_role
from tests.store.logs import WORLD, draft
from tests.store.postgresql_logs import append, at_once, opened, rows_of, sql, told

PAPER = Path(__file__).parents[2] / "docs" / "postgresql.md"


def run(url: str, statements: Sequence[str]) -> None:
    sql(url, *statements)


class Place(NamedTuple):
    """A schema, and the URLs of its three roles. `admin` is a superuser there."""

    schema: str
    admin: str
    owner: str
    app: str
    reader: str

    def grants(self) -> list[str]:
        """The statements of the paper, for this place."""
        found: list[str] = []
        for block in re.findall(r"```sql\n(.*?)```", PAPER.read_text(), re.DOTALL):
            found += [" ".join(part.split()) for part in re.sub(r"--.*", "", block).split(";") if part.strip()]
        names = {"shop_owner": self.owner, "shop_app": self.app, "shop_reader": self.reader}
        for name, url in names.items():
            found = [one.replace(name, url.partition("//")[2].partition(":")[0]) for one in found]
        return [re.sub(r"\bshop\b", self.schema, one) for one in found]

    def run(self, statements: Sequence[str]) -> None:
        run(self.admin, statements)


@pytest.fixture
def place(postgresql: PostgresAddress) -> Place:
    """As the paper has it, when the owner has made the tables."""
    schema = f"test_{uuid.uuid4().hex[:16]}"
    admin = postgresql.url()
    owner, app, reader = (new_role(admin, schema=schema) for _ in range(3))
    place = Place(schema, admin, owner, app, reader)
    before = [one for one in place.grants() if not one.startswith("GRANT") or "USAGE ON SCHEMA" in one]
    place.run(before)
    asyncio.run(bring_up_to_date(owner, WORLD))
    return place


async def everything(url: str) -> None:
    """All that an application does to a log."""
    async with opened(url) as store, opened(url) as other:
        request = Request(events=[draft(key="a", tags=["x=1"])], idempotency_key=b"k" * 16)
        assert (await store.write(request)).first == 1
        assert (await other.write(request)).replayed
        assert await at_once(other.changed(0)) == 1
        await store.rename("Opened", ["Begun"])
        await store.rename("Opened", ["Begun", "Started"])
        await store.rename("Begun", ["Started"])
        wanted = Consumer(id=0, name="billing", start=0, key_tag=None, segments=2, handles={"Opened": 0})
        consumer = await store.define(wanted)
        await store.define(Consumer(id=0, name="billing", start=0, key_tag=None, segments=2, handles={"Paid": 0}))
        await store.set_status(consumer.id, "paused", "lunch")
        node = Node(id=b"1" * 16, host="elsewhere.invalid", pid=1, started_at=1, expires_at=WORLD.now() + 9_000_000)
        await store.beat(node)
        await store.beat(node)
        row = (await store.claim(consumer.id, node, now=WORLD.now(), most=2)).progress[0]
        lane = Lane(consumer=1, segment=0, key=key_of("a"), key_text="order=a", after=0, state=LaneState.PARKED)
        letter = DeadLetter(
            id=0, consumer=1, position=1, key=key_of("a"), key_text="order=a", reason="r", traceback="t", attempts=1,
            parked_at=1,
        )  # fmt: skip
        record = Delivery(1, 1, 1, 5, b"packed")
        await store.write(
            Request(commit=commit_of(row, position=1, lanes=(lane,), parked=(letter,), delivery=lambda: record))
        )
        late = Lane(consumer=1, segment=0, key=key_of("a"), key_text="order=a", after=0, state=LaneState.LATE)
        operation = Operation(lane=late, position=1, resolution="retried", note=None, by="ann")
        await store.write(Request(events=[draft()], operation=operation))
        row = (await store.standing(1)).progress[0]
        await store.write(Request(commit=commit_of(row, lanes_dropped=(key_of("a"),), release=True)))
        assert store.query("SELECT count(*) FROM ensue_event") == [(2,)]
        assert (len(await rows_of(store)), await store.position_at(WORLD.now() + 1)) == (2, 2)
        assert len(await store.dead_letters(open_only=False)) == 1


@pytest.mark.parametrize("writers", ["few", "many"])
def test_what_the_paper_grants_is_enough_for_an_application(place: Place, writers: str) -> None:
    place.run(
        [one for one in place.grants() if one.startswith("GRANT") and (writers == "many" or "UPDATE ON ALL" not in one)]
    )
    if writers == "many":
        sql(place.owner, "UPDATE ensue_log SET writers = 'many'")
    told(lambda: everything(place.app))


def test_nothing_that_the_paper_grants_an_application_is_too_much(place: Place) -> None:
    """Each privilege on each table, taken away alone, is missed."""
    granted = [
        (privilege.strip(), table.strip())
        for privileges, tables in (
            re.findall(r"GRANT (.*) ON (.*) TO", one)[0]
            for one in place.grants()
            if re.match(r"GRANT \w+(, \w+)* ON \w+\.", one)
        )
        for privilege in privileges.split(",")
        for table in tables.split(",")
    ]
    assert len(granted) == 21
    app = place.app.partition("//")[2].partition(":")[0]
    missed: list[tuple[str, str]] = []
    place.run([one for one in place.grants() if one.startswith("GRANT")])
    for privilege, table in granted:
        place.run([f"REVOKE {privilege} ON {table} FROM {app}"])
        with pytest.raises((EnsueError, psycopg.Error)):
            told(lambda: everything(place.app))
        missed.append((privilege, table))
        place.run([f"GRANT {privilege} ON {table} TO {app}", *_emptied(place.schema)])
    assert missed == granted


def _emptied(schema: str) -> list[str]:
    names = ", ".join(f"{schema}.ensue_{table}" for table in WRITTEN)
    return [f"TRUNCATE {names} RESTART IDENTITY", f"UPDATE {schema}.ensue_log SET position = 0, names = 0"]


WRITTEN = (
    "event", "event_tag", "event_type", "former_name", "request", "consumer", "progress", "lane", "dead_letter", "node",
    "delivery",
)  # fmt: skip
FORBIDDEN: dict[str, str] = {
    "change an event": "UPDATE ensue_event SET data = ''",
    "remove an event": "DELETE FROM ensue_event",
    "remove a tag": "DELETE FROM ensue_event_tag",
    "empty a table": "TRUNCATE ensue_delivery",
    "make a table": "CREATE TABLE mine (n integer)",
    "claim another schema": "INSERT INTO ensue_schema VALUES (99, 'later')",
    "forget an answer": "DELETE FROM ensue_request",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_an_application_that_was_granted_that_cannot(place: Place, what: str) -> None:
    place.run([one for one in place.grants() if one.startswith("GRANT")])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        sql(place.app, FORBIDDEN[what])


def test_a_role_that_may_make_no_tables_is_told_who_must(postgresql: PostgresAddress) -> None:
    owner = new_role(postgresql.url())
    schema = owner.partition("//")[2].partition(":")[0]
    app = new_role(postgresql.url(), schema=schema)
    name = app.partition("//")[2].partition(":")[0]
    run(postgresql.url(), [f"GRANT USAGE ON SCHEMA {schema} TO {name}"])

    async def story() -> None:
        attempts: list[Callable[[], Awaitable[Any]]] = [
            lambda: PostgresqlStore(app).open(WORLD),
            lambda: bring_up_to_date(app, WORLD),
        ]
        for attempt in attempts:
            with pytest.raises(ReadOnlyLog, match=r"this role may not\. Run `ensue db upgrade`"):
                await attempt()

    told(story)


def test_a_role_without_a_schema_is_told_so(postgresql: PostgresAddress) -> None:
    url = new_role(postgresql.url(), schema="nowhere_at_all")

    async def story() -> None:
        with pytest.raises(EnsueError, match="names no schema that exists and may be used"):
            await PostgresqlStore(url).open(WORLD)

    told(story)


@pytest.mark.parametrize("writers", ["few", "many"])
def test_a_role_that_may_only_look_reads_verifies_and_follows(place: Place, writers: str) -> None:
    place.run([one for one in place.grants() if one.startswith("GRANT")])
    if writers == "many":
        sql(place.owner, "UPDATE ensue_log SET writers = 'many'")

    async def story() -> None:
        async with opened(place.app) as store, opened(place.reader, read_only=True) as reader:
            waiting = asyncio.ensure_future(reader.changed(0))
            await append(store, b"{}", key="a")
            assert await at_once(waiting) == 1
            assert len(await rows_of(reader)) == 1
            assert (await verify(reader, WORLD)).events == 1
            assert reader.query("SELECT count(*) FROM ensue_event") == [(1,)]

    told(story)
    for command in (["log"], ["consumers"], ["verify", "--json"], ["dead-letters"], ["trace", "1"]):
        result = CliRunner().invoke(ensue, [*command, "--url", place.reader])
        assert result.exit_code in (0, 1), result.stderr
        assert "permission" not in result.output


def test_a_role_that_may_only_look_is_told_so_when_it_writes(place: Place) -> None:
    place.run([one for one in place.grants() if one.startswith("GRANT")])

    async def story() -> None:
        async with opened(place.reader) as store:
            with pytest.raises(ReadOnlyLog, match=r"docs/postgresql\.md"):
                await append(store, b"{}")
            assert await rows_of(store) == []

    told(story)


def test_the_tables_of_handlers_are_granted_by_who_owns_them(place: Place) -> None:
    place.run([one for one in place.grants() if one.startswith("GRANT")])
    sql(place.owner, "CREATE TABLE account (name text PRIMARY KEY)")

    def opens(transaction: SqlTransaction) -> Sequence[Draft]:
        transaction.execute("INSERT INTO account VALUES (?)", ["ann"])
        return [draft()]

    async def story() -> None:
        async with opened(place.app) as store:
            with pytest.raises(EnsueError, match="permission denied for table account"):
                await store.write(Request(apply=(opens,)))
            app = place.app.partition("//")[2].partition(":")[0]
            run(place.owner, [f"GRANT INSERT ON account TO {app}"])
            assert (await store.write(Request(apply=(opens,)))).first == 1

    told(story)


def test_where_many_write_a_role_that_lacks_a_right_keeps_nobody_else_waiting(place: Place) -> None:
    """Positions are taken under a lock that no rollback ends."""
    place.run([one for one in place.grants() if one.startswith("GRANT")])
    app = place.app.partition("//")[2].partition(":")[0]
    place.run([f"REVOKE UPDATE ON SEQUENCE {place.schema}.ensue_{name} FROM {app}" for name in ("clock", "settled")])
    sql(place.owner, "UPDATE ensue_log SET writers = 'many'")

    async def story() -> None:
        async with opened(place.app) as lacks, opened(place.owner) as store:
            with pytest.raises(ReadOnlyLog):
                await append(lacks, b"{}")
            assert (await at_once(append(store, b"{}"))).first >= 1
            assert len(await rows_of(store)) == 1

    told(story)
