"""Types that are gone and became others, and several that became one: declarations, chains, and what is said of wrong ones."""

from __future__ import annotations

import types
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import Event, Fields, UnknownEvent, upcast
from ensue.errors import DefinitionError, UnreadableEvent
from ensue.events.registry import Registry
from ensue.events.stored import Meta, Row, encode_meta, tag_hash
from ensue.events.upcasting import Parts
from tests.events.declared import define


class Debited(Event, key="account_id"):
    account_id: str
    amount: Decimal


class Credited(Event, key="account_id"):
    account_id: str
    amount: Decimal


@upcast("MoneyMoved", version=1)
def in_cents(old: Fields) -> Fields:
    return {**old, "amount": f"{Decimal(old['cents']) / 100:.2f}"}


@upcast("MoneyMoved", version=2)
def split(old: Fields) -> Iterator[Debited | Credited]:
    yield Debited(account_id=old["source"], amount=Decimal(old["amount"]))
    yield Credited(account_id=old["target"], amount=Decimal(old["amount"]))


REGISTRY = Registry([Debited, Credited])
OLD = b'{"source": "a", "target": "b", "cents": 1050}'
PARTS = (Debited(account_id="a", amount=Decimal("10.50")), Credited(account_id="b", amount=Decimal("10.50")))


def stored(key: str | None, *tags: str) -> Row:
    meta = encode_meta(Meta(5, b"c" * 16, key=key, tags=tags))
    return (7, b"i" * 16, 1, tag_hash(key) if key else None, 1, 5, None, None, None, None, meta, OLD)


def read(name: str, version: int, data: bytes, registry: Registry = REGISTRY) -> tuple[Event, ...]:
    found = registry.reader(name, version)(data)
    return found.events if isinstance(found, Parts) else (found,)


# -------------------------------------------------------------------------------------------------------------- splits


def test_an_event_of_a_type_that_is_gone_is_read_as_what_it_became_in_order_and_through_its_own_versions() -> None:
    assert read("MoneyMoved", 1, OLD) == PARTS
    assert read("MoneyMoved", 2, b'{"source": "a", "target": "b", "amount": "10.50"}') == PARTS


def test_whoever_reads_a_part_reads_the_type_that_it_was_part_of() -> None:
    assert REGISTRY.names([Credited]) == ("Credited", "MoneyMoved")
    assert "MoneyMoved" not in REGISTRY.names([define("Unrelated")])


def test_parts_are_chosen_by_their_own_type_and_their_own_tags() -> None:
    row, parts = stored("account_id=a", "account_id=b"), Parts(PARTS)
    assert list(REGISTRY.selected(parts, row)) == [(1, PARTS[0]), (2, PARTS[1])]
    assert list(REGISTRY.selected(parts, row, [(("Credited",), ())])) == [(2, PARTS[1])]
    assert list(REGISTRY.selected(parts, row, [((), (tag_hash("account_id=a"),))])) == [(1, PARTS[0])]
    assert list(REGISTRY.selected(parts, row, [(("Credited",), (tag_hash("account_id=a"),))])) == []


def test_a_part_that_could_not_be_found_by_its_key_is_told() -> None:
    with pytest.raises(
        UnreadableEvent, match="part 2, Credited, has the key account_id=b, and the stored event has account_id=a"
    ):
        list(REGISTRY.selected(Parts(PARTS), stored("account_id=a")))


def test_where_one_event_is_expected_a_split_is_told() -> None:
    with pytest.raises(UnreadableEvent, match="MoneyMoved version 1 is read as several events"):
        REGISTRY.decoder("MoneyMoved", 1)


def test_an_upcaster_that_returns_events_says_of_which_types() -> None:
    @upcast("Vague", version=1)
    def vague(old: Fields) -> Iterator[Event]:
        yield Credited(account_id="a", amount=Decimal(1))

    with pytest.raises(
        DefinitionError, match=r"upcaster .*vague of Vague version 1 returns .* -> Iterator\[Debited \| Credited\]"
    ):
        REGISTRY.reader("Vague", 1)
    del_steps("Vague")


def test_an_upcaster_that_returns_events_and_does_not_say_so_is_told() -> None:
    @upcast("Silent", version=1)
    def silent(old):  # type: ignore[no-untyped-def]  # pyright: ignore
        return iter(PARTS)

    class Spoken(Event, was=("Silent",), version=2):
        word: str

    with pytest.raises(UnreadableEvent, match=r"returned a value of type tuple_iterator.* it says which: -> Iterator"):
        read("Silent", 1, OLD, Registry([Spoken]))


def test_an_upcaster_that_gives_another_type_than_it_says_is_told() -> None:
    @upcast("Liar", version=1)
    def liar(old: Fields) -> Iterator[Credited]:
        yield Debited(account_id="a", amount=Decimal(1))  # type: ignore[misc]  # pyright: ignore

    with pytest.raises(UnreadableEvent, match="gave a value of type Debited, and says that it gives Credited"):
        read("Liar", 1, OLD)


