"""Wrong messages. Each marked line is an error in both checkers, or in the one the mark names; no other line is."""

from decimal import Decimal

from bank import Deposited, Overdrawn, Withdraw
from shop import OrderPlaced

from ensue import Criteria, Event, Recorded

Deposited("a", Decimal(1))  # wrong: fields are given by name
Deposited(account_id="a")  # wrong: a field is missing
Deposited(account_id="a", amount="1")  # wrong: a text is no amount
Deposited(account_id="a", amount=Decimal(1), note="x")  # wrong: no such field
Overdrawn(availabel=Decimal(1))  # wrong: no such field
Withdraw(account_id="a")  # wrong: a field is missing
Criteria(Withdraw)  # wrong: criteria are about events


class Misspelt(Event, keys="account_id"):  # wrong (pyright): mypy does not look at the keywords of a metaclass
    account_id: str


class TagsAsText(Event, tags=7):  # wrong (pyright): the same
    account_id: str


def change(event: Deposited, command: Withdraw) -> None:
    event.amount = Decimal(2)  # wrong: events do not change
    command.amount = Decimal(2)  # wrong: nor do commands
    del event.amount  # wrong (pyright): mypy lets a field of a frozen class be deleted; it fails when it runs


def read(recorded: Recorded[OrderPlaced]) -> str:
    return recorded.event.quantity  # wrong: it is a number


def subscript(recorded: Recorded[Withdraw]) -> None: ...  # wrong: only events are recorded
