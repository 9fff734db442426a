"""A schema says what is personal, and a field that is none any more could not be read back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ensue import Event, Personal
from ensue.events.registry import Registry
from ensue.events.samples import Samples, made, recorded_again
from ensue.events.schema import check, describe


class Joined(Event, name="schema.Joined", key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]
    address: Personal[dict[str, str]] = msgspec.field(default_factory=dict)


class JoinedInPlain(Event, name="schema.Joined", key="customer_id"):
    customer_id: str
    email: str
    address: dict[str, str] = msgspec.field(default_factory=dict)


class JoinedOtherwise(Event, name="schema.Joined", key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[int]


def test_a_field_may_become_personal_but_not_cease_to_be(tmp_path: Path) -> None:
    personal, plain = describe([Joined]), describe([JoinedInPlain])
    assert check(Registry([Joined]), [Joined], personal) == []
    assert check(Registry([Joined]), [Joined], plain) == []
    found = check(Registry([JoinedInPlain]), [JoinedInPlain], personal)
    assert [one.field for one in found] == ["email", "address"]
    assert "was personal, text and is text" in str(found[0])
    assert [one.field for one in check(Registry([JoinedOtherwise]), [JoinedOtherwise], personal)] == ["email"]


def test_a_sample_is_made_of_a_type_with_personal_fields() -> None:
    assert set(made(Joined)) == {"customer_id", "email", "address"}
    samples = recorded_again(Registry([Joined]), [Joined], Samples(()))
    assert len(samples.samples) == 1
