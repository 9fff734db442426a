"""Wrong upcasters and wrong declarations of what lives long. Each marked line is an error in both checkers."""

from decimal import Decimal

from ensue import App, Event, Fields, upcast


class Credited(Event, key="account_id"):
    account_id: str
    amount: Decimal


@upcast(Credited, version=1)  # wrong: fields are a dictionary
def as_text(old: Fields) -> str:
    return str(old)


@upcast("MoneySent", version=1)  # wrong: it takes fields
def of_an_event(old: Credited) -> Fields:
    return {"amount": old.amount}


@upcast("MoneyLent", version=1)  # wrong: it returns events, not texts
def as_texts(old: Fields) -> list[str]:
    return [*old]


@upcast(Credited, version="1")  # wrong: versions are numbers
def numbered(old: Fields) -> Fields:
    return old


bank = App("bank", archives=[7])  # wrong: an archive is a file
