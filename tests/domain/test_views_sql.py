"""Views in plain SQL: what a schema and its statements may say, to which tables they lead, and that a version is built beside another."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import App, Event, Position, Recorded, Transaction
from ensue.domain.views import keeper, registry
from ensue.domain.views.sql_text import own_statement, parse_schema, renamed
from ensue.errors import ApplyFailed, DefinitionError, Misuse
from tests.domain.balances import (
    ACCOUNTS,
    Closed,
    Deposited,
    Noted,
    deposited,
    deposits,
    events_of,
    ledger,
    ledger_of,
    random_events,
)

NAMES = {"daily": "daily__v3", "lines": "lines__v3"}


def told(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(story(), 60)

    asyncio.run(limited())


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bank.db"
    found: str = request.getfixturevalue("postgresql_url")
    return found


# -------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("written", "runs"),
    [
        ("SELECT * FROM daily", "SELECT * FROM daily__v3"),
        ("select count(*) from DAILY d join Lines l on l.day = d.day", "select count(*) from daily__v3 d join lines__v3 l on l.day = d.day"),
        ('SELECT "daily".day FROM "daily"', 'SELECT "daily__v3".day FROM "daily__v3"'),
        ("SELECT `daily`.day FROM [daily]", "SELECT `daily__v3`.day FROM [daily__v3]"),
        ("SELECT 'daily', 'it''s daily' FROM daily", "SELECT 'daily', 'it''s daily' FROM daily__v3"),
        (r"SELECT E'\'daily', e'\\' FROM daily", r"SELECT E'\'daily', e'\\' FROM daily__v3"),
        ("SELECT X'da11', N'daily', U&'d\\0061ily' FROM daily", "SELECT X'da11', N'daily', U&'d\\0061ily' FROM daily__v3"),
        ("SELECT $$ daily $$, $x$ daily $$ $x$ FROM daily", "SELECT $$ daily $$, $x$ daily $$ $x$ FROM daily__v3"),
        ("SELECT 1 -- daily's\n FROM daily /* daily's */", "SELECT 1 -- daily's\n FROM daily__v3 /* daily's */"),
        ("UPDATE daily SET n = daily.n + ?1 WHERE day = :daily", "UPDATE daily__v3 SET n = daily__v3.n + ?1 WHERE day = :daily"),
        ("SELECT daily_total, xdaily, daily2 FROM daily", "SELECT daily_total, xdaily, daily2 FROM daily__v3"),
        ("SELECT day::text, 1e5, .5, 0x1f FROM daily", "SELECT day::text, 1e5, .5, 0x1f FROM daily__v3"),
        ("DELETE FROM daily WHERE day = ? RETURNING day", "DELETE FROM daily__v3 WHERE day = ? RETURNING day"),
        ("SELECT '{\"daily\": 1}'::jsonb ?? 'daily' FROM daily", "SELECT '{\"daily\": 1}'::jsonb ?? 'daily' FROM daily__v3"),
        ("WITH daily AS (SELECT 1 AS n) SELECT n FROM daily", "WITH daily__v3 AS (SELECT 1 AS n) SELECT n FROM daily__v3"),
    ],
)  # fmt: skip
def test_names_of_tables_lead_to_the_version_and_nothing_else_is_touched(written: str, runs: str) -> None:
    own_statement(written, tuple(NAMES))
    found = renamed(written, NAMES)
    assert found.replace("DAILY", "daily") == runs


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("SELECT o.daily FROM orders o", "may be the view's table or somebody's column"),
        ("SELECT main . daily FROM orders", "may be the view's table or somebody's column"),
        ('SELECT * FROM "Daily"', "write daily"),
        ("SELECT 'daily FROM daily", "does not end"),
        ('SELECT "daily FROM daily', "does not end"),
        ("SELECT 1 /* daily", "does not end"),
        ("SELECT 1 /* /* daily */ */ FROM daily", "stands within another"),
        ("SELECT $x$ daily FROM daily", None),
    ],
)
def test_what_could_mean_two_things_is_refused(written: str, why: str | None) -> None:
    if why is None:  # a name of a parameter, in SQLite
        assert renamed(written, NAMES) == "SELECT $x$ daily__v3 FROM daily__v3"
        return
    with pytest.raises(Misuse, match=why):
        renamed(written, NAMES)


@pytest.mark.parametrize(
    "written",
    [
        "INSERT INTO orders VALUES (1)",
        "insert or replace into orders values (1)",
        "REPLACE INTO orders VALUES (1)",
        "UPDATE orders SET n = 1",
        "UPDATE OR IGNORE orders SET n = 1",
        "UPDATE ONLY orders SET n = 1",
        "DELETE FROM orders",
        "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
        "WITH x AS (SELECT 1) INSERT INTO orders SELECT * FROM x",
        "MERGE INTO orders USING daily ON true WHEN MATCHED THEN DELETE",
        "SELECT * INTO orders FROM daily",
        "DROP TABLE daily",
        "ALTER TABLE daily ADD COLUMN n INTEGER",
        "TRUNCATE daily",
        "CREATE TABLE other (n INTEGER)",
        "PRAGMA user_version = 1",
        "COPY daily TO '/tmp/x'",
        "DELETE FROM daily; DELETE FROM daily",
        "-- nothing",
    ],
)
def test_a_statement_that_changes_more_than_the_views_tables_is_refused(written: str) -> None:
    with pytest.raises(Misuse):
        own_statement(written, ("daily", "lines"))


@pytest.mark.parametrize(
    "written",
    [
        "SELECT replace(day, 'a', 'b'), o.update FROM daily, orders o FOR UPDATE",
        "INSERT INTO daily SELECT 1 FROM orders ON CONFLICT (day) DO UPDATE SET n = 1",
        "MERGE INTO daily USING orders ON true WHEN MATCHED THEN UPDATE SET n = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)",
        "UPDATE daily SET n = o.n FROM orders o WHERE o.day = daily.day;",
        "VALUES (1), (2)",
    ],
)
def test_a_statement_may_read_what_it_likes_and_change_the_views_tables(written: str) -> None:
    own_statement(written, ("daily", "lines"))


WORDS = [
    "daily",
    "DAILY",
    '"daily"',
    "'daily'",
    "-- daily\n",
    "/* daily */",
    "$$ daily $$",
    "x",
    "'it''s'",
    ",",
    " ",
    "(",
    ")",
    "?",
    "1.5",
]


@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_renaming_there_and_back_is_the_same_text(words: Sequence[str]) -> None:
    written = " ".join(words)
    there = renamed(written, {"daily": "weekly"})
    assert renamed(there, {"weekly": "daily"}) == written.replace("DAILY", "daily")
    assert len(there) == len(written) + sum(word.strip('"').lower() == "daily" for word in words)


def test_a_schema_makes_its_tables_and_indexes_under_the_versions_names() -> None:
    schema = parse_schema(
        "daily",
        """
        CREATE TABLE daily (day TEXT PRIMARY KEY, total INTEGER CHECK (daily.total >= 0)); -- of each day; or none
        CREATE TABLE IF NOT EXISTS lines (day TEXT REFERENCES daily (day), what TEXT DEFAULT 'lines; daily');
        CREATE UNIQUE INDEX lines_by_what ON lines (what);
        """,
    )
    assert (schema.tables, schema.indexes) == (("daily", "lines"), ("lines_by_what",))
    made = schema.made(3)
    assert made[0].startswith(
        "CREATE TABLE daily__v3 (day TEXT PRIMARY KEY, total INTEGER CHECK (daily__v3.total >= 0))"
    )
    assert "lines__v3 (day TEXT REFERENCES daily__v3 (day), what TEXT DEFAULT 'lines; daily')" in made[1]
    assert made[2] == "CREATE UNIQUE INDEX lines_by_what__v3 ON lines__v3 (what)"


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("", "makes no table"),
        ("-- nothing", "makes no table"),
        ("CREATE VIEW daily AS SELECT 1", "neither CREATE TABLE nor CREATE INDEX"),
        ("CREATE TEMP TABLE daily (day TEXT)", "neither CREATE TABLE nor CREATE INDEX"),
        ("CREATE TRIGGER t AFTER INSERT ON daily BEGIN SELECT 1; END", "neither CREATE TABLE nor CREATE INDEX"),
        ("CREATE TABLE daily AS SELECT 1", "without columns"),
        ("CREATE TABLE daily (daily TEXT)", "for what it makes and for something else"),
        ("CREATE TABLE daily (day TEXT); CREATE INDEX day ON daily (day)", "for what it makes and for something else"),
        ("CREATE TABLE daily (day TEXT); CREATE TABLE daily (day TEXT)", "twice"),
        ("CREATE TABLE main.daily (day TEXT)", "names main"),
        ('CREATE TABLE "Daily" (day TEXT)', "small letters"),
        (f"CREATE TABLE {'d' * 51} (day TEXT)", "at most 50"),
        ("CREATE TABLE daily__v1 (day TEXT)", "without __v"),
        ("CREATE TABLE ensue_daily (day TEXT)", "the log's"),
        ("CREATE TABLE daily (day TEXT", None),
    ],
)
def test_a_schema_that_makes_anything_else_is_refused_where_it_is_written(schema: str, why: str | None) -> None:
    if why is None:  # the database knows its own words better
        assert parse_schema("daily", schema).tables == ("daily",)
        return
    with pytest.raises(DefinitionError, match=why):
        App("shop").view(schema=schema)(deposits)


def test_a_function_that_is_no_view_is_refused_where_it_is_written() -> None:
    app, schema = App("shop"), "CREATE TABLE kept (n INTEGER)"

    async def slow(event: Deposited, tx: Transaction) -> None: ...
    def alone(event: Deposited) -> None: ...
    def helped(event: Deposited, tx: Transaction, app: App) -> None: ...
    def everything(event: Event, tx: Transaction) -> None: ...
    def placed(event: Recorded[Deposited], tx: Transaction) -> None: ...

    view: Any = app.view
    for function, why in ((slow, "plain `def`"), (alone, "takes its event and a Transaction"), (helped, "no more"), (everything, "which events")):  # fmt: skip
        with pytest.raises(DefinitionError, match=why):
            view(schema=schema)(function)
    with pytest.raises(DefinitionError, match="not Recorded"):
        view(schema=schema, when="inline")(placed)
    with pytest.raises(DefinitionError, match="has tables"):
        view(schema=schema, when="live")(deposits)
    with pytest.raises(DefinitionError, match="schema of its tables"):
        view()(deposits)
    with pytest.raises(DefinitionError, match="is a URL"):
        view(schema=schema, database="rows.db")(deposits)
    with pytest.raises(DefinitionError, match="leave when="):
        view(schema=schema, when="inline", database="sqlite:///rows.db")(deposits)
    with pytest.raises(DefinitionError, match="no option 'table'"):
        view(schema=schema, table="x")(deposits)


def test_two_views_of_one_table_are_refused(file_url: str) -> None:
    def others(event: Deposited, tx: Transaction) -> None: ...

    async def story() -> None:
        app = App("bank", url=file_url)
        app.view(schema=ledger.schema)(ledger.function)
        app.view(schema=f"CREATE TABLE other (n INTEGER); {ledger.schema}")(others)
        with pytest.raises(DefinitionError, match=r"two views have the table 'deposits': deposits and .*others"):
            async with app.connected():
                pass

    told(story)


# -------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("seed", range(2))
def test_tables_are_what_the_function_makes_of_the_log(shared_url: str, seed: int) -> None:
    chance = random.Random(seed)

    async def story() -> None:
        async with App("bank", url=shared_url).connected() as unaware:
            await unaware.publish(*random_events(chance, 1500))
        app = App("bank", url=shared_url)
        app.view(schema=ledger.schema)(ledger.function)
        async with app:
            for number in range(5):
                await app.publish(*random_events(chance, 10, first=2000 + number * 10))
                await ledger_of(app)
        async with app:
            await ledger_of(app)

    told(story)


def twice(event: Deposited | Closed, tx: Transaction) -> None:
    """Newer code: it counts each deposit twice."""
    deposits(event, tx)
    if isinstance(event, Deposited):
        tx.execute("UPDATE deposits SET number = number + 1 WHERE account = ?", event.account_id)


@pytest.mark.parametrize("when", ["after", "inline"])
def test_newer_code_is_built_beside_the_old_and_readers_never_see_it_empty_or_half(log_url: str, when: Any) -> None:
    chance = random.Random(5)

    async def story() -> None:
        old, new = App("bank", url=log_url), App("bank", url=log_url)
        for app, function in ((old, deposits), (new, twice)):
            view: Any = app.view
            view(schema=ledger.schema, when=when)(function)
        async with old:
            await old.publish(*random_events(chance, 1500))
            await ledger_of(old)
            seen: list[list[tuple[Any, ...]]] = []

            async def look() -> None:
                while True:
                    seen.append(old.sql("SELECT account, number FROM deposits ORDER BY account"))
                    await asyncio.sleep(0)

            looking = asyncio.create_task(look())
            async with new:
                receipt = await new.publish(Noted(account_id="a1"))
                await new._open_engine().domain.views.caught_up(receipt.position, timeout_seconds=20)
                rows = deposited(await events_of(new))
                shown = new.sql("SELECT account, number FROM deposits ORDER BY account")
                assert shown == [(account, number * 2) for account, number, _ in rows]
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            single, double = ([(account, number * times) for account, number, _ in rows] for times in (1, 2))
            assert {str(one) for one in seen} <= {str(single), str(double)}, "the old rows, and then the new ones"
            assert old.sql("SELECT account, number FROM deposits__v1 ORDER BY account") == single

    told(story)


def test_each_of_several_tables_is_shown_by_its_name_also_when_somebody_swaps(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.1)
    schema = (
        "CREATE TABLE kept (account TEXT); CREATE TABLE gone (account TEXT); CREATE INDEX kept_by ON kept (account)"
    )

    def sorts(event: Deposited | Closed, tx: Transaction) -> None:
        if isinstance(event, Closed):
            tx.execute("INSERT INTO gone SELECT account FROM kept WHERE account = ?", event.account_id)
            tx.execute("DELETE FROM kept WHERE account = ?", event.account_id)
        else:
            tx.execute("INSERT INTO kept VALUES (?)", event.account_id)

    async def story() -> None:
        app = App("bank", url=log_url)
        app.view(schema=schema, when="inline")(sorts)
        async with app:
            await app.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS[:3]))
            await app.publish(Closed(account_id="a1"))
            joined = app.sql("SELECT k.account, g.account FROM kept k, gone g ORDER BY 1")
            assert joined == [("a0", "a1"), ("a2", "a1")]
            store: Any = app.open_store()
            (version,) = await registry.versions(store)
            await registry.write(store, lambda sql: registry.rebuild(sql, version, used=0, now=0))
            position = Position.of(store.log_id, 1, store.head())
            async with asyncio.timeout(30):
                while not (found := [one for one in await registry.versions(store) if one.current and one.number == 2]):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            app.sql("SELECT * FROM gone__v2")
            await app._open_engine().domain.views.caught_up(position, timeout_seconds=20)
            first, second = await registry.versions(store)
            dialect = store.dialect
            await registry.write(store, lambda sql: registry.show(sql, first, dialect=dialect, now=0, pinned=True))
            await registry.write(store, lambda sql: sql.execute("DELETE FROM gone__v1"))
            async with asyncio.timeout(30):
                while app.sql("SELECT * FROM gone"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert found[0].number == second.number == 2

    told(story)


def test_a_function_changes_nothing_but_its_tables_and_emits_nothing(file_url: str) -> None:
    def writes(event: Deposited, tx: Transaction) -> None:
        tx.execute("DELETE FROM ensue_event")

    def emits(event: Deposited, tx: Transaction) -> None:
        tx.emit(Closed(account_id="a1"))

    async def story() -> None:
        for number, function in enumerate((writes, emits)):
            app = App("bank", url=file_url.replace(".db", f"{number}.db"))
            app.view(schema="CREATE TABLE kept (n INTEGER)", when="inline")(function)
            async with app:
                with pytest.raises(ApplyFailed, match=r"changes what is not the view's|emits no events"):
                    await app.publish(Deposited(account_id="a1", amount=Decimal(1)))
                assert app.open_store().head() == 0

    told(story)


def test_a_function_that_takes_recorded_sees_place_and_time(log_url: str) -> None:
    def places(event: Recorded[Deposited], tx: Transaction) -> None:
        tx.execute("INSERT INTO places VALUES (?, ?)", event.position.last, event.event.account_id)

    async def story() -> None:
        app = App("bank", url=log_url)
        app.view(schema="CREATE TABLE places (position INTEGER, account TEXT)")(places)
        async with app:
            receipt = await app.publish(*(Deposited(account_id=account, amount=Decimal(1)) for account in ACCOUNTS))
            await app._open_engine().domain.views.caught_up(receipt.position, timeout_seconds=20)
            assert app.sql("SELECT * FROM places ORDER BY 1") == list(enumerate(ACCOUNTS, 1))

    told(story)
