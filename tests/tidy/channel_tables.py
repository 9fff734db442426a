"""The parts of docs/channels.md that are made by `make guarantees`: what each broker gives, from the tests of its contract and from
what an opened connection declares, and the parameters of the URLs."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

from ensue.app.brokers import broker_class, open_broker
from ensue.channels.base import Broker, Capabilities
from ensue.channels.urls import COMMON, place
from ensue.testing.contracts import channels as contracts
from ensue.testing.contracts.channels import (
    AssignsContract,
    BroadcastContract,
    BrokerContract,
    ChannelContract,
    CumulativeContract,
    DelayContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
    ReplayContract,
    RestartContract,
)
from ensue.world import RealWorld
from tests.channels import (
    test_kafka,
    test_memory,
    test_mqtt,
    test_nats,
    test_postgresql_channel,
    test_rabbitmq,
    test_redis,
    test_sqlite_channel,
)
from tests.servers.kafka import KafkaServer
from tests.servers.mosquitto import MosquittoServer
from tests.servers.nats import NatsServer
from tests.servers.postgresql import PostgresServer
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.tidy.repository import ROOT

__all__ = ["BROKERS", "CHANNELS", "declared_on_page", "found_on_servers", "written"]

CHANNELS = ROOT / "docs/channels.md"
GIVES, PARAMETERS = "what each broker gives", "the parameters of the URLs"
END = "<!-- to here -->"


class Server(Protocol):
    def url(self) -> str: ...


class _Kind(NamedTuple):
    title: str
    url: str
    held: Sequence[type[ChannelContract]]
    """The test classes that hold it to its contract."""
    server: Callable[[], AbstractContextManager[Server | None]]
    asked: frozenset[str] = frozenset()
    """Capabilities that depend on the server."""
    schemes: str = ""


BROKERS = (
    _Kind(
        "Kafka",
        "kafka://host:9092",
        [test_kafka.TestKafka],
        KafkaServer,
        frozenset({"largest"}),
        "`kafka:`, `kafkas:` with TLS",
    ),
    _Kind(
        "RabbitMQ",
        "amqp://host:5672",
        [test_rabbitmq.TestContract],
        RabbitServer,
        frozenset({"largest"}),
        "`amqp:`, `amqps:` with TLS",
    ),
    _Kind(
        "NATS",
        "nats://host:4222",
        [test_nats.TestNats],
        NatsServer,
        frozenset({"delay", "largest"}),
        "`nats:`, `tls:` with TLS",
    ),
    _Kind(
        "Redis",
        "redis://host:6379",
        [test_redis.TestRedis],
        RedisServer,
        frozenset({"durable", "largest"}),
        "`redis:`, `rediss:` with TLS",
    ),
    _Kind(
        "MQTT",
        "mqtt://host:1883",
        [test_mqtt.TestContract, test_mqtt.TestRestarts],
        MosquittoServer,
        frozenset({"largest"}),
        "`mqtt:`, `mqtts:` with TLS",
    ),
    _Kind(
        "PostgreSQL",
        "postgresql://host/database",
        [test_postgresql_channel.TestPostgresql, test_postgresql_channel.TestManyWriters],
        PostgresServer,
        frozenset({"durable"}),
        "`postgresql:`",
    ),
    _Kind(
        "a SQLite file",
        "sqlite:///channels.db",
        [test_sqlite_channel.TestSqlite],
        nullcontext,
        frozenset({"durable"}),
        "`sqlite:`",
    ),
    _Kind(
        "memory",
        "memory://name",
        [test_memory.TestMemory, test_memory.TestPartitions, test_memory.TestAssigned],
        nullcontext,
        schemes="`memory:`",
    ),
)
CAPABILITIES: Mapping[str, str] = {
    "durable": "what was confirmed survives a restart of the broker",
    "groups": "each group gets all messages, and what no member of it accepted comes again",
    "shares": "several members of a group receive at the same time",
    "broadcast": "a subscription without a group gets what is published from then on",
    "replay": "a new group may begin with what is there already",
    "assigns": "several members of a group keep the order of each key",
    "cumulative": "accepting a message accepts all before it in its partition",
    "counts": "it is told how often a message was delivered",
    "delay": "it keeps a message back for a time",
    "largest": "the largest message, as the server stands in its default settings",
}
_PUBLISHING, _ADDRESSES, _CLOSING = BrokerContract.__mro__[1:4]
CONTRACTS: Sequence[tuple[str, type[object]]] = (
    ("held to what is declared", BrokerContract),
    ("publishing", _PUBLISHING),
    ("addresses", _ADDRESSES),
    ("closing", _CLOSING),
    ("groups", GroupsContract),
    ("groups that accept one by one", IndividualContract),
    ("groups that accept all before", CumulativeContract),
    ("broadcast", BroadcastContract),
    ("replay", ReplayContract),
    ("assigned partitions", AssignsContract),
    ("delay", DelayContract),
    ("a server that is stopped and killed", RestartContract),
    ("and has what it confirmed", DurableBrokerContract),
    ("a member's process that is killed", ProcessesContract),
)


def written(passed: Mapping[str, int], said: Mapping[str, Mapping[str, str]]) -> str:
    """The page, if these tests have passed and the brokers declare what `said` has: cells by title and capability."""
    page = _with_part(CHANNELS.read_text(), GIVES, _gives(passed, said))
    return _with_part(page, PARAMETERS, _parameters())


def _gives(passed: Mapping[str, int], said: Mapping[str, Mapping[str, str]]) -> str:
    """The table of what each broker gives."""
    assert set(CAPABILITIES) == set(Capabilities.__struct_fields__), "a capability without its line"
    shipped = {one for name, one in vars(contracts).items() if name.endswith("Contract") and one is not ChannelContract}
    assert shipped <= {contract for _, contract in CONTRACTS}, "a contract without its line"
    lines = [
        _row("", *(kind.title for kind in BROKERS)),
        _row(*["---"] * (1 + len(BROKERS))),
        _row("its URL", *(f"`{kind.url}`" for kind in BROKERS)),
    ]
    lines += [
        _row(f"`{name}`: {what}", *(said[kind.title][name] for kind in BROKERS)) for name, what in CAPABILITIES.items()
    ]
    lines += [_row(f"contract: {title}", *(_held(kind, held, passed) for kind in BROKERS)) for title, held in CONTRACTS]
    return "\n".join(lines)


def _parameters() -> str:
    """The tables of the URLs' parameters: of every channel, then of each broker."""
    parts = ["### Of every channel", _table(COMMON)]
    for kind in BROKERS:
        own = broker_class(place(kind.url)).parameters
        parts += [
            f"### {kind.title[0].upper()}{kind.title[1:]}: {kind.schemes}",
            _table(own) if own else "None of its own.",
        ]
    return "\n\n".join(parts)


