"""`ensue dead-letters` shows what was given up, and lets it be tried again, edited or discarded."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ensue import Event
from tests.cli.conftest import Ensue, Sql
from tests.cli.shop import PaymentProcessed, shop, until

SHOP = ("--app", "tests.cli.shop:app")


def listed(ensue_: Ensue, *arguments: object) -> list[dict[str, Any]]:
    result = ensue_("dead-letters", "--json", *arguments)
    assert result.exit_code == 0, result.output
    letters: list[dict[str, Any]] = json.loads(result.stdout)["dead_letters"]
    return letters


def handled_then(count: int) -> list[Event]:
    """Run the application until there are so many payments; return them."""

    async def run() -> list[Event]:
        async with shop("sqlite:///shop.db") as app:

            async def payments() -> list[Event]:
                return [recorded.event async for recorded in app.log.read(PaymentProcessed)]

            async def enough() -> bool:
                return len(await payments()) >= count

            await until(enough)
            return await payments()

    return asyncio.run(run())


def test_the_list_says_who_gave_up_what_and_why(log_file: Path, ensue_: Ensue) -> None:
    (letter,) = listed(ensue_)
    assert (letter["id"], letter["consumer"], letter["position"], letter["key"]) == (
        1,
        "take_payment",
        4,
        "order_id=o4",
    )
    assert (letter["reason"], letter["attempts"]) == ("ValueError: the card of broke was declined", 2)


def test_the_list_can_be_of_one_consumer(log_file: Path, ensue_: Ensue) -> None:
    assert listed(ensue_, "--consumer", "ship") == []
    assert len(listed(ensue_, "--consumer", "take_payment")) == 1
    assert ensue_("dead-letters", "--consumer", "nobody").exit_code == 2


def test_one_is_shown_with_payload_reason_traceback_attempts_and_what_waits(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("dead-letters", "show", 1)
    assert result.exit_code == 0
    assert '"customer": "broke"' in result.stdout
    assert 'raise ValueError(f"the card of {order.customer} was declined")' in result.stdout
    assert "1 event of this key behind it" in result.stdout


def test_one_is_shown_as_json_with_its_event(log_file: Path, ensue_: Ensue) -> None:
    shown = json.loads(ensue_("dead-letters", "show", 1, "--json").stdout)
    assert shown["event"]["event"]["customer"] == "broke"
    assert shown["traceback"].startswith("Traceback")
    assert shown["edited"] is None


def test_one_that_is_not_there_is_a_no(log_file: Path, ensue_: Ensue) -> None:
    for word in (("show", 7), ("retry", 7), ("edit", 7, "--set", "a=1"), ("discard", 7, "--note", "n")):
        result = ensue_("dead-letters", *word)
        assert result.exit_code == 1
        assert "has no dead letter 7" in result.stderr


def test_a_discarded_event_lets_its_key_go_on_behind_it(log_file: Path, ensue_: Ensue, sql: Sql) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position = 5", b'{"order_id":"o4","customer":"carl","total":"1.00"}')
    result = ensue_("dead-letters", "discard", 1, "--note", "a test order")
    assert result.exit_code == 0
    assert "dead letter 1 is discarded (position 4, order_id=o4, take_payment)" in result.stdout
    payments = handled_then(5)
    assert [event.amount for event in payments if isinstance(event, PaymentProcessed) and event.order_id == "o4"] == [1]
    (letter,) = listed(ensue_, "--all")
    assert (letter["resolution"], letter["note"]) == ("discarded", "a test order")


def test_an_edit_is_what_its_consumer_gets_and_the_log_keeps_the_event(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("dead-letters", "edit", 1, "--set", "customer=carl", "--set", "total=98.50", *SHOP)
    assert result.exit_code == 0, result.output
    assert '-  "customer": "broke"' in result.stdout
    assert '+  "customer": "carl"' in result.stdout
    payments = handled_then(5)
    assert "98.50" in [str(event.amount) for event in payments if isinstance(event, PaymentProcessed)]
    shown = json.loads(ensue_("log", "--json", "--from", 4, "--backwards").stdout.splitlines()[-1])
    assert shown["event"]["customer"] == "broke"


def test_what_fails_again_after_a_retry_is_a_new_dead_letter(log_file: Path, ensue_: Ensue) -> None:
    assert ensue_("dead-letters", "retry", 1, "--note", "the bank is back").exit_code == 0

    async def run() -> None:
        async with shop("sqlite:///shop.db") as app:

            async def parked_again() -> bool:
                return bool(await app.open_store().dead_letters())

            await until(parked_again)

    asyncio.run(run())
    first, second = listed(ensue_, "--all")
    assert (first["resolution"], first["note"], second["resolution"]) == ("retried", "the bank is back", None)
    assert second["position"] == 4


def test_all_are_retried_at_once(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("dead-letters", "retry", "--all")
    assert result.exit_code == 0
    assert "dead letter 1 is retried" in result.stdout
    assert "No process runs this consumer now" in result.stderr
    assert listed(ensue_) == []


def test_what_somebody_has_resolved_already_is_a_no(log_file: Path, ensue_: Ensue) -> None:
    assert ensue_("dead-letters", "retry", 1).exit_code == 0
    result = ensue_("dead-letters", "discard", 1, "--note", "n")
    assert result.exit_code == 1
    assert "dead letter 1 was retried already" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("retry", "1"),
        ("retry", "--all"),
        ("discard", "1", "--note", "a test order"),
        ("edit", "1", "--set", "customer=carl"),
    ],
    ids=" ".join,
)
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(
    log_file: Path, ensue_: Ensue, words: tuple[str, ...]
) -> None:
    before = log_file.read_bytes()
    result = ensue_("dead-letters", *words, "--dry-run")
    assert result.exit_code == 0
    assert "dead letter 1 would be" in result.stdout
    assert log_file.read_bytes() == before


def test_an_edit_is_checked_against_the_event_type_of_the_application(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("dead-letters", "edit", 1, "--set", "total=a lot", *SHOP)
    assert result.exit_code == 2
    assert "this is no OrderPlaced version 1" in result.stderr
    assert len(listed(ensue_)) == 1


def test_without_the_application_an_edit_says_that_it_is_not_checked(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("dead-letters", "edit", 1, "--set", "total=a lot", "--dry-run")
    assert "Not checked against OrderPlaced: say --app module:app" in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("totl=1", "the payload has no field 'totl'; it has: order_id, customer, total"),
        ("customer.name=x", "the payload has no field 'customer.name'"),
        ("total", "'total' is not of the form field=value"),
    ],
)
def test_a_change_of_what_is_not_there_is_wrong_usage(log_file: Path, ensue_: Ensue, change: str, said: str) -> None:
    result = ensue_("dead-letters", "edit", 1, "--set", change)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_value_is_read_as_json_where_no_text_stands(log_file: Path, ensue_: Ensue, sql: Sql) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position = 4", b'{"count":1,"at":{"place":[1]},"name":"1"}')
    changes = ("--set", "count=2", "--set", "at.place=[1,2]", "--set", "name=2")
    assert ensue_("dead-letters", "edit", 1, *changes).exit_code == 0
    assert sql("SELECT edit FROM ensue_lane") == [(b'{"count":2,"at":{"place":[1,2]},"name":"2"}',)]


def test_without_a_change_the_payload_is_opened_in_the_editor(log_file: Path, ensue_: Ensue, sql: Sql) -> None:
    editor = log_file.parent / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/broke/carl/ "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    result = ensue_("dead-letters", "edit", 1, EDITOR=str(editor), VISUAL="")
    assert result.exit_code == 0, result.output
    assert sql("SELECT edit FROM ensue_lane") == [(b'{"order_id":"o4","customer":"carl","total":"99.00"}',)]


def test_a_payload_that_cannot_be_read_is_repaired_in_the_editor(log_file: Path, ensue_: Ensue, sql: Sql) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position = 4", b'{"order_id":"o4","customer":"carl","total":"1"')
    assert '"customer":"carl"' not in ensue_("dead-letters", "show", 1).stdout
    editor = log_file.parent / "editor"
    editor.write_text('#!/bin/sh\necho "}" >> "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    result = ensue_("dead-letters", "edit", 1, *SHOP, EDITOR=str(editor), VISUAL="")
    assert result.exit_code == 0, result.output
    assert sql("SELECT edit FROM ensue_lane") == [(b'{"order_id":"o4","customer":"carl","total":"1"}',)]


def test_an_editor_that_changes_nothing_changes_nothing(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("dead-letters", "edit", 1, EDITOR="true", VISUAL="")
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert len(listed(ensue_)) == 1


@pytest.mark.parametrize("words", [("retry",), ("retry", "1", "--all"), ("retry", "1", "--consumer", "ship")])
def test_what_is_to_be_retried_must_be_clear(log_file: Path, ensue_: Ensue, words: tuple[str, ...]) -> None:
    assert ensue_("dead-letters", *words).exit_code == 2


def test_a_discard_needs_a_note_that_says_something(log_file: Path, ensue_: Ensue) -> None:
    assert ensue_("dead-letters", "discard", 1).exit_code == 2
    assert ensue_("dead-letters", "discard", 1, "--note", " ").exit_code == 2


def test_without_dead_letters_a_pipe_gets_nothing(log_file: Path, ensue_: Ensue) -> None:
    ensue_("dead-letters", "retry", 1)
    assert ensue_("dead-letters").stdout == ""
