"""What a checker cannot see is refused when it is declared, and not when its first event comes."""

from __future__ import annotations

import types
from decimal import Decimal
from typing import Any

import pytest

from ensue import App, Event, Transaction
from ensue.errors import DefinitionError


class Deposited(Event, key="account_id"):
    account_id: str
    amount: Decimal


def test_a_first_parameter_that_is_no_event_is_refused() -> None:
    def handler(number: int) -> None: ...

    with pytest.raises(DefinitionError, match="'number', is annotated int, which is not an Event"):
        App("bank").on(handler)


def test_waiting_inside_the_commit_is_refused() -> None:
    async def handler(event: Deposited, tx: Transaction) -> None: ...

    with pytest.raises(DefinitionError, match="`async def` cannot take a Transaction"):
        App("bank").on(handler)


def test_a_keyword_that_no_event_class_has_is_refused() -> None:
    with pytest.raises(TypeError, match="keys"):
        types.new_class("Misspelt", (Event,), {"keys": "account_id"})


def test_a_field_is_neither_changed_nor_deleted() -> None:
    event: Any = Deposited(account_id="a", amount=Decimal(1))
    with pytest.raises(AttributeError):
        event.amount = Decimal(2)
    with pytest.raises(AttributeError):
        del event.amount
