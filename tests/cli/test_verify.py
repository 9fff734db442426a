"""`verify` finds what is planted, and nothing else: each corruption is made with plain SQL in a closed log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import pytest

from ensue import App, Event
from ensue.app import open_store
from ensue.consumers import verify as verification
from ensue.consumers.deliveries import Delivered, Outcome, pack
from ensue.consumers.verify import Finding, Verification, verify
from ensue.events.stored import Draft, Meta, encode_meta, tag_hash
from ensue.store.base import Request
from ensue.store.memory import MemoryStore
from ensue.world import RealWorld
from tests.cli.conftest import Ensue, Sql
from tests.cli.shop import OrderPlaced, shop, until

Plant: TypeAlias = Callable[[Sql], object]


def verified(file: Path) -> Verification:
    async def look() -> Verification:
        store, world = open_store(f"sqlite:///{file}", read_only=True), RealWorld()
        await store.open(world)
        try:
            return await verify(store, world)
        finally:
            await store.close()

    return asyncio.run(look())


def rows(*statements: str | tuple[object, ...]) -> Plant:
    """Run these statements, each with its values."""

    def plant(sql: Sql) -> None:
        for statement in statements:
            text, *values = (statement,) if isinstance(statement, str) else statement
            sql(str(text), *values)

    return plant


def move_mark(sql: Sql) -> None:
    """The bug that skips an event: the mark of its segment passes it, and nobody has handled it."""
    segment = tag_hash("order_id=o5")[0] % 16
    sql("UPDATE ensue_progress SET position = 15 WHERE consumer = 1 AND segment = ?", segment)


def move_mark_back(sql: Sql) -> None:
    """The bug that repeats an event: its effects are there, and its progress is not."""
    segment = tag_hash("order_id=o1")[0] % 16
    sql("UPDATE ensue_progress SET position = 0 WHERE consumer = 1 AND segment = ?", segment)


def record(position: int) -> bytes:
    return pack([Delivered(position, 10, Outcome.HANDLED.value)])


WHOLE = "a log as it is left by an application"
PLANTED: Sequence[tuple[str, Plant, str, int | None]] = (
    ("an event in the middle is gone", rows("DELETE FROM ensue_event WHERE position = 9"), "positions", 9),
    ("the last event is gone", rows("DELETE FROM ensue_event WHERE position = 15"), "positions", 15),
    (
        "two events have one id",
        rows(
            "DROP INDEX ensue_event_id",
            "UPDATE ensue_event SET id = (SELECT id FROM ensue_event WHERE position = 2) WHERE position = 15",
        ),
        "ids",
        15,
    ),
    (
        "a version of a stream is left out",
        rows("UPDATE ensue_event SET version = 7 WHERE position = 5"),
        "versions",
        5,
    ),
    (
        "an event without a stream has a version",
        rows("UPDATE ensue_event SET stream = NULL WHERE position = 15"),
        "versions",
        15,
    ),
    ("time runs backwards", rows("UPDATE ensue_event SET recorded_at = 5 WHERE position = 15"), "times", 15),
    ("a cause comes after its effect", rows("UPDATE ensue_event SET cause = 15 WHERE position = 9"), "causes", 9),
    ("a cause is no position", rows("UPDATE ensue_event SET cause = -1 WHERE position = 9"), "causes", 9),
    (
        "a root is another than that of the cause",
        rows("UPDATE ensue_event SET root = CASE root WHEN 1 THEN 2 ELSE 1 END WHERE position = 14"),
        "causes",
        14,
    ),
    ("a cause has no root", rows("UPDATE ensue_event SET root = NULL WHERE position = 14"), "causes", 14),
    (
        "a cause is another event than the metadata say",
        rows("UPDATE ensue_event SET cause = 1 + root % 3, root = 1 + root % 3 WHERE position = 6"),
        "causes",
        6,
    ),
    (
        "one delivery has made its effects twice",
        rows(
            "UPDATE ensue_event SET (cause, root, maker, nth) = "
            "(SELECT cause, root, maker, nth FROM ensue_event WHERE position = 6) WHERE position = 15"
        ),
        "units",
        15,
    ),
    (
        "an effect is left out of what a delivery made",
        rows("UPDATE ensue_event SET nth = 3 WHERE nth = 1"),
        "units",
        None,
    ),
    ("an emitted event has no number", rows("UPDATE ensue_event SET nth = NULL WHERE position = 6"), "units", 6),
    ("the maker is not known", rows("UPDATE ensue_event SET maker = 99 WHERE position = 6"), "makers", 6),
    ("the type is not known", rows("UPDATE ensue_event SET type = 99 WHERE position = 15"), "types", 15),
    ("a payload is damaged", rows(("UPDATE ensue_event SET data = ? WHERE position = 2", b"{")), "contents", 2),
    ("metadata are damaged", rows(("UPDATE ensue_event SET meta = ? WHERE position = 2", b"\xff")), "contents", 2),
    (
        "the key is another than that of the stream",
        rows("UPDATE ensue_event SET meta = (SELECT meta FROM ensue_event WHERE position = 1) WHERE position = 2"),
        "contents",
        2,
    ),
    ("a mark is beyond the log", rows("UPDATE ensue_progress SET position = 20 WHERE segment = 3"), "checkpoints", 20),
    (
        "what is done ahead of a mark is not in order",
        rows(("UPDATE ensue_progress SET ahead = ? WHERE segment = 3", b"\x92\x0f\x0f")),
        "checkpoints",
        None,
    ),
    ("a progress row is gone", rows("DELETE FROM ensue_progress WHERE segment = 3"), "checkpoints", None),
    ("an event was skipped", move_mark, "accounts", 15),
    (
        "an event counts as done though nobody says so",
        rows("UPDATE ensue_progress SET count = count + 1"),
        "accounts",
        None,
    ),
    (
        "others were handled than count as done",
        rows("UPDATE ensue_progress SET digest = digest + 7 WHERE count > 0"),
        "accounts",
        None,
    ),
    ("effects are there and their cause is not done", move_mark_back, "effects", None),
    ("a key stands in another segment", rows("UPDATE ensue_lane SET segment = (segment + 1) % 16"), "lanes", 3),
    ("a key has another name than its hash", rows("UPDATE ensue_lane SET key_text = 'order_id=o9'"), "lanes", 3),
    ("a key is done beyond the log", rows("UPDATE ensue_lane SET after = 99"), "lanes", 99),
    ("a key is in no known state", rows("UPDATE ensue_lane SET state = 'lost'"), "lanes", 3),
    ("a parked key has lost its dead letter", rows("DELETE FROM ensue_dead_letter"), "dead letters", 4),
    ("a dead letter has lost its parked key", rows("UPDATE ensue_lane SET state = 'late'"), "dead letters", 4),
    ("a dead letter is about no event", rows("UPDATE ensue_dead_letter SET position = 99"), "dead letters", 99),
    (
        "an event was handled twice by one consumer",
        rows(("INSERT INTO ensue_delivery VALUES (1, 2, 2, 0, ?)", record(2))),
        "deliveries",
        2,
    ),
    (
        "a delivery record is damaged",
        rows(("INSERT INTO ensue_delivery VALUES (1, 2, 2, 0, ?)", b"\xc1")),
        "deliveries",
        2,
    ),
    (
        "a delivery record speaks of other events",
        rows(("INSERT INTO ensue_delivery VALUES (1, 2, 3, 0, ?)", record(15))),
        "deliveries",
        2,
    ),
)


def test_a_log_as_an_application_leaves_it_is_whole(log_file: Path) -> None:
    found = verified(log_file)
    assert found.findings == ()
    assert (found.events, found.consumers, found.dead_letters) == (15, 2, 1)


@pytest.mark.parametrize(
    ("plant", "check", "position"), [case[1:] for case in PLANTED], ids=[case[0] for case in PLANTED]
)
def test_what_is_planted_is_found_at_its_position(
    log_file: Path, sql: Sql, plant: Plant, check: str, position: int | None
) -> None:
    plant(sql)
    findings = [finding for finding in verified(log_file).findings if finding.check == check]
    assert findings
    assert position is None or position in [finding.position for finding in findings]


def test_every_check_has_a_planted_corruption() -> None:
    source = Path(verification.__file__).read_text()
    named = {part.split('"')[0] for call in (".add(", "._find(") for part in source.split(f'{call}"')[1:]}
    assert named == {case[2] for case in PLANTED}


def test_the_skipped_event_is_named(log_file: Path, sql: Sql) -> None:
    move_mark(sql)
    (finding,) = verified(log_file).findings
    assert (finding.consumer, finding.position) == ("take_payment", 15)
    assert "the event counts as done and was not handled" in finding.message


def test_many_findings_of_one_kind_are_counted_and_not_all_told(log_file: Path, sql: Sql) -> None:
    sql(
        "WITH RECURSIVE n(i) AS (SELECT 16 UNION ALL SELECT i + 1 FROM n WHERE i < 265) INSERT INTO ensue_event "
        "SELECT i, randomblob(16), 1, NULL, NULL, 0, NULL, NULL, NULL, NULL, meta, data FROM n, ensue_event "
        "WHERE position = 15"
    )
    sql("UPDATE ensue_log SET position = 265")
    found = verified(log_file)
    assert len([finding for finding in found.findings if finding.check == "times"]) == 100
    assert found.omitted >= 150


def test_a_log_is_verified_while_an_application_writes_to_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"

    async def run() -> list[Verification]:
        found: list[Verification] = []
        world = RealWorld()
        async with shop(url) as app:
            # Every read of progress, events and dead letters has writes in between.
            async def write() -> None:
                for number in range(60):
                    customer = "broke" if number % 10 == 3 else "anna"
                    await app.publish(OrderPlaced(order_id=f"o{number}", customer=customer, total=Decimal(1)))

            writing = world.spawn(write(), name="orders")
            store = open_store(url, read_only=True)
            await store.open(world)
            while not writing.done():
                found.append(await verify(store, world))
            await writing

            async def all_accounted() -> bool:
                found.append(await verify(store, world))
                return found[-1].dead_letters == 6 and found[-1].events == 60 + 54 * 3

            await until(all_accounted)
            await store.close()
        return found

    found = asyncio.run(run())
    assert len(found) > 2
    assert [finding for verification in found for finding in verification.findings] == []


def test_a_log_in_memory_is_verified_by_the_same_function() -> None:
    async def run() -> Verification:
        store, world = MemoryStore(), RealWorld()
        await store.open(world)
        for number in range(3):
            meta = encode_meta(Meta(1, world.new_id(), None, f"order_id=o{number}"))
            draft = Draft(world.new_id(), "OrderPlaced", 1, tag_hash(f"order_id=o{number}"), (), meta, b"{}")
            await store.write(Request(events=(draft,)))
        return await verify(store, world)

    found = asyncio.run(run())
    assert (found.events, found.findings) == (3, ())


def test_a_consumer_that_knows_a_type_by_its_new_name_only_is_accounted_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/renamed.db"

    class BreadBaked(Event, key="bread"):
        bread: str

    class LoafBaked(Event, key="bread", was=("BreadBaked",)):
        bread: str

    bakery = App("bakery", url=url)

    @bakery.on(start="beginning")
    async def sell(baked: LoafBaked) -> None: ...

    async def run() -> Verification:
        async with App("bakery", url=url).connected() as before:
            await before.publish(*[BreadBaked(bread=f"b{number}") for number in range(5)])
        async with bakery as after:
            store = after.open_store()

            async def all_done() -> bool:
                (consumer,) = await store.consumers()
                return sum(row.count for row in (await store.standing(consumer.id)).progress) == 5

            await until(all_done)
            return await verify(store, RealWorld())

    found = asyncio.run(run())
    assert (found.events, found.findings) == (5, ())


def test_progress_is_told_up_to_the_head(log_file: Path) -> None:
    told: list[tuple[int, int]] = []

    async def look() -> None:
        store, world = open_store(f"sqlite:///{log_file}", read_only=True), RealWorld()
        await store.open(world)
        await verify(store, world, progress=lambda done, total: told.append((done, total)))
        await store.close()

    asyncio.run(look())
    assert told[-1] == (15, 15)


def test_findings_are_values() -> None:
    assert Finding(check="ids", message="m", position=1) == Finding(check="ids", message="m", position=1)


# ---------------------------------------------------------------------------------------------------- ensue verify


def test_the_command_says_that_a_log_is_whole(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("verify")
    assert result.exit_code == 0
    assert result.stdout == "whole: 15 events, 2 consumers, 1 open dead letter checked, nothing found\n"


def test_the_command_shows_each_finding_and_ends_with_one(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_event SET recorded_at = 5 WHERE position = 15")
    result = ensue_("verify")
    assert result.exit_code == 1
    finding, summary = result.stdout.splitlines()
    assert finding.split("\t")[:2] == ["times", "position 15"]
    assert summary.startswith("not whole: 1 finding in 15 events")


def test_the_command_gives_the_findings_as_json(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_event SET recorded_at = 5 WHERE position = 15")
    found = json.loads(ensue_("verify", "--json").stdout)
    assert found["whole"] is False
    assert [(finding["check"], finding["position"]) for finding in found["findings"]] == [("times", 15)]
