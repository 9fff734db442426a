"""Logs that move between stores of different kinds, with the application's own tables, and what is found when they differ."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import pytest

from ensue.app.urls import open_store, open_transfer
from ensue.errors import EnsueError, Misuse, Unavailable, WrongLog
from ensue.events.stored import Draft
from ensue.store.base import DeadLetter, Request, SqlTransaction, Store, Written
from ensue.store.memory import MemoryStore, MemoryTransfer
from ensue.store.sqlite.transfer import SqliteTransfer
from ensue.store.transfer import PARTS, Copied, Part, Place, Transfer, Values, copy
from ensue.testing.contracts import Bench, Contract, TransferContract
from ensue.testing.contracts.bench import commit_of
from ensue.testing.contracts.transferring import Interrupted, InterruptedTransfer, everything, fill
from tests.servers.pgbouncer import Pooler
from tests.servers.postgresql import PostgresAddress, PostgresServer, empty_schema, new_role
from tests.store.logs import WORLD, filled, on


class Of(Contract):
    """A bench on this store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def store(self) -> Store:
        return self._store


async def filled_log(store: Store) -> list[object]:
    bench = Bench(Of(store))
    await bench.open()
    await fill(bench)
    found = await everything(store)
    await bench.close()
    return found


async def content(store: Store) -> list[object]:
    await store.open(WORLD)
    try:
        return await everything(store)
    finally:
        await store.close()


def sqlite(path: Path) -> tuple[Store, Transfer]:
    return open_store(f"sqlite:///{path}"), open_transfer(f"sqlite:///{path}")


def test_a_log_goes_from_store_to_store_and_comes_back_the_same(tmp_path: Path, postgresql_url: str) -> None:
    async def story() -> None:
        memory, last = MemoryStore(), MemoryStore()
        before = await filled_log(memory)
        places: list[tuple[Store, Transfer]] = [
            (memory, MemoryTransfer(memory)),
            sqlite(tmp_path / "first.db"),
            (open_store(postgresql_url), open_transfer(postgresql_url)),
            sqlite(tmp_path / "second.db"),
            (last, MemoryTransfer(last)),
        ]
        for (_, source), (store, target) in itertools.pairwise(places):
            copied = await copy(source, target, WORLD)
            assert (copied.difference, copied.left) == (None, ())
            assert await content(store) == before

    asyncio.run(story())


def test_texts_come_in_one_order_whatever_the_language_of_a_database_is(tmp_path: Path, postgresql_url: str) -> None:
    names = ["a", "B", "Z", "é", "_", "aa", "A", "z", "Ä", "1", "日本"]

    async def story() -> None:
        store, source = sqlite(tmp_path / "log.db")
        await store.open(WORLD)
        await store.rename("New", names)
        await store.close()
        target = open_transfer(postgresql_url)
        assert (await copy(source, target, WORLD)).difference is None

    asyncio.run(story())


def test_positions_that_were_never_filled_stay_so_and_the_log_goes_on_behind_them(
    tmp_path: Path, postgresql: PostgresAddress
) -> None:
    urls = [f"{empty_schema(postgresql.url())}&ensue_writers={writers}" for writers in ("many", "few", "many")]
    urls.insert(1, f"sqlite:///{tmp_path / 'log.db'}")

    async def ends(url: str, *, next_one: int) -> None:
        store = open_store(url)
        bench = Bench(Of(store))
        await bench.open()
        assert (store.head(), await bench.found()) == (next_one - 1, [1, *range(5, next_one)])
        assert [await store.position_at(row[5]) for row in await bench.rows()] == [0, *range(4, next_one - 1)]
        assert await bench.append(bench.draft("Opened", "a")) == Written(next_one, next_one)
        await bench.close()

    async def story() -> None:
        bench = Bench(Of(open_store(urls[0])))
        await bench.open()
        await bench.append(bench.draft("Opened", "a"))
        await _prepared(
            urls[0].partition("&ensue")[0], "SELECT setval('ensue_position', 4)"
        )  # a writer took three, and died
        await bench.append(bench.draft("Opened", "a"))
        await bench.close()
        for number, (source, target) in enumerate(itertools.pairwise(urls)):
            copied = await copy(open_transfer(source), open_transfer(target), WORLD)
            assert (copied.difference, copied.unfilled) == (None, 3)
            await ends(target, next_one=6 + number)

    asyncio.run(story())


