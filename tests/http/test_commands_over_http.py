"""Commands over HTTP: what is granted, refused, repeated, and what is told of each."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import HTTPException
from starlette.requests import Request

from ensue import Position
from ensue.http import asgi
from tests.http.bank import bank, by_token, web
from tests.http.problems import problem
from tests.http.serving import served

A = "a1"


def deposit(client: httpx.Client, amount: str = "10", **headers: str) -> httpx.Response:
    return client.post("/deposit", json={"account_id": A, "amount": amount}, headers=headers)


def balance(client: httpx.Client, **headers: str) -> str:
    answer = client.get("/balance-of", params={"account_id": A}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()
    return found


def test_a_granted_command_is_answered_with_its_result_and_its_position(url: str) -> None:
    with served(web(url)) as client:
        answer = deposit(client)
        assert answer.status_code == 200
        assert answer.json() == {"account_id": A, "amount": "10"}
        assert Position(answer.headers["Ensue-Position"]).last == 1
        assert balance(client) == "10"


def test_a_refusal_is_told_with_its_type_and_fields_and_stores_nothing(url: str) -> None:
    with served(web(url)) as client:
        deposit(client, "5")
        answer = client.post("/withdraw", json={"account_id": A, "amount": "7"})
        said = problem(answer, 422, "urn:ensue:refusal:Overdrawn")
        assert (said["refusal"], said["fields"]) == ("Overdrawn", {"available": "5"})
        assert "Ensue-Position" not in answer.headers
        assert balance(client) == "5"


@pytest.mark.parametrize("again", ['"k1"', "k1"])
def test_the_same_command_under_the_same_key_has_the_same_answer(url: str, again: str) -> None:
    with served(web(url)) as client:
        first = deposit(client, **{"Idempotency-Key": '"k1"'})
        second = deposit(client, **{"Idempotency-Key": again})
        assert second.json() == first.json()
        assert second.headers["Ensue-Position"] == first.headers["Ensue-Position"]
        assert (first.headers.get("Ensue-Replayed"), second.headers["Ensue-Replayed"]) == (None, "true")
        assert balance(client) == "10"


def test_a_refusal_is_repeated_under_its_key_though_it_would_be_granted_now(url: str) -> None:
    body = {"account_id": A, "amount": "7"}
    with served(web(url)) as client:
        first = client.post("/withdraw", json=body, headers={"Idempotency-Key": '"k1"'})
        deposit(client, "10")
        second = client.post("/withdraw", json=body, headers={"Idempotency-Key": '"k1"'})
        assert (first.status_code, second.status_code) == (422, 422)
        assert second.json() == first.json()


def test_a_key_that_was_used_for_something_else_is_a_problem(url: str) -> None:
    with served(web(url)) as client:
        deposit(client, **{"Idempotency-Key": '"k1"'})
        problem(deposit(client, "11", **{"Idempotency-Key": '"k1"'}), 422, "urn:ensue:problem:idempotency-key-reused")
        assert balance(client) == "10"


@pytest.mark.parametrize("key", ['""', "a b", '"a', "x" * 256, '"' + "x" * 256 + '"', ""])
def test_a_key_that_is_none_is_a_problem_that_names_the_header(key: str) -> None:
    with served(web("memory:")) as client:
        said = problem(deposit(client, **{"Idempotency-Key": key}), 400, "urn:ensue:problem:invalid-header")
        assert said["header"] == "Idempotency-Key"


def test_two_keys_are_none() -> None:
    with served(web("memory:")) as client:
        answer = client.post(
            "/deposit",
            json={"account_id": A, "amount": "1"},
            headers=[("Idempotency-Key", '"a"'), ("Idempotency-Key", '"b"')],
        )
        problem(answer, 400, "urn:ensue:problem:invalid-header")


def test_a_bug_shows_nothing_of_itself_is_logged_and_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    with served(web("memory:")) as client:
        answer = client.post("/break", json={})
        problem(answer, 500)
        assert "s3cret" not in answer.text
        assert "Runtime" not in answer.text
        assert deposit(client).status_code == 200
    (told,) = [record for record in caplog.records if record.name == "ensue.http"]
    assert told.exc_info is not None
    assert str(told.exc_info[1]) == "the password is s3cret"


def test_an_application_that_is_not_open_is_not_available_and_the_process_is_told_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served(web("memory:"), lifespan=False) as client:
        answer = deposit(client)
        problem(answer, 503, "urn:ensue:problem:unavailable")
        assert "async with" not in answer.text
    assert "the application bank is not open" in caplog.text


def test_an_application_that_somebody_else_opened_is_left_open() -> None:
    app = bank("memory:")
    with app.blocking() as call:
        with served(asgi(app)):
            pass
        assert call(app.health()).parts[0].said != "is not open"


def test_who_is_not_known_is_not_let_in() -> None:
    with served(web("memory:", by_token)) as client:
        for path in ("/openapi.json", "/balance-of?account_id=a1"):
            answer = client.get(path)
            problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        problem(deposit(client), 401)
        # nothing of the body is looked at
        problem(client.post("/deposit", content=b"{", headers={"content-type": "x/y"}), 401)
        assert deposit(client, Authorization="Bearer of-ada").status_code == 200
        assert client.get("/openapi.json", headers={"Authorization": "Bearer of-ada"}).status_code == 200


def test_a_refusal_to_let_in_is_told_with_its_fields() -> None:
    with served(web("memory:", by_token)) as client:
        said = problem(deposit(client, Authorization="Bearer of-eve"), 401, "urn:ensue:refusal:Banned")
        assert said["fields"] == {"until": "tomorrow"}


def test_who_asks_is_known_to_handlers_and_recorded_with_the_trace(url: str) -> None:
    app = bank(url)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with served(asgi(app, authenticate=by_token)) as client:
        client.headers["Authorization"] = "Bearer of-ada"
        assert client.get("/who-asks").json() == "ada"
        deposit(client, traceparent=trace)
        deposit(client, traceparent="no trace")

        async def recorded() -> list[tuple[str | None, str | None]]:
            found = [one async for one in app.log.read()]
            return [(one.headers.get("principal"), one.meta.traceparent) for one in found]

        assert app._engine is not None
        read = asyncio.run_coroutine_threadsafe(recorded(), app._engine.loop)
        assert read.result(30) == [("ada", trace), ("ada", None)]


def test_a_key_is_a_key_of_whoever_asks() -> None:
    with served(web("memory:", by_token)) as client:
        ada = deposit(client, **{"Authorization": "Bearer of-ada", "Idempotency-Key": '"k"'})
        bob = deposit(client, **{"Authorization": "Bearer of-bob", "Idempotency-Key": '"k"'})
        again = deposit(client, **{"Authorization": "Bearer of-bob", "Idempotency-Key": '"k"'})
        assert ada.headers["Ensue-Position"] != bob.headers["Ensue-Position"] == again.headers["Ensue-Position"]


def test_a_command_is_decided_only_when_its_position_is_seen(url: str) -> None:
    with served(web(url)) as client:
        position = deposit(client).headers["Ensue-Position"]
        assert deposit(client, **{"Ensue-After": position}).status_code == 200
        log_id = position.rpartition(".")[0]
        never = deposit(client, **{"Ensue-After": f"{log_id}.1000-1000", "Ensue-Timeout": "0.05"})
        problem(never, 504, "urn:ensue:problem:not-caught-up")
        assert never.headers["retry-after"] == "1"
        assert balance(client) == "20"


def test_a_name_that_is_none_is_a_mistake_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def number(request: Request) -> Any:
        return 7

    with served(web("memory:", number)) as client:
        problem(deposit(client), 500)
    assert "principal=7" in caplog.text


def test_what_authentication_of_other_frameworks_raises_is_a_problem_as_well() -> None:
    async def members(request: Request) -> str | None:
        raise HTTPException(403, "Members only", headers={"X-Why": "no member"})

    with served(web("memory:", members)) as client:
        answer = deposit(client)
        assert problem(answer, 403)["detail"] == "Members only"
        assert answer.headers["x-why"] == "no member"
