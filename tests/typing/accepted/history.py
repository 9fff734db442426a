"""History that lives long: upcasters, splits, closed streams, retention, archives, samples."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import assert_type

from ensue import App, Archived, Event, Fields, Recorded, days, upcast
from ensue.testing import check_samples


class Credited(Event, key="account_id", version=3, was=("Paid", "Received")):
    account_id: str
    amount: Decimal


class Debited(Event, key="account_id", retention=days(30)):
    account_id: str
    amount: Decimal


class AccountClosed(Event, key="account_id", closes=True):
    account_id: str


@upcast(Credited, version=1)
def in_cents(old: Fields) -> Fields:
    return {**old, "amount": Decimal(old.pop("cents")) / 100}


@upcast("Paid", version=7, to=3)
def paid(old: Fields) -> Fields:
    return old


@upcast("MoneySent", version=1)
def split(old: Fields) -> Iterator[Debited | Credited]:
    yield Debited(account_id=old["source"], amount=Decimal(old["amount"]))
    yield Credited(account_id=old["target"], amount=Decimal(old["amount"]))


@upcast("MoneyLent", version=1)
def one(old: Fields) -> list[Debited]:
    return [Debited(account_id=old["source"], amount=Decimal(old["amount"]))]


assert_type(in_cents({}), Fields)
assert_type(split({}), Iterator[Debited | Credited])

bank = App("bank", archives=["2023.jsonl.gz", Path("2024.parquet")])


async def read() -> None:
    async for recorded in bank.log.read(Credited):
        assert_type(recorded, Recorded[Credited])
        print(recorded.part)
    async for anything in bank.log.read():
        if isinstance(anything.event, Archived):
            print(anything.event.file)


def test_samples() -> None:
    check_samples(bank, "samples.json")
    check_samples(bank, Path("samples"))