def test_texts_with_nul_move_with_a_sign_for_it(tmp_path: Path, postgresql_url: str) -> None:
    async def story() -> None:
        bench = Bench(Of(sqlite(tmp_path / "log.db")[0]))
        await bench.open()
        consumer = await bench.consumer(segments=1)
        (row,) = await bench.owner(consumer)
        letter = DeadLetter(
            id=0, consumer=consumer.id, position=3, key=b"k" * 16, key_text="order=a\0b", reason="ValueError: \0", traceback="\0",
            attempts=3, parked_at=1,
        )  # fmt: skip
        await bench.append(commit=commit_of(row, parked=(letter,)))
        await bench.ends(1)
        await bench.close()
        store = open_store(postgresql_url)
        for target in (open_transfer(postgresql_url), sqlite(tmp_path / "target.db")[1]):
            assert (await copy(sqlite(tmp_path / "log.db")[1], target, WORLD)).difference is None
        await store.open(WORLD)
        (found,) = await store.dead_letters()
        await store.close()
        assert (found.key_text, found.reason, found.traceback) == ("order=a␀b", "ValueError: ␀", "␀")

    asyncio.run(story())


# ------------------------------------------------------------------------------------------- the application's own tables

TABLES = """
CREATE TABLE shelf (sku TEXT PRIMARY KEY, on_hand INTEGER NOT NULL);
CREATE TABLE Seat (Line INTEGER, number INTEGER, who TEXT, paid REAL, UNIQUE (who), PRIMARY KEY (number, Line)) WITHOUT ROWID;
CREATE TABLE note (id INTEGER PRIMARY KEY, body BLOB, written TEXT, urgent BOOLEAN, price DECIMAL(10, 2));
CREATE INDEX note_by_time ON note (written);
INSERT INTO shelf VALUES ('b', -2), ('B', 1), ('é', 3), ('a', 1000);
INSERT INTO Seat VALUES (1, 7, 'ann', 9.5), (2, 3, 'ben', NULL), (1, 3, NULL, 0.25);
INSERT INTO note VALUES (1, x'00ff', '2026-01-01', 1, 9.5), (40, NULL, NULL, 0, 3);
"""
ALIKE = """
CREATE TABLE consumer (id INTEGER PRIMARY KEY, handles TEXT);
CREATE TABLE delivery (number INTEGER PRIMARY KEY, packed BLOB);
CREATE TABLE event (position INTEGER PRIMARY KEY, data BLOB);
INSERT INTO consumer VALUES (7, 'no JSON');
INSERT INTO delivery VALUES (3, x'00');
INSERT INTO event VALUES (9, NULL);
"""
LEFT = """
CREATE TABLE heap (a);
CREATE VIEW totals AS SELECT sum(on_hand) FROM shelf;
CREATE TRIGGER noted AFTER INSERT ON heap BEGIN DELETE FROM heap; END;
"""


def with_tables(path: Path, statements: str) -> Transfer:
    """A log of three events with these tables beside it."""
    filled(path, 3)
    connection = apsw.Connection(str(path))
    connection.execute(statements)
    connection.close()
    return SqliteTransfer(str(path))


def run(store: Store, *statements: str) -> list[list[tuple[object, ...]]]:
    """Run statements in a handler's transaction, on the log of this store."""
    found: list[list[tuple[object, ...]]] = []

    def function(sql: SqlTransaction) -> Sequence[Draft]:
        found.extend(sql.execute(statement) for statement in statements)
        return ()

    async def story() -> None:
        await store.open(WORLD)
        try:
            await store.write(Request(apply=(function,)))
        finally:
            await store.close()

    asyncio.run(story())
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'target.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url


