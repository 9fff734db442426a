"""A process of the shop that is killed again and again comes to the same numbers as one that is left alone."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tests.examples.nursery import nursery
from tests.examples.recount import recount, several_times

ORDERS = Path(__file__).parent / "data" / "orders.csv"
KILLS = 50
COPIES = 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_fifty_kills_change_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    orders, database = several_times(ORDERS, tmp_path / "orders.csv", copies=COPIES), tmp_path / "shop.db"
    expected = recount(orders)
    last = expected["events_in_log"]
    assert isinstance(last, int)
    with nursery() as lives:
        for kill in range(KILLS):
            # Some die before they have opened the log; the others when it has grown by a random length.
            grown = lives.heads[-1] if lives.heads else 0
            fair = (last - grown) // (KILLS - kill + 1)
            until = 0 if chance.random() < 0.1 else grown + chance.randint(0, 2 * fair)
            assert lives.live(orders, database, until=until) is None, f"life {kill} was not killed"
        report = lives.live(orders, database, until=None)
    assert report is not None
    found = {
        name: Decimal(value) if name.startswith("amount_") else value
        for name, value in msgspec.structs.asdict(report).items()
    }
    assert {name: found[name] for name in expected} == expected
