"""The URLs of channels are read in one way or not at all, and nothing that is said about them holds a password."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from ensue.channels.urls import COMMON, Place, place
from ensue.errors import WiringError
from ensue.urls import shown as shown_of

SECRET = "sesame"


def test_a_url_is_taken_apart() -> None:
    found = place("amqp://shop:sesame@mq.example.com:5673/orders?prefetch=10&address=a%26b")
    assert (found.scheme, found.hosts, found.user, found.password, found.path) == (
        "amqp",
        (("mq.example.com", 5673),),
        "shop",
        SECRET,
        "orders",
    )
    assert found.parameters == {"prefetch": "10", "address": "a&b"}


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("memory:", ()),
        ("memory:?partitions=4", ()),
        ("kafka://", ()),
        ("kafka:///topic", ()),
        ("kafka://one", (("one", 0),)),
        ("kafka://one:", (("one", 0),)),
        ("kafka://one:1,two,three:65535", (("one", 1), ("two", 0), ("three", 65535))),
        ("nats://[::1]", (("::1", 0),)),
        ("nats://[::1]:4222", (("::1", 4222),)),
        ("nats://a@[fe80::1%25eth0]:1,[::2]:2,b:3", (("fe80::1%eth0", 1), ("::2", 2), ("b", 3))),
    ],
)
def test_hosts_are_names_and_ports(url: str, hosts: tuple[tuple[str, int], ...]) -> None:
    assert place(url).hosts == hosts


@pytest.mark.parametrize(
    ("credentials", "user", "password"),
    [
        ("", None, None),
        ("shop@", "shop", None),
        ("shop:@", "shop", ""),
        (":sesame@", None, "sesame"),
        ("sh%40op:%2F%3F%23%5B%5D%40%3A%25@", "sh@op", "/?#[]@:%"),
        ("Zo%C3%AB:a+b@", "Zoë", "a+b"),
    ],
)
def test_credentials_are_unescaped(credentials: str, user: str | None, password: str | None) -> None:
    found = place(f"redis://{credentials}host")
    assert (found.user, found.password) == (user, password)


@pytest.mark.parametrize(("query", "value"), [("a=", ""), ("a=b=c", "b=c"), ("a=x+y%20z", "x+y z"), ("%61=1&", "1")])
def test_parameters_are_unescaped_and_a_plus_is_a_plus(query: str, value: str) -> None:
    assert place(f"kafka://host?{query}").parameters == {"a": value}


def test_the_scheme_is_the_same_in_capitals() -> None:
    assert place("KAFKA://host").scheme == "kafka"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://host:port",
        "kafka://host:0",
        "kafka://host:65536",
        f"kafka://host:{'9' * 5000}",
        "kafka://::1:9092",
        "kafka://[::1:9092",
        "kafka://:9092",
        "kafka://one,,two",
        "kafka://one,",
        "host:9092",
        "kafka:host:9092",
        "memory:name",
        "memory:?partitions",
        "://host",
        "1kafka://host",
        "host",
        "",
        "kafka://host?prefetch",
        "kafka://host?a=1&a=2",
        "kafka://host?a=1&%61=2",
        "kafka://host#fragment",
        "kafka://host\n",
        "kafka://ho st",
        "kafka://host/a\tb",
        "kafka://u:%C3%28@host",
    ],
)
def test_what_cannot_be_read_is_told(url: str) -> None:
    with pytest.raises(WiringError):
        place(url)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://shop:ses@ame@host/",
        "amqp://shop:sesame/x@host/",
        "amqp://shop:sesame#x@host/",
        "amqp://shop:sesame?x=1@host/",
        "amqp://shop:12?sesame=1@host/",
        "amqp://shop:sesame%@host/",
        "amqp://shop:sesame%ff@host/",
        "amqp://shop:sesame@host:99999/",
        "amqp://shop:sesame@host:port/",
        "amqp://shop:sesame@host,:1/",
        "amqp://shop:sesame@host/?a=1&a=2",
        "amqp://shop:sesame@ho st/",
        "amqp://host/?password=sesame&password=sesame",
        "amqp:?password=sesame&password=sesame",
        "amqp:host?password=sesame",
    ],
)
def test_what_is_told_holds_no_password(url: str) -> None:
    with pytest.raises(WiringError) as told:
        place(url)
    assert SECRET not in str(told.value)
    assert "ame@" not in str(told.value)
    assert told.value.__cause__ is None


@pytest.mark.parametrize("url", ["amqp://shop:sesame@host/vhost?sasl=sesame", "amqp:?sasl=sesame"])
def test_nothing_that_is_shown_of_it_holds_a_password(url: str) -> None:
    found = place(url)
    console = Console(file=StringIO(), width=200)
    console.print(found)
    assert isinstance(console.file, StringIO)
    for shown in (repr(found), str(found), found.shown, console.file.getvalue()):
        assert SECRET not in shown
        assert "amqp:" in shown
        assert "sasl=…" in shown


@pytest.mark.parametrize(
    "url", ["kafka:?password=sesame", "kafka:x?a=1&password=sesame", "kafka://host/?password=sesame"]
)
def test_what_is_shown_of_any_url_holds_no_value_of_its_query(url: str) -> None:
    assert SECRET not in shown_of(url)
    assert "password=…" in shown_of(url)


def test_a_parameter_that_there_is_not_is_told_with_all_that_there_are() -> None:
    found = place("kafka://shop:sesame@host?prefetchh=1")
    with pytest.raises(WiringError, match=r"no parameter 'prefetchh'.* partitions, .*prefetch") as told:
        found.check({"partitions": "how many"})
    assert SECRET not in str(told.value)


def test_the_parameters_of_every_channel_and_those_of_the_adapter_are_known() -> None:
    query = "&".join(f"{name}=1" for name in (*COMMON, "partitions"))
    place(f"kafka://host?{query}").check({"partitions": "how many"})


def _place(query: str = "") -> Place:
    return place(f"kafka://host?{query}")


def test_what_is_not_said_has_its_default() -> None:
    found = _place()
    assert (found.number("n", 7), found.seconds("s", 1.5), found.flag("f", True), found.choice("c", "x", "y")) == (
        7,
        1.5,
        True,
        "x",
    )
    assert (found.create, found.connect_seconds, found.tls, found.format) == (True, 10.0, False, "binary")


def test_what_is_said_is_read() -> None:
    found = _place("n=12&s=0.25&f=no&c=y&tls=yes&create=no&connect_seconds=3&format=structured")
    assert (found.number("n", 7), found.seconds("s", 1.5), found.flag("f", True), found.choice("c", "x", "y")) == (
        12,
        0.25,
        False,
        "y",
    )
    assert (found.create, found.connect_seconds, found.tls, found.format) == (False, 3.0, True, "structured")


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e3", "0x10", " 1", "ten", "9" * 5000])
def test_what_is_no_whole_number_from_one_is_told(text: str) -> None:
    with pytest.raises(WiringError, match="whole number from 1"):
        _place(f"n={text.replace(' ', '%20')}").number("n", 7)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e9", "1s"])
def test_what_is_no_number_of_seconds_is_told(text: str) -> None:
    with pytest.raises(WiringError, match="number of seconds above 0"):
        _place(f"s={text}").seconds("s", 7.0)


@pytest.mark.parametrize("text", ["", "true", "1", "YES"])
def test_what_is_neither_yes_nor_no_is_told(text: str) -> None:
    with pytest.raises(WiringError, match="yes or no"):
        _place(f"f={text}").flag("f", True)


def test_what_is_none_of_the_choices_is_told_with_them() -> None:
    with pytest.raises(WiringError, match="one of: binary, structured, json"):
        _place("format=xml").format


@pytest.mark.parametrize("scheme", ["amqps", "mqtts", "rediss", "tls"])
def test_a_scheme_that_speaks_tls_does_unless_it_is_said_otherwise(scheme: str) -> None:
    assert place(f"{scheme}://host").tls
    assert not place(f"{scheme}://host?tls=no").tls