def test_tables_of_the_application_come_with_the_log(tmp_path: Path, target_url: str) -> None:
    source = with_tables(tmp_path / "log.db", TABLES)
    copied = asyncio.run(copy(source, open_transfer(target_url), WORLD))
    assert (copied.difference, copied.left) == (None, ())
    assert [copied.rows[f"rows of {name}"] for name in ("shelf", "Seat", "note")] == [4, 3, 2]
    shelf, seat, note = run(
        open_store(target_url),
        "SELECT sku, on_hand FROM shelf ORDER BY on_hand",
        "SELECT Line, number, who, paid FROM Seat ORDER BY Line, number",
        "SELECT id, body, written FROM note ORDER BY id",
    )
    assert shelf == [("b", -2), ("B", 1), ("é", 3), ("a", 1000)]
    assert seat == [(1, 3, None, 0.25), (1, 7, "ann", 9.5), (2, 3, "ben", None)]
    assert note == [(1, b"\x00\xff", "2026-01-01"), (40, None, None)]


def test_tables_that_are_called_as_parts_of_a_log_are_those_of_the_application(tmp_path: Path, target_url: str) -> None:
    source = with_tables(tmp_path / "log.db", ALIKE)
    assert asyncio.run(copy(source, open_transfer(target_url), WORLD)).difference is None
    found = run(open_store(target_url), *(f"SELECT * FROM {name}" for name in ("consumer", "delivery", "event")))
    assert found == [[(7, "no JSON")], [(3, b"\x00")], [(9, None)]]


def test_their_keys_hold_and_number_on_where_they_came_to(tmp_path: Path, target_url: str) -> None:
    source = with_tables(tmp_path / "log.db", TABLES)
    asyncio.run(copy(source, open_transfer(target_url), WORLD))
    (_, _, added) = run(
        open_store(target_url),
        "INSERT INTO shelf VALUES ('a', 7) ON CONFLICT (sku) DO UPDATE SET on_hand = 999",
        "INSERT INTO Seat VALUES (9, 9, 'ann', 1) ON CONFLICT (who) DO NOTHING",
        "INSERT INTO note (written) VALUES ('now') RETURNING id",
    )
    assert added == [(41,)]
    shelf, seats = run(open_store(target_url), "SELECT on_hand FROM shelf WHERE sku = 'a'", "SELECT count(*) FROM Seat")
    assert (shelf, seats) == ([(999,)], [(3,)])


def test_a_table_that_was_made_for_it_is_filled_as_it_is(tmp_path: Path, postgresql_url: str) -> None:
    source = with_tables(tmp_path / "log.db", TABLES)
    target = open_transfer(postgresql_url)
    asyncio.run(
        _prepared(
            postgresql_url,
            "CREATE TABLE note (id bigint PRIMARY KEY, body bytea, written date, urgent boolean, "
            "price numeric(10, 2), added timestamptz DEFAULT now())",
        )
    )
    assert asyncio.run(copy(source, target, WORLD)).difference is None
    ((found,),) = run(
        open_store(postgresql_url), "SELECT written::text, urgent, price::text, added IS NULL FROM note WHERE id = 1"
    )
    assert found == ("2026-01-01", True, "9.50", False)


async def _prepared(url: str, statement: str) -> None:
    """The schema has this table, and no log."""
    from psycopg import AsyncConnection

    connection = await AsyncConnection.connect(url, autocommit=True)
    await connection.execute(statement.encode())
    await connection.close()


def test_a_table_that_has_rows_already_is_not_filled(tmp_path: Path, postgresql_url: str) -> None:
    source = with_tables(tmp_path / "log.db", TABLES)
    asyncio.run(_prepared(postgresql_url, "CREATE TABLE shelf AS SELECT 'a' AS sku, 1 AS on_hand"))
    with pytest.raises(WrongLog, match="shelf has rows already"):
        asyncio.run(copy(source, open_transfer(postgresql_url), WORLD))


