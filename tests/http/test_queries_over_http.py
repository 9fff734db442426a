"""Queries over HTTP: answers that have seen a write, answers that are watched, and answers in many parts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import msgspec
import pytest

from ensue import App, Position
from ensue.http import asgi, streams
from tests.http.bank import bank, by_token, web
from tests.http.problems import problem
from tests.http.serving import served
from tests.servers.processes import until

WATCHED = {"Accept": "text/event-stream"}
BALANCE = "/balance-of?account_id=a1"


def deposit(client: httpx.Client, amount: str = "10") -> str:
    answer = client.post("/deposit", json={"account_id": "a1", "amount": amount})
    assert answer.status_code == 200
    return answer.headers["Ensue-Position"]


def events(answer: httpx.Response) -> Iterator[dict[str, str]]:
    """Server-sent events as a browser reads them: what is a comment is left out."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif line == "" and fields:
            yield fields
            fields = {}


def watching(app: App) -> int:
    assert app._engine is not None
    return app._engine.domain.changes.watching


# ------------------------------------------------------------------------------------------------------------ positions


def test_a_query_waits_for_a_position_that_never_comes_until_its_deadline(url: str) -> None:
    with served(web(url)) as client:
        log_id = deposit(client).rpartition(".")[0]
        answer = client.get(BALANCE, headers={"Ensue-After": f"{log_id}.7-7", "Ensue-Timeout": "0.05"})
        problem(answer, 504, "urn:ensue:problem:not-caught-up")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("headers", [{}, WATCHED])
def test_a_position_of_another_log_is_a_problem(url: str, headers: dict[str, str]) -> None:
    with served(web(url)) as client:
        answer = client.get(BALANCE, headers={"Ensue-After": "0f3a.1-1", **headers})
        problem(answer, 400, "urn:ensue:problem:wrong-log")


def test_no_answer_is_kept_by_anybody_on_the_way() -> None:
    with served(web("memory:")) as client:
        assert client.get(BALANCE).headers["cache-control"] == "no-store"
        assert client.get("/nothing").headers["cache-control"] == "no-store"


# -------------------------------------------------------------------------------------------------------------- watches


def test_a_watch_has_the_present_answer_and_then_every_other_one(url: str) -> None:
    with served(web(url)) as client:
        deposit(client, "1")
        with client.stream("GET", BALANCE, headers=WATCHED) as answer:
            told = events(answer)
            assert next(told)["data"] == '"1"'
            for number in range(2, 6):
                position = deposit(client, "1")
                event = next(told)
                assert event["data"] == f'"{number}"'
                assert Position(event["id"]) >= Position(position)


def test_the_last_answer_of_a_watch_is_that_of_all_that_others_did_at_the_same_time(url: str) -> None:
    with served(web(url)) as client, client.stream("GET", BALANCE, headers=WATCHED) as answer:
        told = events(answer)
        seen = [Decimal(msgspec.json.decode(next(told)["data"]))]
        with ThreadPoolExecutor(8) as others:
            done = [others.submit(deposit, client, "1") for _ in range(80)]
            while seen[-1] < 80:
                seen.append(Decimal(msgspec.json.decode(next(told)["data"])))
            assert len({one.result() for one in done}) == 80
        assert seen == sorted(set(seen))


def test_a_watch_can_be_posted(url: str) -> None:
    with served(web(url)) as client:
        with client.stream("POST", "/balance-of", json={"account_id": "a1"}, headers=WATCHED) as answer:
            assert next(events(answer))["data"] == '"0"'


def test_a_client_that_comes_back_gets_nothing_older_than_it_had(url: str) -> None:
    with served(web(url)) as client:
        deposit(client)
        with client.stream("GET", BALANCE, headers=WATCHED) as answer:
            last = next(events(answer))["id"]
        with client.stream("GET", BALANCE, headers=WATCHED | {"Last-Event-ID": last}) as answer:
            assert next(events(answer))["data"] == '"10"'
        log_id = last.rpartition(".")[0]
        come_back = WATCHED | {"Last-Event-ID": f"{log_id}.9-9", "Ensue-Timeout": "0.05"}
        problem(client.get(BALANCE, headers=come_back), 504, "urn:ensue:problem:not-caught-up")


def test_a_client_that_leaves_ends_its_watch_at_once() -> None:
    app = bank("memory:")
    with served(asgi(app)) as client:
        with client.stream("GET", BALANCE, headers=WATCHED) as answer:
            told = events(answer)
            next(told)
            assert watching(app) == 1
        until(lambda: watching(app) == 0, "the watch ends", seconds=streams.HEARTBEAT_SECONDS / 3)


