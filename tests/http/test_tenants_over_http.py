"""One ASGI application for many tenants, with a log each or apart by a tag in one log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from ensue import App
from ensue.http import asgi
from tests.http.bank import bank, by_token
from tests.http.problems import problem
from tests.http.serving import served
from tests.servers.processes import ServerError, until

MONEY = {"account_id": "a1", "amount": "10"}
BALANCE = "/balance-of?account_id=a1"
UNKNOWN = "urn:ensue:problem:unknown-tenant"


async def by_header(request: Request) -> str | None:
    return request.headers.get("x-tenant")


def banks(folder: Path, *names: str) -> App:
    """A bank with tenants, of which these are there."""
    app = bank(f"sqlite:///{folder}/{{tenant}}.db")

    async def make() -> None:
        async with app:
            for name in names:
                async with app.tenant(name, create=True):
                    pass

    asyncio.run(make())
    return app


def of(client: httpx.Client, tenant: str, path: str, **headers: str) -> httpx.Response:
    return client.get(path, headers={"x-tenant": tenant, **headers})


def test_each_tenant_has_its_own_accounts_positions_and_keys(tmp_path: Path) -> None:
    key = {"Idempotency-Key": '"k"'}
    with served(asgi(banks(tmp_path, "acme", "zeta"), tenant=by_header)) as client:
        acme = client.post("/deposit", json=MONEY, headers={"x-tenant": "acme", **key})
        zeta = client.post("/deposit", json={**MONEY, "amount": "7"}, headers={"x-tenant": "zeta", **key})
        assert (acme.status_code, zeta.status_code) == (200, 200)
        assert of(client, "acme", BALANCE, **{"Ensue-After": acme.headers["Ensue-Position"]}).json() == "10"
        assert of(client, "zeta", BALANCE).json() == "7"
        foreign = of(client, "zeta", BALANCE, **{"Ensue-After": acme.headers["Ensue-Position"]})
        problem(foreign, 400, "urn:ensue:problem:wrong-log")


@pytest.mark.parametrize("name", ["nobody", "../acme", "ACME", ""])
def test_a_tenant_that_is_not_there_is_not_made(name: str, tmp_path: Path) -> None:
    app = banks(tmp_path, "acme")
    before = sorted(tmp_path.iterdir())
    with served(asgi(app, tenant=by_header)) as client:
        answer = of(client, name, BALANCE)
        problem(answer, 404, UNKNOWN)
        assert str(tmp_path) not in answer.text
        problem(client.get(BALANCE), 404, UNKNOWN)
        assert sorted(tmp_path.iterdir()) == before


def test_a_watch_keeps_its_tenant_open_and_lets_go_of_it(tmp_path: Path) -> None:
    app = banks(tmp_path, "acme")
    with served(asgi(app, tenant=by_header)) as client:
        asked = {"x-tenant": "acme", "Accept": "text/event-stream"}

        def users() -> int:
            assert app._tenants is not None
            return sum(one.users for one in app._tenants._open.values())

        with client.stream("GET", BALANCE, headers=asked) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data"))
            assert next(lines) == 'data: "0"'
            assert users() == 1
            client.post("/deposit", json=MONEY, headers={"x-tenant": "acme"})
            assert next(lines) == 'data: "10"'
        until(lambda: users() == 0, "the tenant is let go of", seconds=5)
        assert len(of(client, "acme", "/counted?count=3").text.splitlines()) == 3
        until(lambda: users() == 0, "the tenant is let go of", seconds=5)


def test_who_is_not_known_is_told_nothing_of_tenants(tmp_path: Path) -> None:
    with served(asgi(banks(tmp_path, "acme"), tenant=by_header, authenticate=by_token)) as client:
        assert [of(client, name, BALANCE).status_code for name in ("acme", "nobody")] == [401, 401]


def test_tenants_of_one_log_are_kept_apart_as_well(url: str) -> None:
    app = bank(url, tenants="tag")
    with served(asgi(app, tenant=by_header)) as client:
        for tenant, amount, key in (("acme", "10", "k"), ("zeta", "7", "k"), ("acme", "1", "l")):
            body, asked = {**MONEY, "amount": amount}, {"x-tenant": tenant, "Idempotency-Key": f'"{key}"'}
            answer = client.post("/deposit", json=body, headers=asked)
            assert answer.status_code == 200, answer.text
            seen = {"Ensue-After": answer.headers["Ensue-Position"]}
        assert of(client, "acme", BALANCE, **seen).json() == "11"
        assert of(client, "zeta", BALANCE, **seen).json() == "7"
        assert of(client, "other", BALANCE, **seen).json() == "0"
        problem(of(client, "../acme", BALANCE), 404, UNKNOWN)
        problem(client.get(BALANCE), 404, UNKNOWN)


def test_an_application_with_tenants_is_not_served_without_saying_whose(tmp_path: Path) -> None:
    for wrong in (asgi(banks(tmp_path)), asgi(bank("memory:"), tenant=by_header)):
        with pytest.raises(ServerError), served(wrong):
            pass
    with pytest.raises(ServerError), served(asgi(bank("memory:", tenants="tag"))):
        pass
    app = banks(tmp_path)
    with served(Starlette(routes=[Mount("/", asgi(app))], lifespan=app.lifespan)) as client:
        problem(client.get(BALANCE), 500)