def test_large_rows_of_the_application_come_in_pages_of_few(tmp_path: Path, target_url: str) -> None:
    source = with_tables(
        tmp_path / "log.db",
        "CREATE TABLE file (data BLOB, name TEXT PRIMARY KEY);"
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
        "INSERT INTO file SELECT zeroblob(1000000), 'f' || i FROM n",
    )

    async def story() -> list[int]:
        assert (await copy(source, open_transfer(target_url), WORLD)).difference is None
        sizes: list[int] = []
        for transfer, receiving in ((source, False), (open_transfer(target_url), True)):
            part = (await source.open(WORLD, receiving=False)).tables[0]
            await transfer.open(WORLD, receiving=receiving)
            sizes.append(len(await transfer.page(part, None)))
            await transfer.close()
            await source.close()
        return sizes

    assert asyncio.run(story()) == [9, 9]


def test_a_table_that_was_made_after_a_copy_stopped_comes_with_the_next(tmp_path: Path, target_url: str) -> None:
    source = with_tables(tmp_path / "log.db", "CREATE TABLE first (id INTEGER PRIMARY KEY)")
    with pytest.raises(Interrupted):
        asyncio.run(copy(source, InterruptedTransfer(open_transfer(target_url), 2), WORLD))
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.execute("CREATE TABLE second (id INTEGER PRIMARY KEY); INSERT INTO second VALUES (7)")
    connection.close()
    assert asyncio.run(copy(source, open_transfer(target_url), WORLD)).difference is None
    assert run(open_store(target_url), "SELECT id FROM second") == [[(7,)]]


def test_what_of_the_application_cannot_move_is_said(tmp_path: Path, target_url: str) -> None:
    source = with_tables(tmp_path / "log.db", TABLES + LEFT)
    copied = asyncio.run(copy(source, open_transfer(target_url), WORLD))
    assert copied.left == (
        "the table heap, which has no primary key",
        "the view totals",
        "the trigger noted",
    )


def test_a_row_that_no_page_holds_is_a_difference_and_not_left_out_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_tables(
        tmp_path / "log.db", "CREATE TABLE odd (a TEXT PRIMARY KEY); INSERT INTO odd VALUES (NULL), ('x')"
    )
    monkeypatch.setattr("ensue.store.sqlite.transfer.PAGE_ROWS", 1)
    copied = asyncio.run(copy(source, SqliteTransfer(str(tmp_path / "target.db")), WORLD))
    assert str(copied.difference) == "rows of odd: missing in the target"


# ------------------------------------------------------------------------------------------------------------ comparing


class Careless(InterruptedTransfer):
    """Changes what it stores of one part."""

    def __init__(self, inner: Transfer, part: str, change: Callable[[list[Values]], list[Values]]) -> None:
        super().__init__(inner, 1_000)
        self._part, self._change_rows = part, change

    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        await super().receive(part, self._change_rows(list(rows)) if part.name == self._part else rows)


def _lacks_the_last(rows: list[Values]) -> list[Values]:
    return rows[:-1]


def _with_another_last_column(rows: list[Values]) -> list[Values]:
    last = rows[0][-1]
    other = last + 1 if isinstance(last, int) else "other" if isinstance(last, str) else b'{"Other":0}'
    return [(*rows[0][:-1], other), *rows[1:]]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("change", [_lacks_the_last, _with_another_last_column])
def test_a_part_that_is_not_equal_is_found_and_the_copy_stays_half(
    part: Part, change: Callable[[list[Values]], list[Values]], tmp_path: Path
) -> None:
    async def story() -> Copied:
        memory = MemoryStore()
        await filled_log(memory)
        target = Careless(SqliteTransfer(str(tmp_path / "target.db")), part.name, change)
        return await copy(MemoryTransfer(memory), target, WORLD)

    difference = asyncio.run(story()).difference
    assert difference is not None
    assert (difference.part, difference.column) == (
        part.label,
        None if change is _lacks_the_last else part.columns[-1],
    )
    with pytest.raises(Unavailable, match="half a copy"):
        on(tmp_path / "target.db", everything)