def test_a_client_that_leaves_before_the_first_answer_leaves_nothing_behind() -> None:
    app = bank("memory:")
    with served(asgi(app)) as client:
        for _ in range(20):
            with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
                connection.sendall(f"GET {BALANCE} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        until(lambda: watching(app) == 0, "the watches end", seconds=streams.HEARTBEAT_SECONDS / 3)
        assert client.get(BALANCE).status_code == 200


def test_a_silent_watch_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    with served(web("memory:")) as client, client.stream("GET", BALANCE, headers=WATCHED) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(5)][3:] == [": still here", ""]
        deposit(client)
        assert 'data: "10"' in (next(lines) for _ in range(1000))


def test_a_watch_ends_after_its_time_so_that_who_asks_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WATCH_SECONDS", 0.05)
    app = bank("memory:")
    with served(asgi(app)) as client:
        with client.stream("GET", BALANCE, headers=WATCHED) as answer:
            assert [event["data"] for event in events(answer)] == ['"0"']
        until(lambda: watching(app) == 0, "the watch ends", seconds=streams.HEARTBEAT_SECONDS / 3)


def test_a_watch_that_is_refused_at_once_is_a_problem_and_later_an_event() -> None:
    path = "/capped-balance-of?account_id=a1"
    with served(web("memory:")) as client:
        with client.stream("GET", path, headers=WATCHED) as answer:
            told = events(answer)
            assert next(told)["data"] == '"0"'
            deposit(client, "101")
            last = next(told)
            assert last["event"] == "problem"
            assert msgspec.json.decode(last["data"])["type"] == "urn:ensue:refusal:TooMuch"
            assert list(told) == []
        problem(client.get(path, headers=WATCHED), 422, "urn:ensue:refusal:TooMuch")


def test_a_watch_is_told_when_the_application_is_closed_under_it() -> None:
    app = bank("memory:")
    with served(asgi(app)) as client, client.stream("GET", BALANCE, headers=WATCHED) as answer:
        told = events(answer)
        next(told)
        assert app._engine is not None
        app._engine.loop.call_soon_threadsafe(app._engine.domain.changes.close)
        last = next(told)
        assert (last["event"], msgspec.json.decode(last["data"])["status"]) == ("problem", 503)


def test_who_takes_json_as_well_gets_one_answer() -> None:
    with served(web("memory:")) as client:
        assert client.get(BALANCE, headers={"Accept": "application/json, text/event-stream"}).json() == "0"


def test_who_is_not_known_watches_nothing() -> None:
    with served(web("memory:", by_token)) as client:
        problem(client.get(BALANCE, headers=WATCHED), 401)


# -------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_is_answered_line_by_line(url: str) -> None:
    with served(web(url)) as client:
        with client.stream("GET", "/counted?count=5000") as answer:
            assert answer.headers["content-type"].startswith("application/jsonl")
            rows = [msgspec.json.decode(line) for line in answer.iter_lines()]
        assert rows == [{"number": number, "text": "ä\n"} for number in range(5000)]
        assert client.get("/counted?count=0").text == ""
        assert len(client.post("/counted", json={"count": 2}).text.splitlines()) == 2
        assert client.head("/counted?count=1000000000").headers["content-type"].startswith("application/jsonl")


def test_a_stream_that_breaks_at_its_beginning_is_a_problem_and_later_a_broken_connection() -> None:
    raised: list[BaseException] = []
    with served(web("memory:"), raised=raised) as client:
        answer = client.get("/counted?count=9&broken=0")
        problem(answer, 500)
        assert "s3cret" not in answer.text
        problem(client.get("/counted?count=9&refused=0"), 422, "urn:ensue:refusal:TooMuch")
        assert not raised
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/counted?count=9&broken=5")
        assert client.get(BALANCE).status_code == 200
    assert [str(error) for error in raised] == ["the password is s3cret"]


def test_a_client_that_leaves_ends_its_stream() -> None:
    app = bank("memory:")
    with served(asgi(app)) as client:
        with client.stream("GET", "/counted?count=1000000000") as answer:
            next(answer.iter_lines())
        assert client.get(BALANCE).status_code == 200
        until(lambda: no_answers_made(app), "the stream ends")


def test_what_is_refused_at_its_beginning_leaves_nothing_behind() -> None:
    app = bank("memory:")
    with served(asgi(app)) as client:
        problem(client.get("/counted?count=9&refused=0"), 422, "urn:ensue:refusal:TooMuch")
        problem(client.get(BALANCE, headers={**WATCHED, "Ensue-After": "0f3a.1-1"}), 400, "urn:ensue:problem:wrong-log")
        client.head("/counted?count=9")
        assert no_answers_made(app)


def test_a_stream_cannot_be_watched() -> None:
    with served(web("memory:")) as client:
        problem(client.get("/counted?count=1", headers=WATCHED), 406)


def no_answers_made(app: App) -> bool:
    assert app._engine is not None
    return not any(task.get_name() == "ensue http answers" for task in asyncio.all_tasks(app._engine.loop))