def declared_on_page() -> Mapping[str, Mapping[str, str]]:
    """The cells of capabilities as they would be written now, where no server has to be asked; the others as they stand on the
    page."""
    page = CHANNELS.read_text()
    rows = {name: [cell.strip() for cell in cells.split("|")] for name, cells in _CAPABILITY_ROW.findall(page)}
    found: dict[str, Mapping[str, str]] = {}
    for index, kind in enumerate(BROKERS):
        cells = _cells(open_broker(place(kind.url)).capabilities)
        found[kind.title] = cells | {name: rows[name][index] for name in kind.asked if name in rows}
    return found


def found_on_servers() -> Mapping[str, Mapping[str, str]]:
    """The cells of capabilities, from opened connections to servers in their default settings."""
    found: dict[str, Mapping[str, str]] = {}
    for kind in BROKERS:
        with kind.server() as server, tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "channels.db"
            url = kind.url if server is None else server.url()
            if url.startswith("sqlite:"):
                url = f"sqlite:////{str(inside).lstrip('/')}"
            found[kind.title] = _cells(asyncio.run(_opened(open_broker(place(url)))))
    return found


def _with_part(page: str, name: str, part: str) -> str:
    """The page with this part in the place of the one it has."""
    mark = f"<!-- made by `make guarantees`, from here: {name} -->"
    before, begin, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    assert begin and end, f"{CHANNELS.name} has no place for {name}"
    return f"{before}{mark}\n\n{part}\n\n{END}{after}"


_CAPABILITY_ROW = re.compile(r"^\| `(\w+)`: [^|]*\| (.*) \|$", re.MULTILINE)


async def _opened(broker: Broker) -> Capabilities:
    try:
        await broker.open(RealWorld())
        return broker.capabilities
    finally:
        await broker.close()


def _cells(able: Capabilities) -> dict[str, str]:
    cells = {name: "yes" if getattr(able, name) is True else "no" for name in CAPABILITIES}
    return cells | {"largest": "not told" if able.largest is None else f"{able.largest:,} bytes"}


def _held(kind: _Kind, contract: type[object], passed: Mapping[str, int]) -> str:
    """How many of the contract's tests passed for it, of how many."""
    ids = [
        f"{held.__module__.replace('.', '/')}.py::{held.__name__}::{name}"
        for held in kind.held
        if issubclass(held, contract)
        for name in vars(contract)
        if name.startswith("test_")
    ]
    good = sum(passed.get(id, 0) for id in ids)
    return "–" if not ids else f"{good} passed" if good == len(ids) else f"**{good} of {len(ids)} passed**"


def _table(known: Mapping[str, str]) -> str:
    rows = [_row(f"`{name}`", what.replace("|", "\\|")) for name, what in known.items()]
    return "\n".join([_row("parameter", "what it says"), _row("---", "---"), *rows])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the parameters alone, for which no server is needed."""
    CHANNELS.write_text(_with_part(CHANNELS.read_text(), PARAMETERS, _parameters()))


if __name__ == "__main__":
    main()