def test_a_part_that_could_not_be_stored_is_told() -> None:
    @upcast("Wrong", version=1)
    def wrong(old: Fields) -> list[Credited]:
        return [Credited(account_id=old["target"], amount=None)]  # type: ignore[arg-type]  # pyright: ignore

    with pytest.raises(
        UnreadableEvent, match=r"wrong of Wrong version 1 gave an event that is none: Credited: amount=None"
    ):
        read("Wrong", 1, OLD)


def test_an_upcaster_that_raises_is_named_with_its_version_and_error() -> None:
    with pytest.raises(UnreadableEvent, match="the upcaster in_cents of MoneyMoved version 1 raised KeyError: 'cents'"):
        read("MoneyMoved", 1, b"{}")
    with pytest.raises(UnreadableEvent, match="the upcaster split of MoneyMoved version 2 raised KeyError: 'source'"):
        read("MoneyMoved", 1, b'{"cents": 1}')


def test_a_version_from_which_no_split_is_reached_is_told() -> None:
    with pytest.raises(UnreadableEvent, match=r'MoneyMoved version 3 .* declare @upcast\("MoneyMoved", version=3\)'):
        REGISTRY.reader("MoneyMoved", 3)


def test_a_chain_of_a_gone_type_that_leads_back_is_told() -> None:
    upcast("Circle", version=2, to=1)(lambda old: old)

    @upcast("Circle", version=1)
    def on(old: Fields) -> Fields:
        return old

    @upcast("Circle", version=3)
    def out(old: Fields) -> Iterator[Credited]:
        yield from ()

    with pytest.raises(UnreadableEvent, match="Circle version 2 leads back to version 1"):
        REGISTRY.reader("Circle", 1)


def test_only_a_type_that_is_gone_becomes_others() -> None:
    kept = define("Kept", {"x": int}, version=2)

    @upcast(kept, version=1)
    def halves(old: Fields) -> Iterator[Credited]:
        yield from ()

    with pytest.raises(
        DefinitionError, match=r'Kept is a type of this code: only one that is gone.*@upcast\("Kept", version=1\)'
    ):
        Registry([kept]).decoder("Kept", 1)

    @upcast("Alive", version=1)
    def alive(old: Fields) -> Iterator[Credited]:
        yield from ()

    with pytest.raises(DefinitionError, match="events called 'Alive' are split by an upcaster, and Alive is called so"):
        Registry([Credited, define("Alive")]).names([Credited])
    with pytest.raises(DefinitionError, match="Alive is a former name of Again: a type becomes one other or several"):
        Registry([define("Again", was=("Alive",), version=2)]).decoder("Alive", 1)
    del_steps("Alive")


def test_a_name_about_which_nothing_is_said_stays_unknown() -> None:
    assert read("Unheard", 3, b'{"a": 1}') == (UnknownEvent(type_name="Unheard", type_version=3, fields={"a": 1}),)


def del_steps(name: str) -> None:
    """Take back what a test declared wrongly: declarations are of the whole process."""
    from ensue.events import upcasting

    upcasting._named.pop(name)


# -------------------------------------------------------------------------------------------------------------- merges


class Paid(Event, key="order_id", version=3, was=("CardCharged", "TransferReceived", "CashTaken")):
    order_id: str
    amount: Decimal
    by: str


@upcast("CardCharged", version=1)
def card_of(old: Fields) -> Fields:
    return {"order_id": old["order"], "amount": old["amount"]}


@upcast("CardCharged", version=2, to=3)
def by_card(old: Fields) -> Fields:
    return {**old, "by": "card"}


@upcast("TransferReceived", version=7, to=3)
def by_transfer(old: Fields) -> Fields:
    return {**old, "by": "transfer"}


@upcast("CashTaken", version=1, to=2)
def in_hand(old: Fields) -> Fields:
    return {**old, "by": "cash"}


@upcast("CashTaken", version=2)
def of_other_cash(old: Fields) -> Fields:
    return {**old, "by": "other cash"}


@upcast(Paid, version=1)
def way_of(old: Fields) -> Fields:
    return {**old, "by": "unknown"}


@upcast(Paid, version=2)
def unchanged(old: Fields) -> Fields:
    return old


MERGED = Registry([Paid])


