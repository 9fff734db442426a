"""Events on the wire: what is written is read, as the specification says, and what is no event is refused with its reason."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensue.channels.base import Message
from ensue.channels.cloudevents import Envelope, Format, NotAnEvent, decode, encode
from ensue.errors import InvalidEvent
from tests.channels.arrivals import Arrival, arrival

PREFIXES = ("ce_", "cloudEvents:", "cloudEvents_", "ce-", "")
STRUCTURED = "application/cloudevents+json; charset=utf-8"

ORDER = Envelope(
    id="0192f0c1-7e5a-7c5b-9a5e-0123456789ab",
    source="/shop/orders",
    type="OrderPlaced",
    version=3,
    time=1_523_073_384_000_001,
    key="4711",
    correlation="0192f0c1-7e5a-7c5b-9a5e-0123456789aa",
    causation="0192f0c1-7e5a-7c5b-9a5e-0123456789a9",
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    tracestate="rojo=00f067aa0ba902b7",
    reply_to="answers",
    headers={"X-Tenant": "blue, “green”\n"},
    extensions={"subject": "4711", "comexampleothervalue": "5"},
    data=b'{"total":"12.50"}',
)
MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "T"}


def under(prefix: str, attributes: Mapping[str, str]) -> dict[str, str]:
    return {prefix + name: value for name, value in attributes.items()}


def structured(attributes: Mapping[str, Any], **more: Any) -> Arrival:
    return Arrival(json.dumps({**attributes, **more}).encode(), content_type=STRUCTURED)


def instant(text: str) -> int:
    return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1_000_000)


# ----------------------------------------------------------------------------------------------------- any legal event

NONCHARACTERS = [
    *(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)),
    *(chr(code) for code in range(0xFDD0, 0xFDF0)),
]
LEGAL = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="".join(NONCHARACTERS))
TEXT = st.text(LEGAL, min_size=1, max_size=20)
OWN = {
    *(*MINIMAL, "time", "dataversion", "partitionkey", "correlationid", "causationid", "traceparent", "tracestate"),
    *("replyto", "headers", "datacontenttype", "data"),
}
NAME = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in OWN)
JSON_DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["id", "data", "type", "ä"]), values),
    max_leaves=5,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
FIRST, LAST = instant("0001-01-01T00:00:00+00:00"), instant("9999-12-31T23:59:59+00:00")


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    traceparent = draw(st.none() | TEXT)
    content_type = draw(st.sampled_from(["application/json", "application/vnd.x+json", "text/plain", "image/png; a=b"]))
    return Envelope(
        id=draw(TEXT),
        source=draw(st.from_regex(r"/?([a-z]|%2F|[?#:@-]){1,20}", fullmatch=True)),
        type=draw(TEXT),
        version=draw(st.integers(1, 2**31 - 1)),
        time=draw(st.none() | st.integers(FIRST, LAST)),
        key=draw(st.none() | TEXT),
        correlation=draw(st.none() | TEXT),
        causation=draw(st.none() | TEXT),
        traceparent=traceparent,
        tracestate=draw(st.none() | TEXT) if traceparent else None,
        reply_to=draw(st.none() | TEXT),
        headers=draw(st.none() | st.dictionaries(st.text(max_size=10), st.text(max_size=10), min_size=1, max_size=3)),
        extensions=draw(st.dictionaries(NAME, st.text(LEGAL, max_size=20), max_size=3)),
        data=draw(st.binary(max_size=30) | JSON_DATA),
        content_type=content_type,
    )


@settings(deadline=None)
@given(envelope=envelopes())
@example(envelope=ORDER)
def test_what_is_written_in_binary_mode_is_read(envelope: Envelope) -> None:
    for prefix in PREFIXES:
        message = encode(envelope, prefix=prefix, format="binary")
        assert message.body == envelope.data
        assert decode(arrival(message), prefix=prefix) == envelope


@settings(deadline=None)
@given(envelope=envelopes())
@example(envelope=ORDER)
def test_what_is_written_in_structured_mode_is_read(envelope: Envelope) -> None:
    message = encode(envelope, prefix="ce_", format="structured")
    json.loads(message.body)
    assert decode(arrival(message), prefix="ce_") == envelope


@settings(deadline=None, max_examples=50)
@given(envelope=envelopes())
def test_headers_under_http_rules_are_printable_ascii(envelope: Envelope) -> None:
    message = encode(envelope, prefix="ce-", format="binary")
    assert all(value.isascii() and value.isprintable() and " " not in value for value in message.headers.values())


# ----------------------------------------------------------------------------------------------------- anything at all

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=3,
)
ATTRIBUTE = st.sampled_from(sorted(OWN | {"data_base64", "subject", "Illegal", "x" * 65})) | ANY_TEXT
CONTENT_TYPES = st.sampled_from(
    [
        *("application/json", STRUCTURED, "application/cloudevents-batch+json", "application/cloudevents+avro"),
        *("text/plain; charset=utf-16", "text/plain; charset=none-such", "", "x" * 300),
    ]
)


@st.composite
def arrivals(draw: st.DrawFn) -> Arrival:
    prefix = draw(st.sampled_from(PREFIXES))
    headers = draw(st.dictionaries(ANY_TEXT | ATTRIBUTE.map(lambda name: prefix + name), ANY_TEXT, max_size=6))
    if draw(st.booleans()):
        headers |= under(prefix, MINIMAL)
    document = draw(st.dictionaries(ATTRIBUTE, ANY_VALUE, max_size=6)) | (MINIMAL if draw(st.booleans()) else {})
    body = draw(st.binary(max_size=30) | st.just(json.dumps(document).encode()) | st.just(b"[" * 2000))
    return Arrival(
        body,
        headers,
        content_type=draw(st.none() | CONTENT_TYPES | ANY_TEXT),
        key=draw(st.none() | ANY_TEXT),
        where=draw(ANY_TEXT),
    )


@settings(deadline=None, max_examples=300)
@given(
    received=arrivals(),
    prefix=st.sampled_from(PREFIXES),
    default_type=st.none() | st.just("T"),
    id_from=st.sampled_from([None, "header:id", "field:id", "field:data.id"]),
    lasting=st.booleans(),
)
def test_any_message_is_an_event_or_refused_as_none(
    received: Arrival, prefix: str, default_type: str | None, id_from: str | None, lasting: bool
) -> None:
    with contextlib.suppress(NotAnEvent):
        envelope = decode(received, prefix=prefix, default_type=default_type, id_from=id_from, lasting=lasting)
        msgspec.msgpack.encode(envelope)
        assert envelope.id
        assert envelope.type


@settings(deadline=None)
@given(envelope=envelopes(), cut=st.integers(0, 1000), bytes_put=st.binary(max_size=3))
def test_a_damaged_document_is_an_event_or_refused_as_none(envelope: Envelope, cut: int, bytes_put: bytes) -> None:
    body = encode(envelope, prefix="ce_", format="structured").body
    cut %= len(body)
    damaged = body[:cut] + bytes_put + body[cut + len(bytes_put) + 1 :]
    with contextlib.suppress(NotAnEvent):
        msgspec.msgpack.encode(decode(Arrival(damaged, content_type=STRUCTURED), prefix="ce_"))


# ----------------------------------------------------------------------------------------------------- the specification

KAFKA_BINARY = Arrival(
    b"... application data encoded in Avro ...",
    {
        "ce_specversion": "1.0",
        "ce_type": "com.example.someevent",
        "ce_source": "/mycontext/subcontext",
        "ce_id": "1234-1234-1234",
        "ce_time": "2018-04-05T03:56:24Z",
        "content-type": "application/avro",
    },
    content_type="application/avro",
    key="mykey",
)
SOME_EVENT = Envelope(
    id="1234-1234-1234",
    source="/mycontext/subcontext",
    type="com.example.someevent",
    time=instant("2018-04-05T03:56:24+00:00"),
    data=b"{}",
)


def test_the_kafka_bindings_example_in_binary_mode_is_read() -> None:
    expected = msgspec.structs.replace(
        SOME_EVENT, key="mykey", data=b"... application data encoded in Avro ...", content_type="application/avro"
    )
    assert decode(KAFKA_BINARY, prefix="ce_") == expected


@pytest.mark.parametrize("separator", [":", "_"])
def test_the_amqp_bindings_example_is_read_with_both_separators(separator: str) -> None:
    headers = {name.replace("ce_", f"cloudEvents{separator}"): value for name, value in KAFKA_BINARY.headers.items()}
    received = Arrival(b"{}", headers, content_type="application/json")
    assert decode(received, prefix="cloudEvents:") == SOME_EVENT
    assert decode(received, prefix="cloudEvents_") == SOME_EVENT


def test_the_mqtt_bindings_example_in_binary_mode_is_read() -> None:
    headers = {name.removeprefix("ce_"): value for name, value in KAFKA_BINARY.headers.items()}
    content_type = "application/json; charset=utf-8"
    received = Arrival(b"{}", {**headers, "datacontenttype": content_type}, content_type=content_type)
    assert decode(received, prefix="") == msgspec.structs.replace(SOME_EVENT, content_type=content_type)


def test_the_nats_bindings_example_in_binary_mode_is_read_whatever_the_case_of_names() -> None:
    headers = {name.replace("ce_", "Ce-").title(): value for name, value in KAFKA_BINARY.headers.items()}
    received = Arrival(b"{}", {**headers, "CE-DATACONTENTTYPE": "application/json"})
    assert decode(received, prefix="ce-") == SOME_EVENT


COMMON_MEMBERS = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "source": "/mycontext",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "comexampleothervalue": 5,
    "unsetextension": None,
}
JSON_EXAMPLES: list[tuple[dict[str, Any], bytes, str]] = [
    ({"datacontenttype": "application/vnd.apache.thrift.binary", "data_base64": "AAEC"}, b"\0\1\2", ""),
    ({"datacontenttype": "application/xml", "data": '<much wow="xml"/>'}, b'<much wow="xml"/>', ""),
    ({"datacontenttype": "application/json", "data": {"a": [1, True]}}, b'{"a": [1, true]}', ""),
    ({"data": "I'm just a string"}, b'"I\'m just a string"', "application/json"),
    ({"subject": None, "data": None}, b"null", "application/json"),
    ({}, b"", "application/json"),
    ({"datacontenttype": "text/plain; charset=iso-8859-1", "data": "ä"}, b"\xe4", ""),
]


@pytest.mark.parametrize(("members", "data", "content_type"), JSON_EXAMPLES)
def test_the_examples_of_the_json_format_are_read(members: dict[str, Any], data: bytes, content_type: str) -> None:
    assert decode(structured(COMMON_MEMBERS, id="A", **members), prefix="ce_") == Envelope(
        id="A",
        source="/mycontext",
        type="com.example.someevent",
        time=instant("2018-04-05T17:31:00+00:00"),
        extensions={"comexampleextension1": "value", "comexampleothervalue": "5"},
        data=data,
        content_type=content_type or members["datacontenttype"],
    )


def test_the_http_bindings_example_of_percent_encoding_is_written() -> None:
    message = encode(Envelope(id="Euro € 😀", source="/s", type="T"), prefix="ce-", format="binary")
    assert message.headers["ce-id"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("%41", "A"),
        (r'"a \"b\" \\ c"', r'a "b" \ c'),
        ("100%", "100%"),
        ("raw text, 50% off", "raw text, 50% off"),
    ],
)
def test_values_under_http_rules_are_unquoted_and_decoded_once(written: str, read: str) -> None:
    received = Arrival(b"", under("ce-", {**MINIMAL, "id": written}))
    assert decode(received, prefix="ce-").id == read


def test_kafka_and_amqp_values_are_not_percent_encoded() -> None:
    for prefix in ("ce_", "cloudEvents:", ""):
        message = encode(Envelope(id="50 %20 €", source="/s", type="T"), prefix=prefix, format="binary")
        assert message.headers[f"{prefix}id"] == "50 %20 €"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2018-04-05T17:31:00Z", "2018-04-05T17:31:00+00:00"),
        ("2018-04-05t17:31:00z", "2018-04-05T17:31:00+00:00"),
        ("2018-04-05T17:31:00.1+02:00", "2018-04-05T15:31:00.100000+00:00"),
        ("2018-04-05T17:31:00.123456789-00:30", "2018-04-05T18:01:00.123456+00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999+00:00"),
    ],
)
def test_every_rfc_3339_time_is_read_to_the_microsecond(text: str, same: str) -> None:
    received = Arrival(b"", under("ce_", {**MINIMAL, "time": text}))
    assert decode(received, prefix="ce_").time == instant(same)


def test_any_version_1_of_the_specification_is_read() -> None:
    received = Arrival(b"", under("ce_", {**MINIMAL, "specversion": "1.1"}))
    assert decode(received, prefix="ce_").id == "1"


def test_a_document_without_content_type_is_an_event() -> None:
    received = Arrival(json.dumps({**MINIMAL, "data": {}}).encode())
    assert decode(received, prefix="") == Envelope(id="1", source="/s", type="T", data=b"{}")


def test_headers_that_are_not_attributes_are_left_alone() -> None:
    others = {"traceparent": "00-1", "content-type": "application/json", "x_id": "7"}
    assert decode(Arrival(b"", {**under("ce_", MINIMAL), **others}), prefix="ce_").extensions == {}
    others = {"X-Tenant": "blue", "content_type": "a"}
    assert decode(Arrival(b"", {**MINIMAL, **others}), prefix="").extensions == {}


def test_the_partition_key_goes_before_the_brokers_own() -> None:
    both = Arrival(b"", under("ce_", {**MINIMAL, "partitionkey": "ours"}), key="theirs")
    assert decode(both, prefix="ce_").key == "ours"
    assert decode(Arrival(b"", under("ce_", MINIMAL), key="theirs"), prefix="ce_").key == "theirs"


def test_a_brokers_key_with_control_characters_stays_one_of_its_own() -> None:
    keys = {decode(Arrival(b"", under("ce_", MINIMAL), key=key), prefix="ce_").key for key in ("a\0", "a\1")}
    assert len(keys) == 2


def test_optional_attributes_that_are_empty_are_missing() -> None:
    names = ("partitionkey", "correlationid", "causationid", "traceparent", "tracestate", "replyto")
    received = Arrival(b"", under("ce_", MINIMAL | dict.fromkeys(names, "")))
    assert decode(received, prefix="ce_") == Envelope(id="1", source="/s", type="T")


# ----------------------------------------------------------------------------------------------------- what is written


def test_a_binary_message_looks_as_other_tools_show_it() -> None:
    envelope = msgspec.structs.replace(ORDER, headers={"tenant": "blue"}, extensions={"subject": "4711"})
    assert encode(envelope, prefix="ce_", format="binary") == Message(
        body=b'{"total":"12.50"}',
        content_type="application/json",
        key="4711",
        headers={
            "ce_specversion": "1.0",
            "ce_id": "0192f0c1-7e5a-7c5b-9a5e-0123456789ab",
            "ce_source": "/shop/orders",
            "ce_type": "OrderPlaced",
            "ce_time": "2018-04-07T03:56:24.000001Z",
            "ce_dataversion": "3",
            "ce_partitionkey": "4711",
            "ce_correlationid": "0192f0c1-7e5a-7c5b-9a5e-0123456789aa",
            "ce_causationid": "0192f0c1-7e5a-7c5b-9a5e-0123456789a9",
            "ce_traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ce_tracestate": "rojo=00f067aa0ba902b7",
            "ce_replyto": "answers",
            "ce_headers": '{"tenant":"blue"}',
            "ce_subject": "4711",
        },
    )


def test_a_structured_message_is_one_document() -> None:
    message = encode(msgspec.structs.replace(ORDER, headers={"tenant": "blue"}), prefix="ce_", format="structured")
    assert message.content_type == STRUCTURED
    assert message.headers == {}
    document = json.loads(message.body)
    assert document["data"] == {"total": "12.50"}
    assert document["dataversion"] == 3
    assert document["headers"] == '{"tenant":"blue"}'
    assert document["datacontenttype"] == "application/json"


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"\xff\x00", "image/png"),
        (b"{broken", "application/json"),
        (b' {"a":1}', "application/json"),
        (b"a", "text/plain"),
    ],
)
def test_data_that_cannot_stand_in_a_document_as_it_is_goes_as_base64(data: bytes, content_type: str) -> None:
    envelope = Envelope(id="1", source="/s", type="T", data=data, content_type=content_type)
    message = encode(envelope, prefix="ce_", format="structured")
    assert "data" not in json.loads(message.body)
    assert decode(arrival(message), prefix="ce_") == envelope


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": ""}, "without id"),
        ({"type": ""}, "without type"),
        ({"source": ""}, "no URI-reference"),
        ({"source": "the shop"}, "no URI-reference"),
        ({"key": ""}, "without partitionkey"),
        ({"key": "a\nb"}, "U\\+000A"),
        ({"id": "\ud800"}, "U\\+D800"),
        ({"type": "T\x7f"}, "U\\+007F"),
        ({"reply_to": "\ufffe"}, "U\\+FFFE"),
        ({"version": 0}, "version 0"),
        ({"time": 10**18}, "years 1 to 9999"),
        ({"extensions": {"Subject": "x"}}, "lower-case letters and digits"),
        ({"extensions": {"id": "x"}}, "has a meaning already"),
        ({"extensions": {"a" * 65: "x"}}, "more than 64 characters"),
        ({"extensions": {f"a{n}": "" for n in range(101)}}, "the limit is 100"),
        ({"headers": {"a": "\ud800"}}, "headers"),
        ({"headers": {"a": "x" * 70_000}}, "the limit on the wire is 65536"),
        ({"key": "x" * 70_000}, "the limit on the wire is 65536"),
        ({"content_type": "application/cloudevents+json"}, "that of an event"),
        ({"content_type": "a\r\nb"}, "no media type"),
    ],
)
@pytest.mark.parametrize("format", ["binary", "structured"])
def test_what_no_reader_would_take_is_not_written(
    change: dict[str, Any], reason: str, format: Literal["binary", "structured"]
) -> None:
    with pytest.raises(InvalidEvent, match=reason):
        encode(msgspec.structs.replace(ORDER, **change), prefix="ce_", format=format)


# ----------------------------------------------------------------------------------------------------- refusals

MISSING = [(name, f"the attribute {name} is missing") for name in MINIMAL]
BROKEN = [
    ({"specversion": "0.3"}, "only versions 1.x"),
    ({"specversion": "1"}, "only versions 1.x"),
    ({"specversion": "2.0"}, "only versions 1.x"),
    ({"id": ""}, "the attribute id is missing or empty"),
    ({"time": "yesterday"}, "the attribute time is 'yesterday'"),
    ({"time": "2018-04-05 17:31:00Z"}, "the attribute time"),
    ({"time": "2018-04-05T17:31:00"}, "the attribute time"),
    ({"time": "2018-02-30T17:31:00Z"}, "the attribute time"),
    ({"time": "2018-W14-4T17:31:00.000000Z"}, "the attribute time"),
    ({"time": "2018-04-05T17:31:00+24:00"}, "the attribute time"),
    ({"dataversion": "1.0"}, "the attribute dataversion is '1.0'"),
    ({"dataversion": "0"}, "the attribute dataversion"),
    ({"dataversion": "2147483648"}, "the attribute dataversion"),
    ({"headers": "blue"}, "the attribute headers is no JSON object of texts"),
    ({"headers": '{"a":1}'}, "the attribute headers is no JSON object of texts"),
    ({"partitionkey": "a\nb"}, r"the attribute 'partitionkey' holds the character U\+000A"),
    ({"subject": "\ufdd0"}, r"the attribute 'subject' holds the character U\+FDD0"),
    ({"partitionkey": "x" * 70_000}, "the limit is 65536"),
    ({"Subject": "x"}, "the attribute 'Subject' is illegal"),
    ({"my_attribute": "x"}, "the attribute 'my_attribute' is illegal"),
    ({"a" * 65: "x"}, "is illegal: the name has more than 64"),
    ({f"a{n}": "x" for n in range(101)}, "101 extensions, the limit is 100"),
]


@pytest.mark.parametrize(("name", "reason"), MISSING)
def test_a_missing_attribute_is_named(name: str, reason: str) -> None:
    attributes = {other: value for other, value in MINIMAL.items() if other != name}
    with pytest.raises(NotAnEvent, match=reason):
        decode(Arrival(b"", under("ce_", attributes)), prefix="ce_")
    with pytest.raises(NotAnEvent, match=reason):
        decode(structured(attributes), prefix="ce_")


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_broken_attribute_is_refused_in_both_modes(change: dict[str, str], reason: str) -> None:
    with pytest.raises(NotAnEvent, match=reason):
        decode(Arrival(b"", under("ce_", MINIMAL | change)), prefix="ce_")
    with pytest.raises(NotAnEvent, match=reason):
        decode(structured(MINIMAL | change), prefix="ce_")


DOCUMENT = json.dumps(MINIMAL).encode()[:-1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b"{", "no JSON object"),
        (b"[" * 5000, "no JSON object"),
        (DOCUMENT + b',"a":' + b"[" * 2000 + b"]" * 2000 + b"}", "no JSON object"),
        (b'{"id":"\xff"}', "not UTF-8: byte 7 is 0xFF"),
        (DOCUMENT + b',"subject":"\\ud800"}', "no JSON object"),
        (DOCUMENT + b',"subject":1.5}', "the attribute 'subject' is neither a text"),
        (DOCUMENT + b',"subject":{}}', "the attribute 'subject' is neither a text"),
        (DOCUMENT + b',"subject":[]}', "the attribute 'subject' is neither a text"),
        (DOCUMENT + b',"subject":2147483648}', "beyond 32 bits"),
        (DOCUMENT + b',"subject":' + b"9" * 5000 + b"}", "the attribute 'subject'"),
        (DOCUMENT + b',"data":1,"data_base64":"AA=="}', "data and data_base64 are both there"),
        (DOCUMENT + b',"data_base64":"A"}', "data_base64 is no Base64"),
        (DOCUMENT + b',"data_base64":5.5}', "'data_base64' is neither a text"),
        (DOCUMENT + b',"datacontenttype":"text/plain","data":{}}', "data is no text"),
        (DOCUMENT + b',"datacontenttype":"text/plain; charset=ascii","data":"\xc3\xa4"}', "character set"),
        (DOCUMENT + b',"datacontenttype":"text/plain; charset=rot13","data":"a"}', "character set"),
        (DOCUMENT + b',"datacontenttype":"nonsense"}', "no media type"),
        (DOCUMENT + b',"id":"2"}', "the attribute 'id' is there twice"),
        (DOCUMENT + b',"id" :"2"}', "the attribute 'id' is there twice"),
        (DOCUMENT + b',"\\u0069d":"2"}', "the attribute 'id' is there twice"),
        (DOCUMENT + b',"data":1,"data":2}', "the attribute 'data' is there twice"),
        (DOCUMENT + b',"data":{"id":1,"x":2},"id":"2"}', "the attribute 'id' is there twice"),
    ],
)
def test_a_broken_document_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(NotAnEvent, match=reason):
        decode(Arrival(body, content_type=STRUCTURED), prefix="ce_")


def test_names_that_stand_in_the_data_as_well_are_not_there_twice() -> None:
    data = {"id": 1, "data": {"type": [{"source": '"id":'}]}}
    found = decode(structured(MINIMAL, data=data, subject='"id": {"a":1}', comment="type"), prefix="ce_")
    assert json.loads(found.data) == data


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("application/cloudevents-batch+json", "is a batch; events are read one to a message"),
        ("Application/CloudEvents-Batch+JSON; charset=utf-8", "is a batch"),
        ("application/cloudevents+avro", "an event format that is not known here"),
        ("application/cloudevents", "an event format that is not known here"),
    ],
)
def test_other_event_formats_are_refused(content_type: str, reason: str) -> None:
    received = Arrival(b"[]", under("ce_", MINIMAL), content_type=content_type)
    with pytest.raises(NotAnEvent, match=reason):
        decode(received, prefix="ce_", default_type="T")


@pytest.mark.parametrize("content_type", ["nonsense", "a/b\r\n", "text/" + "x" * 300, "text/pläin"])
def test_a_content_type_that_is_none_is_refused(content_type: str) -> None:
    with pytest.raises(NotAnEvent, match="is no media type"):
        decode(Arrival(b"", under("ce_", MINIMAL), content_type=content_type), prefix="ce_")


def test_a_header_that_is_there_in_two_cases_is_refused() -> None:
    for twice in ({"CE-ID": "2"}, {"Ce-Subject": "a", "ce-subject": "b"}):
        with pytest.raises(NotAnEvent, match="is there twice"):
            decode(Arrival(b"", {**under("ce-", MINIMAL), **twice}), prefix="ce-")


def test_percent_encoding_that_is_not_utf_8_is_refused() -> None:
    for name in ("id", "subject"):
        with pytest.raises(NotAnEvent, match=f"the attribute {name} is percent-encoded and not UTF-8"):
            decode(Arrival(b"", under("ce-", {**MINIMAL, name: "%C0%A0"})), prefix="ce-")


def test_data_is_bounded_in_every_mode() -> None:
    ten = Envelope(id="1", source="/s", type="T", data=b'"' + b"x" * 8 + b'"')
    formats: tuple[Format, ...] = ("binary", "structured", "json")
    for format in formats:
        received = arrival(encode(ten, prefix="ce_", format=format))
        assert decode(received, prefix="ce_", default_type="T", data_bytes=10).data == ten.data
        with pytest.raises(NotAnEvent, match="10 bytes, the limit is 9"):
            decode(received, prefix="ce_", default_type="T", data_bytes=9)


def test_a_huge_document_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(NotAnEvent, match="the event has"):
        decode(Arrival(b"[" * 3_000_000, content_type=STRUCTURED), prefix="ce_")


def test_a_message_that_is_no_event_says_what_it_is_instead() -> None:
    with pytest.raises(NotAnEvent, match=r"no header 'ce_specversion' .* \(but 'text/plain'\).*say type="):
        decode(Arrival(b"hello", content_type="text/plain"), prefix="ce_")


def test_a_reason_shows_neither_payload_nor_control_characters() -> None:
    received = Arrival(b'{"password":"secret"', under("ce_", MINIMAL | {"time": "\x1b[31m" + "x" * 1000}))
    with pytest.raises(NotAnEvent) as refused:
        decode(received, prefix="ce_")
    assert refused.value.reason.isprintable()
    assert len(refused.value.reason) < 200
    assert "secret" not in refused.value.reason


# ----------------------------------------------------------------------------------------------------- bare JSON

BARE = b'{"order": {"number": 17}, "text": "a", "yes": true}'


def bare(received: Arrival, **options: Any) -> Envelope:
    return decode(received, prefix="ce_", default_type="OrderPlaced", default_source="/foreign", **options)


def test_bare_json_is_an_event_of_the_declared_type() -> None:
    received = Arrival(BARE, {"tenant": "blue", "content-type": "text/plain"}, content_type="text/plain", key="k")
    assert bare(received, fresh=lambda: "fresh") == Envelope(
        id="fresh", source="/foreign", type="OrderPlaced", key="k", headers={"tenant": "blue"}, data=BARE
    )


@pytest.mark.parametrize("prefix", PREFIXES)
def test_bare_json_of_our_own_says_its_id_and_type(prefix: str) -> None:
    message = encode(msgspec.structs.replace(ORDER, id="a b"), prefix=prefix, format="json")
    assert message.body == ORDER.data
    assert message.headers.keys() == {f"{prefix}id", f"{prefix}type"}
    found = decode(arrival(message), prefix=prefix, default_type="Other", default_source="/foreign")
    assert found == Envelope(id="a b", source="/foreign", type="OrderPlaced", key="4711", data=ORDER.data)


@pytest.mark.parametrize(
    ("id_from", "id"),
    [("field:order.number", "17"), ("field:text", "a"), ("header:Message-Id", "m-1")],
)
def test_bare_json_gets_its_id_from_where_it_is_declared_to_be(id_from: str, id: str) -> None:
    received = Arrival(BARE, {"Message-Id": "m-1", "ce_id": "another"})
    assert bare(received, id_from=id_from).id == id


@pytest.mark.parametrize("id_from", ["field:order", "field:none", "field:text.none", "field:yes", "header:None"])
def test_bare_json_without_its_declared_id_is_refused(id_from: str) -> None:
    with pytest.raises(NotAnEvent, match=r"its id is to be in the (field|header) "):
        bare(Arrival(BARE), id_from=id_from)


def test_where_a_place_lasts_bare_json_that_comes_again_has_the_same_id() -> None:
    ids = [bare(Arrival(BARE, where=where), lasting=True).id for where in ("a @ 1", "a @ 1", "a @ 2")]
    assert ids[0] == ids[1] != ids[2]


def test_a_topic_that_begins_anew_repeats_no_id() -> None:
    assert bare(Arrival(b"1", where="a @ 1"), lasting=True).id != bare(Arrival(b"2", where="a @ 1"), lasting=True).id


def test_where_no_place_lasts_bare_json_without_an_id_is_refused() -> None:
    with pytest.raises(NotAnEvent, match="say where its id is, by id=header:NAME or id=field:NAME"):
        bare(Arrival(BARE))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"hello", "no JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b"[" * 5000, "no JSON"),
    ],
)
def test_a_body_that_is_not_json_is_no_bare_json(body: bytes, reason: str) -> None:
    with pytest.raises(NotAnEvent, match=reason):
        bare(Arrival(body), lasting=True)


def test_headers_of_bare_json_are_bounded() -> None:
    with pytest.raises(NotAnEvent, match="its headers have"):
        bare(Arrival(BARE, {"a": "x" * 70_000}), lasting=True)


def test_an_event_is_read_as_one_where_bare_json_is_declared() -> None:
    assert bare(arrival(encode(ORDER, prefix="ce_", format="binary"))) == ORDER
    assert bare(arrival(encode(ORDER, prefix="ce_", format="structured"))) == ORDER
