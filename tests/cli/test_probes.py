"""The health endpoints over a real socket: what they answer, to whom, and what bad requests come to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ensue.app import Health, HealthPart
from ensue.cli import probes
from ensue.cli.failures import WrongUsage
from ensue.cli.probes import Address, Inquiry, Probes
from ensue.world import RealWorld
from tests.app.orders import until

WELL = Health(
    parts=(
        HealthPart(name="lease", ok=True, said="held", vital=True),
        HealthPart(name="consumer ship", ok=True, said="is run"),
    )
)
UNREADY = Health(parts=(WELL.parts[0], HealthPart(name="consumer ship", ok=False, said="has tripped: no courier")))
DEAD = Health(parts=(HealthPart(name="lease", ok=False, said="ran out", vital=True), WELL.parts[1]))


@asynccontextmanager
async def served(health: Health, token: str | None = None, port: int = 0) -> AsyncGenerator[int]:
    """The port of probes that answer so."""

    async def look() -> Health:
        return health

    server = Probes(RealWorld(), Address("127.0.0.1", port, token), look)
    try:
        yield int((await server.open()).rpartition(":")[2])
    finally:
        await server.close()


async def sent(port: int, request: bytes) -> tuple[int, list[str], str]:
    """The status, the headers and the body that come back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        first, *headers = head.split("\r\n")
        return int(first.split(" ")[1]), headers, body
    finally:
        writer.close()


def asked(health: Health, request: bytes, token: str | None = None) -> tuple[int, list[str], str]:
    async def run() -> tuple[int, list[str], str]:
        async with asyncio.timeout(20), served(health, token) as port:
            return await sent(port, request)

    return asyncio.run(run())


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


# ---------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("health", "alive", "ready"),
    [(WELL, 200, 200), (UNREADY, 200, 503), (DEAD, 503, 503)],
    ids=["well", "unready", "dead"],
)
def test_who_is_alive_need_not_be_ready(health: Health, alive: int, ready: int) -> None:
    assert asked(health, get("/healthz"))[0] == alive
    assert asked(health, get("/readyz"))[0] == ready


def test_the_body_names_each_part_and_what_was_found() -> None:
    status, headers, body = asked(UNREADY, get("/readyz?verbose"))
    assert (status, json.loads(body)) == (
        503,
        {
            "ok": False,
            "parts": [
                {"name": "lease", "ok": True, "said": "held"},
                {"name": "consumer ship", "ok": False, "said": "has tripped: no courier"},
            ],
        },
    )
    assert "Content-Type: application/json" in headers
    assert f"Content-Length: {len(body)}" in headers


def test_whether_it_is_alive_is_answered_with_the_vital_parts_alone() -> None:
    assert [part["name"] for part in json.loads(asked(UNREADY, get("/healthz"))[2])["parts"]] == ["lease"]


def test_head_is_answered_as_get_without_the_body() -> None:
    status, headers, body = asked(DEAD, get("/healthz", method="HEAD"))
    assert (status, body) == (503, "")
    assert any(header.startswith("Content-Length: ") for header in headers)


# ------------------------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/metrics"), 404),
        (get("/healthz", method="POST"), 405),
        (get("/healthz", method="DELETE"), 405),
        (b"GET /healthz\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /healthz HTTP/2\r\n\r\n", 400),
        (b"\xff\xfe \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"x" * 100_000, 431),
    ],
    ids=str,
)
def test_a_bad_request_is_told_what_is_wrong_with_it(request_: bytes, status: int) -> None:
    found, _, body = asked(WELL, request_)
    assert found == status
    assert json.loads(body)["ok"] is False


def test_who_stops_in_the_middle_of_a_request_is_told_so() -> None:
    async def run() -> bytes:
        async with asyncio.timeout(20), served(WELL) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTT")
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 400 ")


def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "REQUEST_SECONDS", 0.05)

    async def run() -> bytes:
        async with asyncio.timeout(20), served(WELL) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(run()) == b""


def test_more_than_a_few_at_once_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_AT_ONCE", 1)

    async def run() -> int:
        async with asyncio.timeout(20), served(WELL) as port:
            _, silent = await asyncio.open_connection("127.0.0.1", port)
            status, _, _ = await sent(port, get("/healthz"))
            silent.close()
            return status

    assert asyncio.run(run()) == 503


def test_one_that_was_sent_nonsense_answers_the_next() -> None:
    async def run() -> list[int]:
        async with asyncio.timeout(20), served(WELL) as port:
            return [(await sent(port, request))[0] for request in (b"x" * 100_000, get("/"), get("/healthz"))]

    assert asyncio.run(run()) == [431, 404, 200]


