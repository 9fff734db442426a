"""A log of a former schema is brought up to date when it is opened: all of it or nothing, once, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from ensue.store.base import Consumer, Node
from ensue.store.sqlite import SqliteStore
from ensue.store.sqlite.schema import SCHEMA, SCHEMA_VERSION
from ensue.world import RealWorld
from tests.store.logs import append, child, on, rest, rows

OLD = (Path(__file__).parent / "schema_1.sql").read_text()
EVENT = "INSERT INTO ensue_event VALUES (1, zeroblob(16), 1, NULL, NULL, 5, NULL, NULL, NULL, NULL, x'90', x'7b7d')"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log as the former version left it: an event, a consumer that owns a segment, a process that has died."""
    path = tmp_path / "log.db"
    with_sql(path, OLD, "PRAGMA journal_mode = WAL", EVENT)
    with_sql(path, "INSERT INTO ensue_event_type VALUES (1, 'Opened', 1); UPDATE ensue_log SET position = 1")
    with_sql(
        path,
        "INSERT INTO ensue_consumer VALUES (1, 'billing', 0, NULL, 1, CAST('{\"Opened\":0}' AS BLOB), 'active', NULL)",
    )
    with_sql(path, "INSERT INTO ensue_progress VALUES (1, 0, 0, x'90', 3, x'07', 0, 0, 0, 0)")
    with_sql(path, "INSERT INTO ensue_node VALUES (x'07', 'old', 1, 1, 2)")
    return path


def with_sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    try:
        return [row for statement in statements for row in connection.execute(statement)]
    finally:
        connection.close()


def columns(path: Path) -> list[tuple[object, ...]]:
    return with_sql(
        path,
        "SELECT m.name, c.* FROM sqlite_schema m, pragma_table_xinfo(m.name) c WHERE m.type = 'table' ORDER BY 1, 2",
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' ORDER BY 1",
    )


def test_a_log_of_the_former_schema_has_the_tables_of_a_new_one_when_it_was_opened(log: Path) -> None:
    async def look(store: SqliteStore) -> str:
        return store.log_id

    assert on(log, look) == "made by schema 1"
    with_sql(log.parent / "new.db", SCHEMA)
    assert columns(log) == columns(log.parent / "new.db")
    assert with_sql(log, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_what_was_in_it_is_still_there_and_work_goes_on(log: Path) -> None:
    async def story(store: SqliteStore) -> None:
        assert [row[0] for row in await rows(store)] == [1]
        assert await store.nodes() == (Node(id=b"\7", host="old", pid=1, started_at=1, expires_at=2),)
        assert await store.consumers() == (
            Consumer(id=1, name="billing", start=0, key_tag=None, segments=1, handles={"Opened": 0}),
        )
        new = Node(id=b"\x08", host="new", pid=2, started_at=1, expires_at=20_000_000, can=(1,))
        await store.beat(new)
        (taken,) = (await store.claim(1, new, now=10_000_000, most=1)).progress
        assert (taken.owner, taken.fence, taken.unclean) == (b"\x08", 4, 1)
        assert (await append(store, b"{}")).first == 2

    on(log, story)


def test_a_tool_that_only_looks_reads_it_as_it_is(log: Path) -> None:
    before = log.read_bytes()

    async def look(store: SqliteStore) -> tuple[Node, ...]:
        return await store.nodes()

    assert [node.can for node in on(log, look, read_only=True)] == [()]
    assert log.read_bytes() == before


def test_a_process_that_dies_in_the_middle_leaves_it_as_it_was(log: Path) -> None:
    class Died(BaseException):
        """What a failpoint raises in a process that dies there."""

    class Dying(RealWorld):
        def failpoint(self, name: str) -> None:
            if name == "schema.step":
                raise Died

    async def story() -> None:
        with pytest.raises(Died):
            await SqliteStore(str(log)).open(Dying())

    before = columns(log)
    asyncio.run(story())
    assert (columns(log), with_sql(log, "PRAGMA user_version")) == (before, [(1,)])


def test_three_processes_that_open_it_at_once_bring_it_up_to_date_once(log: Path) -> None:
    with child("appends", log, 5) as first, child("appends", log, 5) as second, child("appends", log, 5) as third:
        acknowledged = [int(position) for process in (first, second, third) for position in rest(process)]
    assert sorted(acknowledged) == list(range(2, 17))
