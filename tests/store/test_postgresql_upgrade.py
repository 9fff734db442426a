"""The tables of a log in PostgreSQL come in steps: each once, whole or not at all, whoever begins at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import uuid
from collections.abc import Callable

import pytest

import ensue.store.postgresql.schema as schema
import ensue.store.postgresql.server as server
from ensue.app.urls import bring_up_to_date
from ensue.errors import EnsueError, LogTooNew, Unavailable
from ensue.store.postgresql import PostgresqlStore
from ensue.store.postgresql.session import Statement
from ensue.store.steps import Step
from tests.store.logs import WORLD, child, line, rest
from tests.store.postgresql_logs import Other, append, at_once, opened, rows_of, sql, told, until

PROGRAMS = "tests.store.postgresql_children"
PlantStep = Callable[[str], None]
ADDED = "ALTER TABLE ensue_node ADD COLUMN note text;\nCREATE INDEX ensue_event_by_time ON ensue_event (recorded_at);\n"


@pytest.fixture
def url(postgresql_url: str) -> str:
    """An empty place whose sessions can be told from those of other tests."""
    return f"{postgresql_url}&application_name=test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def step_2(monkeypatch: pytest.MonkeyPatch) -> PlantStep:
    """A version of Ensue that knows a second step."""

    def plant(sql: str) -> None:
        steps = (schema.STEPS[0], Step(2, "a note", sql))
        monkeypatch.setattr(schema, "STEPS", steps)
        monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)

    return plant


def steps_of(url: str) -> list[tuple[int, str]]:
    return [(number, title) for number, title in sql(url, "SELECT version, title FROM ensue_schema ORDER BY 1")]


def everything(url: str) -> list[tuple[object, ...]]:
    """All that a step could change."""
    return sql(
        url,
        "SELECT relname, relkind::text, attname, format_type(atttypid, atttypmod), attnotnull "
        "FROM pg_class c LEFT JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 "
        "WHERE relnamespace = current_schema()::regnamespace ORDER BY 1, 3",
    )


def at_the_same_moment(program: str, url: str, count: int) -> list[str]:
    """So many processes, each ready before the first begins; what they said."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(child(program, url, programs=PROGRAMS)) for _ in range(count)]
        for process in processes:
            assert line(process) == "ready"
        for process in processes:
            _let_begin(process)
        return [said for process in processes for said in rest(process)]


def _let_begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_bring_it_up_to_date_at_once_take_each_step_once(url: str) -> None:
    said = at_the_same_moment("upgrades", url, 3)
    assert sum(len(line.split()) == 2 for line in said) == 1
    assert steps_of(url) == [(1, "the tables of a log")]

    async def story() -> None:
        async with opened(url) as store:
            assert (await append(store, b"{}")).first == 1

    told(story)


def test_a_step_is_taken_once_by_ten_who_find_it_missing_at_the_same_moment(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        await bring_up_to_date(url, WORLD)
        step_2(ADDED)
        done = await asyncio.gather(*(bring_up_to_date(url, WORLD) for _ in range(10)))
        assert sorted(len(one.steps) for one in done) == [0] * 9 + [1]

    told(story)
    assert steps_of(url) == [(1, "the tables of a log"), (2, "a note")]


def test_a_log_is_brought_up_to_date_when_it_is_opened_and_goes_on(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        async with opened(url) as store:
            await append(store, b"before")
        step_2(ADDED)
        async with opened(url) as store:
            assert (await append(store, b"after")).first == 2
            assert [row[11] for row in await rows_of(store)] == [b"before", b"after"]

    told(story)
    assert sql(url, "SELECT note FROM ensue_node") == []


def test_a_process_of_the_version_before_goes_on_while_a_step_is_taken(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        async with opened(url) as store:
            await append(store, b"before")
            step_2(ADDED)
            assert [step.number for step in (await bring_up_to_date(url, WORLD)).steps] == [2]
            assert (await append(store, b"after")).first == 2
            assert len(await rows_of(store)) == 2

    told(story)


def test_a_step_that_fails_half_way_leaves_the_step_before_and_can_be_gone_on_with(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        step_2("ALTER TABLE ensue_node ADD COLUMN note text;\nSELECT 1 / 0;\n")
        with pytest.raises(EnsueError, match=r"could not bring the log .* up to date.*division by zero"):
            await bring_up_to_date(url, WORLD)
        assert steps_of(url) == [(1, "the tables of a log")]
        assert not [row for row in everything(url) if row[0] == "ensue_node" and row[2] == "note"]
        step_2(ADDED)
        done = await bring_up_to_date(url, WORLD)
        assert (done.found, [step.number for step in done.steps]) == (1, [2])

    told(story)


def test_a_process_that_dies_in_a_step_leaves_the_step_before(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        await bring_up_to_date(url, WORLD)
        step_2(f"{ADDED}SELECT pg_terminate_backend(pg_backend_pid());\n")
        before = everything(url)
        with pytest.raises(Unavailable):
            await bring_up_to_date(url, WORLD)
        assert everything(url) == before
        step_2(ADDED)
        assert len((await bring_up_to_date(url, WORLD)).steps) == 1

    told(story)


def test_who_comes_while_a_long_step_is_taken_waits_for_its_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a writer waits for a lock."""
    monkeypatch.setattr(server, "_ONCE", Statement("SELECT set_config('lock_timeout', '20ms', false)")())

    async def story() -> None:
        async with Other(url) as other:
            lock = "SELECT pg_advisory_xact_lock(hashtextextended('ensue schema ' || current_schema(), 0))"
            await other.run("BEGIN", lock)
            waits = asyncio.ensure_future(bring_up_to_date(url, WORLD))
            await other.waiting(1)

            async def for_long() -> bool:
                ((found,),) = await other.run(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                    "AND waitstart < clock_timestamp() - interval '60 ms'"
                )
                return bool(found)

            await until(for_long, "it was to wait for longer than that")
            await other.run("COMMIT")
            assert len((await at_once(waits)).steps) == 1

    told(story)


def test_a_dry_run_says_what_is_missing_and_changes_nothing(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        step_2(ADDED)
        done = await bring_up_to_date(url, WORLD, dry_run=True)
        assert (done.found, [step.title for step in done.steps]) == (0, ["the tables of a log", "a note"])
        assert everything(url) == []

    told(story)


def test_a_log_of_a_newer_version_is_refused_by_everybody_and_left_alone(url: str) -> None:
    async def story() -> None:
        async with opened(url):
            pass
        sql(url, "INSERT INTO ensue_schema VALUES (2, 'from the future')")
        before = everything(url)
        for attempt in (
            PostgresqlStore(url).open(WORLD),
            PostgresqlStore(url, read_only=True).open(WORLD),
            bring_up_to_date(url, WORLD),
            bring_up_to_date(url, WORLD, dry_run=True),
        ):
            with pytest.raises(LogTooNew, match=r"schema 2, this one knows 1"):
                await attempt
        assert everything(url) == before

    told(story)


def test_a_tool_that_only_looks_upgrades_nothing_and_names_the_command_that_does(url: str, step_2: PlantStep) -> None:
    async def story() -> None:
        with pytest.raises(Unavailable, match="there is none"):
            await PostgresqlStore(url, read_only=True).open(WORLD)
        await bring_up_to_date(url, WORLD)
        step_2(ADDED)
        with pytest.raises(Unavailable, match="`ensue db upgrade`"):
            await PostgresqlStore(url, read_only=True).open(WORLD)

    told(story)
    assert len(steps_of(url)) == 1