# ------------------------------------------------------------------------------------------------------------- SQLite


def test_copying_changes_no_byte_of_the_source_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    before = filled(folder / "log.db", 500)
    asyncio.run(copy(SqliteTransfer(str(folder / "log.db")), SqliteTransfer(str(tmp_path / "target.db")), WORLD))
    assert (folder / "log.db").read_bytes() == before
    assert os.listdir(folder) == ["log.db"]
    assert sorted(os.listdir(tmp_path)) == ["target.db", "there"]


def test_a_log_whose_process_was_killed_is_copied_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    async def story() -> int:
        store, _ = sqlite(tmp_path / "log.db")
        await store.open(WORLD)
        bench = Bench(Of(store))
        for _ in range(20):
            await bench.append(bench.draft("Opened", "a"))
        for name in ("log.db", "log.db-wal"):  # as the process that is killed now leaves them
            shutil.copy(tmp_path / name, tmp_path / f"killed-{name}")
        await store.close()
        (tmp_path / "killed-log.db").rename(tmp_path / "killed.db")
        (tmp_path / "killed-log.db-wal").rename(tmp_path / "killed.db-wal")
        return (await copy(sqlite(tmp_path / "killed.db")[1], sqlite(tmp_path / "target.db")[1], WORLD)).position

    assert asyncio.run(story()) == 20


def test_a_source_that_is_gone_half_way_is_told_and_what_is_copied_stays(tmp_path: Path) -> None:
    filled(tmp_path / "log.db", 12_000, size=10)
    shutil.copy(tmp_path / "log.db", tmp_path / "backup.db")
    source, target = SqliteTransfer(str(tmp_path / "log.db")), SqliteTransfer(str(tmp_path / "target.db"))

    async def removed() -> None:
        (tmp_path / "log.db").unlink()

    with pytest.raises(EnsueError, match=r"log\.db"):
        asyncio.run(copy(source, InterruptedTransfer(target, 3, removed), WORLD))
    with pytest.raises(Unavailable, match=r"log\.db: there is no such file"):
        asyncio.run(copy(source, target, WORLD))
    shutil.copy(tmp_path / "backup.db", tmp_path / "log.db")
    copied = asyncio.run(copy(source, target, WORLD))
    assert (copied.difference, copied.position) == (None, 12_000)
    assert copied.received < 12_000


def test_a_place_is_not_copied_to_itself(tmp_path: Path) -> None:
    filled(tmp_path / "log.db", 3)
    (tmp_path / "link.db").symlink_to(tmp_path / "log.db")
    with pytest.raises(Misuse, match="to itself"):
        asyncio.run(copy(SqliteTransfer(str(tmp_path / "log.db")), SqliteTransfer(str(tmp_path / "link.db")), WORLD))


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    filled(tmp_path / "log.db", 3)
    with pytest.raises(EnsueError, match=r"could not open .*nowhere/target\.db"):
        asyncio.run(
            copy(SqliteTransfer(str(tmp_path / "log.db")), SqliteTransfer(str(tmp_path / "nowhere/target.db")), WORLD)
        )


def test_a_log_of_a_former_schema_is_copied_without_being_changed(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "log.db"))
    connection.execute((Path(__file__).parent / "schema_1.sql").read_text())
    connection.execute("INSERT INTO ensue_event_type VALUES (1, 'Opened', 1); UPDATE ensue_log SET position = 1")
    connection.execute(
        "INSERT INTO ensue_event VALUES (1, zeroblob(16), 1, NULL, NULL, 5, NULL, NULL, NULL, NULL, x'90', x'7b7d')"
    )
    connection.close()
    before = (tmp_path / "log.db").read_bytes()
    copied = asyncio.run(
        copy(SqliteTransfer(str(tmp_path / "log.db")), SqliteTransfer(str(tmp_path / "target.db")), WORLD)
    )
    assert (copied.difference, copied.position) == (None, 1)
    assert (tmp_path / "log.db").read_bytes() == before


