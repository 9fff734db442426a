"""`ensue patterns flink` prints a pattern as Flink SQL, and refuses what has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Ensue

SHOP = """
from ensue import Event, minutes
from ensue.patterns import Pattern, absent, one


class Placed(Event, key="order_id"):
    order_id: str


class Paid(Event, key="order_id"):
    order_id: str


class Unpaid(Pattern):
    order = one(Placed)
    paid = absent(Paid, within=minutes(15))


class Odd(Pattern, within=minutes(1)):
    order = one(Placed, lambda placed: str(placed.order_id) == "o1")
    rounds = one(Paid, contiguity='any')
"""
TOPICS = ("--source", "kafka://kafka:9092/orders", "--target", "kafka://kafka/unpaid")


@pytest.fixture
def shop(folder: Path) -> Path:
    (folder / "shop.py").write_text(SHOP)
    return folder


def test_the_query_comes_with_what_must_be_so(shop: Path, ensue_: Ensue) -> None:
    said = ensue_("patterns", "flink", "shop:Unpaid")
    assert said.exit_code == 0
    assert said.stdout.startswith("-- Finds what the pattern finds, if:\n-- - every event comes before")
    assert "LEFT JOIN" in said.stdout and "INTERVAL '0 00:15:00.001'" in said.stdout


def test_between_two_topics_it_is_three_statements(shop: Path, ensue_: Ensue) -> None:
    said = ensue_("patterns", "flink", "shop:Unpaid", *TOPICS, "--name", "WasUnpaid")
    assert said.exit_code == 0
    statements = [one for one in said.stdout.split(";\n") if one.strip()]
    assert len(statements) == 3
    assert "'properties.bootstrap.servers' = 'kafka:9092'" in statements[0]
    assert "'ce_type', CAST('WasUnpaid' AS BYTES)" in statements[2]


def test_what_cannot_be_compiled_is_told_with_each_reason(shop: Path, ensue_: Ensue) -> None:
    said = ensue_("patterns", "flink", "shop:Odd")
    assert said.exit_code == 2
    assert "order: its condition is opaque" in said.stderr and 'rounds: contiguity "any"' in said.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--source", "kafka://kafka/orders"), "--source and --target are the two ends of one job"),
        (("--submit", "http://flink:8083"), "--submit and --name are of a job"),
        (
            ("--source", "nats://kafka/orders", "--target", "kafka://kafka/b"),
            "is no topic; write kafka://host:9092/topic",
        ),
        (
            ("--source", "kafka://me:secret@kafka/orders", "--target", "kafka://kafka/b"),
            "For a cluster with users or TLS",
        ),
        ((*TOPICS, "--submit", "http://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_what_is_asked_for_wrongly_is_told(shop: Path, ensue_: Ensue, arguments: tuple[str, ...], told: str) -> None:
    said = ensue_("patterns", "flink", "shop:Unpaid", *arguments)
    assert said.exit_code in (2, 3)
    assert told in said.stderr
    assert "secret" not in said.stderr
