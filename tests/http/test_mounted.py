"""The same served in other applications, in part, under a prefix, and by several processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from ensue import App, Command
from ensue.errors import DefinitionError
from ensue.http import asgi
from tests.http.bank import BalanceOf, Deposit, Deposited, Withdrawn, bank, web
from tests.http.problems import problem
from tests.http.serving import served
from tests.servers.processes import ServerError

MONEY = {"account_id": "a1", "amount": "10"}


def in_starlette(app: App) -> Any:
    return Starlette(routes=[Mount("/bank", asgi(app))], lifespan=app.lifespan)


def in_fastapi(app: App) -> Any:
    api = FastAPI(lifespan=app.lifespan)
    api.mount("/bank", asgi(app))
    return api


def under_a_prefix(app: App) -> Any:
    return asgi(app, prefix="/bank")


@pytest.mark.parametrize("outer", [in_starlette, in_fastapi, under_a_prefix])
def test_it_is_the_same_wherever_it_is_mounted(outer: Any, url: str) -> None:
    with served(outer(bank(url))) as client:
        position = client.post("/bank/deposit", json=MONEY).headers["Ensue-Position"]
        seen = client.get("/bank/balance-of?account_id=a1", headers={"Ensue-After": position})
        assert seen.json() == "10"
        problem(client.post("/bank/withdraw", json={**MONEY, "amount": "11"}), 422, "urn:ensue:refusal:Overdrawn")
        problem(client.post("/bank/withdraw", json={}), 400, "urn:ensue:problem:invalid")
        problem(client.post("/bank/break", json={}), 500)
        problem(client.get("/bank/withdraw"), 405)
        problem(client.get("/bank/nothing"), 404)
        assert client.post("/deposit", json=MONEY).status_code == 404
        description = client.get("/bank/openapi.json").json()
        paths = {description["servers"][0]["url"].rstrip("/") + path for path in description["paths"]}
        assert {"/bank/deposit", "/bank/balance-of"} <= paths


def test_only_what_is_chosen_is_reached() -> None:
    with served(asgi(bank("memory:"), only=[Deposit, BalanceOf])) as client:
        assert client.post("/deposit", json=MONEY).status_code == 200
        assert client.get("/balance-of?account_id=a1").json() == "10"
        problem(client.post("/withdraw", json=MONEY), 404)
        assert list(client.get("/openapi.json").json()["paths"]) == ["/deposit", "/balance-of"]


def test_a_command_without_a_handler_cannot_be_chosen() -> None:
    class Close(Command[None]):
        account_id: str

    with pytest.raises(DefinitionError, match="bank has no handler for Close, which is to be reached over HTTP"):
        asgi(bank("memory:"), only=[Close])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("PlaceOrder", "/place-order"),
        ("billing.Charge", "/billing/charge"),
        ("HTTPCheck", "/http-check"),
        ("SendSMS", "/send-sms"),
        ("Order2Ship", "/order2-ship"),
        ("place_order", "/place-order"),
        ("ÜberweisungAusführen", "/überweisung-ausführen"),
    ],
)
def test_a_path_is_the_name_in_small_letters(name: str, path: str) -> None:
    class Named(Command[None], name=name):
        pass

    app = App("names", url="memory:")

    @app.command
    def named(command: Named) -> None: ...

    with served(asgi(app)) as client:
        assert client.post(path, json={}).status_code == 200


def test_two_messages_cannot_be_at_one_path() -> None:
    app = bank("memory:")

    class Other(Command[None], name="deposit"):
        account_id: str

    @app.command
    def other(command: Other) -> None: ...

    with pytest.raises(DefinitionError, match=r"Other and Deposit would both be at /deposit: declare another name"):
        asgi(app)


def test_a_handler_that_is_declared_too_late_is_told_and_not_left_out_in_silence() -> None:
    def too_late() -> tuple[App, Starlette]:
        app = bank("memory:")
        web_application = asgi(app)

        class Close(Command[None]):
            account_id: str

        @app.command
        def close(command: Close) -> None: ...

        return app, web_application

    _, alone = too_late()
    with pytest.raises(ServerError), served(alone):
        pass
    app, mounted = too_late()
    with served(Starlette(routes=[Mount("/", mounted)], lifespan=app.lifespan)) as client:
        problem(client.post("/deposit", json=MONEY), 500)


def test_without_starlette_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["starlette"] = None
import ensue
try:
    import ensue.http
except ensue.EnsueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout == "ensue.http needs Starlette, which is not installed: pip install 'ensue[http]'\n"


def test_a_prefix_is_a_path() -> None:
    for prefix in ("bank", "/bank/", "/"):
        with pytest.raises(DefinitionError, match="a prefix begins with /"):
            asgi(bank("memory:"), prefix=prefix)


def test_a_message_that_no_json_can_stand_for_is_refused_when_it_is_declared() -> None:
    class Show(Command[None]):
        what: Deposited | Withdrawn

    class Print(Command[None]):
        file: Path

    for message in (Show, Print):
        app = App("bank", url="memory:")

        @app.command
        def handler(command: message) -> None: ...  # type: ignore[valid-type]

        with pytest.raises(DefinitionError, match=f"{message.__name__} cannot be read from JSON"):
            asgi(app)


def test_other_sites_are_let_in_by_the_middleware_of_starlette() -> None:
    web_application = web("memory:")
    web_application.add_middleware(
        CORSMiddleware,
        allow_origins=["https://shop.example"],
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Ensue-Position"],
    )
    with served(web_application) as client:
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        assert client.options("/deposit", headers=asked).status_code == 200
        assert client.options("/deposit", headers={**asked, "Origin": "https://evil.example"}).status_code == 400


def test_a_web_application_may_only_send_and_ask_while_others_run_the_consumers(file_url: str) -> None:
    app = bank(file_url)

    @contextlib.asynccontextmanager
    async def connected(_: object) -> AsyncGenerator[None, None]:
        async with app.connected():
            yield

    with served(Starlette(routes=[Mount("/", asgi(app))], lifespan=connected)) as client:
        assert client.post("/deposit", json=MONEY).status_code == 200