# ------------------------------------------------------------------------------------------------------- the token


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 401),
        (("Authorization: Bearer wrong",), 401),
        (("Authorization: Basic c2VjcmV0",), 401),
        (("Authorization: Bearer secret", "Authorization: Bearer secret"), 401),
        (("Authorization: Bearer secret",), 200),
        (("authorization: bearer   secret ",), 200),
    ],
    ids=str,
)
def test_with_a_token_only_who_knows_it_is_answered(headers: tuple[str, ...], status: int) -> None:
    assert asked(WELL, get("/healthz", *headers), token="secret")[0] == status


def test_without_the_token_nobody_learns_which_paths_there_are() -> None:
    assert asked(WELL, get("/nothing"), token="secret")[0] == 401


@pytest.mark.parametrize("text", ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080", "shop.example:8080"])
def test_beyond_loopback_a_token_is_needed(text: str) -> None:
    with pytest.raises(WrongUsage, match="Set ENSUE_HEALTH_TOKEN"):
        Address.read(text, {})
    assert Address.read(text, {"ENSUE_HEALTH_TOKEN": "secret"}).token == "secret"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("127.1.2.3:1", "127.1.2.3", 1),
        ("localhost:0", "localhost", 0),
        ("[::1]:8080", "::1", 8080),
        (":8080", "127.0.0.1", 8080),
        ("8080", "127.0.0.1", 8080),
    ],
)
def test_on_loopback_none_is_needed(text: str, host: str, port: int) -> None:
    assert Address.read(text, {}) == Address(host, port, None)


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", "localhost:http", "127.0.0.1:65536", "::1:80x", "a:b:80", "1:²"]
)
def test_what_is_no_address_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"write HOST:PORT, such as 127\.0\.0\.1:8080"):
        Address.read(text, {})


def test_an_address_that_is_taken_is_an_error_that_says_so() -> None:
    async def run() -> None:
        async with served(WELL) as port:
            async with served(WELL, port=port):
                raise AssertionError

    with pytest.raises(WrongUsage, match="cannot listen there: Address already in use"):
        asyncio.run(run())


# ----------------------------------------------------------------------------------------------- who may be stuck


def inquired(work: Callable[[Inquiry, asyncio.Future[Health], list[int]], Awaitable[Any]]) -> None:
    """With an inquiry to one who answers when the future does, and counts how often it was asked."""

    async def run() -> None:
        answer: asyncio.Future[Health] = asyncio.get_running_loop().create_future()
        count: list[int] = []

        async def ask() -> Health:
            count.append(1)
            return await asyncio.shield(answer)

        inquiry = Inquiry(RealWorld(), ask)
        async with asyncio.timeout(20):
            await work(inquiry, answer, count)
        inquiry.close()

    asyncio.run(run())


def loop_of(health: Health) -> HealthPart:
    assert health.parts[0].name == "loop"
    return health.parts[0]


def test_an_answer_says_that_the_loop_turns() -> None:
    async def work(inquiry: Inquiry, answer: asyncio.Future[Health], count: list[int]) -> None:
        answer.set_result(WELL)
        health = await inquiry.health()
        assert (loop_of(health).ok, health.parts[1:]) == (True, WELL.parts)

    inquired(work)


def test_while_one_is_silent_the_last_answer_stands_and_then_nothing_there_is_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "PATIENCE_SECONDS", 0.01)

    async def work(inquiry: Inquiry, answer: asyncio.Future[Health], count: list[int]) -> None:
        silent = await inquiry.health()
        assert silent.alive
        assert not silent.ready  # it has never answered
        monkeypatch.setattr(probes, "STALLED_SECONDS", 0.0)
        assert not (await inquiry.health()).alive

    inquired(work)


def test_one_question_is_open_at_a_time_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PATIENCE_SECONDS", 0.01)

    async def work(inquiry: Inquiry, answer: asyncio.Future[Health], count: list[int]) -> None:
        for _ in range(3):
            await asyncio.gather(inquiry.health(), inquiry.health())
        assert len(count) == 1
        answer.set_result(WELL)
        assert [health.ready for health in await asyncio.gather(inquiry.health(), inquiry.health())] == [True, True]
        await inquiry.health()
        assert len(count) == 2

    inquired(work)


def test_who_ends_while_it_is_asked_is_not_ready() -> None:
    async def work(inquiry: Inquiry, answer: asyncio.Future[Health], count: list[int]) -> None:
        async def end() -> None:
            await until(lambda: bool(count))
            inquiry.close()

        health, _ = await asyncio.gather(inquiry.health(), end())
        assert (health.alive, health.reasons) == (True, ("application: is not running any more",))

    inquired(work)


def test_who_raises_in_place_of_an_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(inquiry: Inquiry, answer: asyncio.Future[Health], count: list[int]) -> None:
        answer.set_exception(ConnectionError("it is being started"))
        health = await inquiry.health()
        assert (health.alive, health.ready) == (True, False)
        assert health.reasons == ("application: did not answer: ConnectionError: it is being started",)

    inquired(work)
