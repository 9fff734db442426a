"""`ensue trace` shows the tree of causes and effects, who handled what, how long it took, how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ensue, Sql


def traced(ensue_: Ensue, *arguments: object) -> dict[str, Any]:
    result = ensue_("trace", *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def deliveries(found: dict[str, Any], position: int) -> list[dict[str, Any]]:
    (event,) = [event for event in found["events"] if event["position"] == position]
    shown: list[dict[str, Any]] = event["deliveries"]
    return shown


def test_the_tree_holds_the_event_its_causes_and_its_effects(log_file: Path, ensue_: Ensue) -> None:
    found = traced(ensue_, 1)
    assert (found["asked"], found["roots"], found["complete"]) == (1, [1], True)
    assert [event["type"] for event in found["events"]] == [
        "OrderPlaced",
        "PaymentProcessed",
        "OrderShipped",
        "CustomerNotified",
    ]


def test_an_effect_leads_to_the_same_tree(log_file: Path, ensue_: Ensue) -> None:
    whole = traced(ensue_, 1)
    effect = whole["events"][-1]
    found = traced(ensue_, effect["position"])
    assert found["events"] == whole["events"]
    assert found["asked"] == effect["position"]


def test_an_event_is_found_by_its_id(log_file: Path, ensue_: Ensue) -> None:
    effect = traced(ensue_, 1)["events"][-1]
    assert traced(ensue_, effect["id"])["asked"] == effect["position"]


def test_an_event_is_found_by_the_first_digits_of_its_id(log_file: Path, ensue_: Ensue) -> None:
    made_later = traced(ensue_, 15)["events"][0]["id"]
    assert traced(ensue_, made_later[:13])["asked"] == 15  # the time, in milliseconds, is in these digits


def test_first_digits_that_fit_several_events_are_a_no_that_lists_them(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("trace", traced(ensue_, 1)["events"][0]["id"][:4])
    assert result.exit_code == 1
    assert "the ids of several events begin with" in result.stderr
    assert "positions" in result.stderr


def test_a_correlation_shows_every_event_that_began_it(log_file: Path, ensue_: Ensue) -> None:
    found = traced(ensue_, traced(ensue_, 1)["events"][0]["correlation"])
    assert found["roots"] == [1, 2, 3, 4, 5]
    assert len(found["events"]) == 14


@pytest.mark.parametrize("id", ["4711", "abcdef", "00000000-0000-7000-8000-000000000000"])
def test_what_is_not_there_is_a_no(log_file: Path, ensue_: Ensue, id: str) -> None:
    result = ensue_("trace", id)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("ensue: ")


def test_a_delivery_says_who_how_long_and_when(log_file: Path, ensue_: Ensue) -> None:
    (payment,) = deliveries(traced(ensue_, 1), 1)
    assert (payment["consumer"], payment["outcome"], payment["attempts"]) == ("take_payment", "handled", 1)
    assert 0 <= payment["seconds"] <= payment["latency_seconds"] < 60


def test_what_was_given_up_names_its_dead_letter_attempts_and_reason(log_file: Path, ensue_: Ensue) -> None:
    (payment,) = deliveries(traced(ensue_, 4), 4)
    assert (payment["outcome"], payment["dead_letter"], payment["attempts"]) == ("parked", 1, 2)
    assert payment["reason"] == "ValueError: the card of broke was declined"


def test_what_waits_behind_a_dead_letter_says_so(log_file: Path, ensue_: Ensue) -> None:
    (payment,) = deliveries(traced(ensue_, 5), 5)
    assert (payment["outcome"], payment["dead_letter"], payment["attempts"]) == ("waiting", 1, 0)


def test_what_nobody_has_handled_yet_is_pending_and_says_why(log_file: Path, ensue_: Ensue) -> None:
    (payment,) = deliveries(traced(ensue_, 15), 15)
    assert (payment["outcome"], payment["reason"]) == ("pending", "no running process owns the consumer")


def test_a_retry_that_is_due_later_says_when(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_lane SET state = 'retry', due_at = ?", 1_800_000_000_000_000)
    sql("UPDATE ensue_dead_letter SET resolved_at = 1, resolution = 'retried'")
    (payment,) = deliveries(traced(ensue_, 4), 4)
    assert (payment["outcome"], payment["due_at"]) == ("retrying", "2027-01-15T08:00:00.000000Z")


def test_a_delivery_whose_record_has_been_removed_counts_as_handled_without_times(
    log_file: Path, sql: Sql, ensue_: Ensue
) -> None:
    sql("DELETE FROM ensue_delivery")
    (payment,) = deliveries(traced(ensue_, 1), 1)
    assert (payment["outcome"], payment["seconds"], payment["latency_seconds"]) == ("handled", None, None)


def test_a_tree_beyond_the_limit_is_cut_and_says_so(log_file: Path, ensue_: Ensue) -> None:
    assert traced(ensue_, 1, "--limit", 2)["complete"] is False
    result = ensue_("trace", 1, "--limit", 2)
    assert "… and more; --limit" in result.stdout


def test_the_event_asked_for_is_shown_whatever_the_limit(log_file: Path, ensue_: Ensue) -> None:
    last = traced(ensue_, 1)["events"][-1]["position"]
    assert traced(ensue_, last, "--limit", 1)["events"][-1]["position"] == last


def test_the_text_draws_effects_below_the_consumer_that_made_them(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("trace", 1)
    shape = [line.split("handled")[0].split("order_id")[0].rstrip() for line in result.stdout.splitlines()]
    numbers = [event["position"] for event in traced(ensue_, 1)["events"]]
    assert shape == [
        "1 OrderPlaced",
        "└─ take_payment",
        f"   └─ {numbers[1]} PaymentProcessed",
        "      └─ ship",
        f"         ├─ {numbers[2]} OrderShipped",
        f"         └─ {numbers[3]} CustomerNotified",
    ]


def test_a_chain_of_a_thousand_causes_can_be_drawn(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql(
        "WITH RECURSIVE n(i) AS (SELECT 16 UNION ALL SELECT i + 1 FROM n WHERE i < 1015) INSERT INTO ensue_event "
        "SELECT i, randomblob(16), 3, NULL, NULL, recorded_at, i - 1, 15, 9, 0, meta, CAST('{}' AS BLOB) FROM n, ensue_event "
        "WHERE position = 15"
    )
    sql("UPDATE ensue_log SET position = 1015")
    result = ensue_("trace", 15, "--limit", 2000)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 1000


def test_damaged_metadata_hide_no_other_event(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    correlation = traced(ensue_, 1)["events"][0]["correlation"]
    sql("UPDATE ensue_event SET meta = ? WHERE position = 2", b"\xff")
    assert traced(ensue_, 2)["events"][0]["correlation"] is None
    assert len(ensue_("log", "--correlation", correlation).stdout.splitlines()) == 13


def test_a_correlation_with_more_beginnings_than_a_page_is_whole(
    log_file: Path, sql: Sql, ensue_: Ensue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.cli.trace.PAGE", 2)
    monkeypatch.setattr("ensue.cli.trace.ROOTS", 2)
    found = traced(ensue_, traced(ensue_, 1)["events"][0]["id"])
    assert (found["roots"], len(found["events"])) == ([1, 2, 3, 4, 5], 14)