@pytest.mark.parametrize(
    ("name", "version", "data", "by"),
    [
        ("CardCharged", 1, b'{"order": "o", "amount": "1"}', "card"),
        ("CardCharged", 2, b'{"order_id": "o", "amount": "1"}', "card"),
        ("TransferReceived", 7, b'{"order_id": "o", "amount": "1"}', "transfer"),
        ("CashTaken", 1, b'{"order_id": "o", "amount": "1"}', "cash"),
        ("CashTaken", 2, b'{"order_id": "o", "amount": "1"}', "other cash"),
        ("Paid", 1, b'{"order_id": "o", "amount": "1"}', "unknown"),
        ("Paid", 3, b'{"order_id": "o", "amount": "1", "by": "gold"}', "gold"),
    ],
)
def test_several_types_become_one_each_by_an_upcaster_of_its_own(name: str, version: int, data: bytes, by: str) -> None:
    assert read(name, version, data, MERGED) == (Paid(order_id="o", amount=Decimal(1), by=by),)


def test_a_former_types_version_that_the_present_one_never_had_must_say_where_it_leads() -> None:
    with pytest.raises(
        UnreadableEvent,
        match=r'TransferReceived version 8 .*Paid.* up to 3: .*@upcast\("TransferReceived", version=8, to=3\)',
    ):
        MERGED.decoder("TransferReceived", 8)


def test_only_a_former_name_says_where_its_versions_lead() -> None:
    with pytest.raises(DefinitionError, match="to= is for former names"):
        upcast(Paid, version=2, to=3)
    with pytest.raises(DefinitionError, match="versions are whole numbers from 1"):
        upcast("CashTaken", version=2, to=0)
    with pytest.raises(DefinitionError, match="CashTaken version 1 has two upcasters"):
        upcast("CashTaken", version=1)(dict)


def test_an_upcaster_waits_for_nothing() -> None:
    async def later(old: Fields) -> Fields:
        return old

    with pytest.raises(DefinitionError, match="an upcaster is a plain function"):
        upcast("CashTaken", version=9)(later)  # type: ignore[type-var]  # pyright: ignore


def test_an_upcaster_that_returns_something_else_than_fields_is_told() -> None:
    wrong = define("Nothing", {"x": int}, version=2)
    upcast(wrong, version=1)(lambda old: None)  # type: ignore[type-var]  # pyright: ignore
    with pytest.raises(UnreadableEvent, match="returned a value of type NoneType, not the next version's fields"):
        read("Nothing", 1, b"{}", Registry([wrong]))


# ----------------------------------------------------------------------------------- histories against a hand-written oracle


class Change:
    """One change of a type's fields, as an upcaster makes it."""

    def __init__(self, kind: str, field: str, other: str) -> None:
        self.kind, self.field, self.other = kind, field, other

    def made(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self.kind == "rename" and self.field in fields:
            return {(self.other if name == self.field else name): value for name, value in fields.items()}
        if self.kind == "drop":
            return {name: value for name, value in fields.items() if name != self.field}
        if self.kind == "add":
            return {**fields, self.field: self.other}
        return dict(fields)


changes = st.builds(
    Change, st.sampled_from(["rename", "drop", "add", "none"]), st.sampled_from("abc"), st.sampled_from("defg")
)


@given(
    history=st.lists(changes, max_size=6),
    former=st.lists(changes, max_size=4),
    fields=st.dictionaries(st.sampled_from("abc"), st.text("xyz", max_size=3), max_size=3),
    data=st.data(),
)
def test_whatever_the_history_every_version_is_read_as_the_steps_by_hand_say(
    history: list[Change], former: list[Change], fields: dict[str, str], data: st.DataObject
) -> None:
    """A type with `len(history)` former versions, and a former name whose own versions lead to one of them."""
    name, old = "Random", f"Former{id(history)}"
    kind = of_texts(name, len(history) + 1, old)
    for version, change in enumerate(history, 1):
        upcast(kind, version=version)(change.made)
    meets = data.draw(st.integers(1, len(history) + 1))
    for version, change in enumerate(former, 1):
        last = version == len(former)
        upcast(old, version=version, to=meets if last else None)(change.made)
    registry = Registry([kind])
    encoded = msgspec.json.encode(fields)

    start = data.draw(st.integers(1, len(history) + 1))
    expected: dict[str, Any] = dict(fields)
    for change in history[start - 1 :]:
        expected = change.made(expected)
    assert registry.decoder(name, start)(encoded) == kind(**expected)

    if former:
        start = data.draw(st.integers(1, len(former)))
        expected = dict(fields)
        for change in (*former[start - 1 :], *history[meets - 1 :]):
            expected = change.made(expected)
        assert registry.decoder(old, start)(encoded) == kind(**expected)


def of_texts(name: str, version: int, was: str) -> type[Event]:
    """An event type with the optional texts a to g."""
    body: dict[str, Any] = dict.fromkeys("abcdefg")
    body["__annotations__"] = dict.fromkeys("abcdefg", str | None)
    made = types.new_class(name, (Event,), {"version": version, "was": (was,)}, lambda space: space.update(body))
    return cast("type[Event]", made)