def test_a_copy_that_was_begun_by_an_older_version_begins_anew(tmp_path: Path) -> None:
    filled(tmp_path / "log.db", 10)
    source, target = SqliteTransfer(str(tmp_path / "log.db")), SqliteTransfer(str(tmp_path / "target.db"))
    with pytest.raises(Interrupted):
        asyncio.run(copy(source, InterruptedTransfer(target, 3), WORLD))
    connection = apsw.Connection(str(tmp_path / "target.db"))
    connection.pragma("user_version", 1)
    connection.close()
    copied = asyncio.run(copy(source, target, WORLD))
    assert (copied.difference, copied.received) == (None, sum(copied.rows.values()))


def test_a_full_disk_stops_a_copy_that_goes_on_when_there_is_room(tmp_path: Path) -> None:
    filled(tmp_path / "log.db", 200)
    source, target = SqliteTransfer(str(tmp_path / "log.db")), SqliteTransfer(str(tmp_path / "target.db"))

    async def half() -> Place:
        try:
            return (await target.open(WORLD, receiving=True)).state
        finally:
            await target.close()

    async def full() -> None:
        assert target._target is not None
        target._target.pragma("max_page_count", target._target.pragma("page_count"))

    with pytest.raises(EnsueError, match="full"):
        asyncio.run(copy(source, InterruptedTransfer(target, 2, full), WORLD))
    assert asyncio.run(half()) is Place.HALF
    assert asyncio.run(copy(source, target, WORLD)).difference is None


# --------------------------------------------------------------------------------------------------------- PostgreSQL


class TestPooled(TransferContract):
    """Through a pooler in transaction mode."""

    @pytest.fixture(autouse=True)
    def _places(self, pooler: Pooler, postgresql: PostgresAddress) -> None:
        self._here, self._elsewhere = (pooler.pooled(new_role(postgresql.url())) for _ in range(2))

    def store(self) -> Store:
        return open_store(self._here)

    def transfer(self) -> Transfer:
        return open_transfer(self._here)

    def elsewhere(self) -> tuple[Store, Transfer]:
        return open_store(self._elsewhere), open_transfer(self._elsewhere)


@pytest.mark.slow
def test_a_server_that_is_killed_half_way_loses_nothing_that_matters(
    tmp_path: Path, own_postgresql: PostgresServer
) -> None:
    filled(tmp_path / "log.db", 12_000, size=10)
    source, url = SqliteTransfer(str(tmp_path / "log.db")), empty_schema(own_postgresql.url())

    async def killed() -> None:
        own_postgresql.kill()

    with pytest.raises(EnsueError, match="could not"):
        asyncio.run(copy(source, InterruptedTransfer(open_transfer(url), 3, killed), WORLD))
    own_postgresql.start()
    with pytest.raises(Unavailable, match="half a copy"):
        asyncio.run(content(open_store(url)))
    copied = asyncio.run(copy(source, open_transfer(url), WORLD))
    assert (copied.difference, copied.position) == (None, 12_000)
    assert copied.received < 12_000


def test_whoever_had_the_empty_log_open_cannot_write_into_half_a_copy(tmp_path: Path, target_url: str) -> None:
    filled(tmp_path / "log.db", 10)

    async def story() -> None:
        bench = Bench(Of(open_store(target_url)))
        await bench.open()

        async def writes() -> None:
            with pytest.raises(EnsueError):
                await bench.append(bench.draft("Opened", "a"))

        target = InterruptedTransfer(open_transfer(target_url), 3, writes)
        assert (await copy(SqliteTransfer(str(tmp_path / "log.db")), target, WORLD)).difference is None
        await bench.close()

    asyncio.run(story())
