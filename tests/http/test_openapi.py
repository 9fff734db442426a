"""The description of the routes says what they do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest

from ensue import App, Command, Decider, Event, Query, Refusal
from ensue.http import asgi
from tests.http.bank import bank, by_token, web
from tests.http.serving import served


class Placed(Event, key="order_id"):
    """An order."""

    order_id: str


class Refused(Event, key="order_id"):
    order_id: str
    reason: str


class TooLate(Refusal):
    by: int


class Closed(Refusal): ...


class Place(Command["Placed | Refused"]):
    order_id: str
    count: Annotated[int, msgspec.Meta(ge=1, le=10, description="How many")] = 1


class Open(Command[list[Placed]]):
    order_id: str


class Orders(Query["AsyncIterator[Placed]"]):
    customers: tuple[str, ...] = ()
    limits: dict[str, Decimal]


class Problem(msgspec.Struct):
    """A type of the user's that is called as ours is."""

    text: str


class Problems(Query["list[Problem]"]): ...


def shop() -> App:
    app = App("shop", url="memory:")

    def checked(command: Place) -> None:
        if command.count > 5:
            raise TooLate(by=1)

    @app.command
    def place(command: Place) -> Placed | Refused:
        checked(command)
        return Placed(order_id=command.order_id)

    def decide(state: int, command: Open) -> list[Placed]:
        if state:
            raise Closed
        return [Placed(order_id=command.order_id)]

    def evolve(state: int, event: Placed) -> int:
        return state + 1

    app.include(Decider(key="order_id", initial=lambda: 0, evolve=evolve, decide=decide))

    @app.query
    async def orders(query: Orders) -> AsyncIterator[Placed]:
        yield Placed(order_id="o1")

    @app.query
    def problems(query: Problems) -> list[Problem]:
        return []

    return app


def description(app: Any) -> dict[str, Any]:
    with served(app) as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
        return found


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    return description(asgi(shop()))


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (part["$ref"],) if "$ref" in part else ()
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


@pytest.mark.parametrize("app", [bank("memory:"), shop()], ids=lambda app: app.name)
def test_it_is_an_openapi_document_whose_references_all_lead_somewhere(app: App) -> None:
    found = description(asgi(app))
    assert found["openapi"] == "3.1.0"
    assert found["info"]["title"] == app.name
    assert {"version"} <= found["info"].keys()
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 3
    assert all("200" in operation["responses"] for operation in operations)
    assert all(
        "description" in answer or "$ref" in answer for one in operations for answer in one["responses"].values()
    )
    for kind, parts in found["components"].items():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in parts), kind
    leading = set(references(found))
    assert leading
    for reference in leading:
        place: Any = found
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_a_command_is_described_by_its_types(shown: dict[str, Any]) -> None:
    post = shown["paths"]["/place"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Place"}
    count = shown["components"]["schemas"]["Place"]["properties"]["count"]
    assert count == {"type": "integer", "minimum": 1, "maximum": 10, "description": "How many", "default": 1}
    granted = post["responses"]["200"]
    either = [{"$ref": "#/components/schemas/Placed"}, {"$ref": "#/components/schemas/Refused"}]
    assert granted["content"]["application/json"]["schema"] == {"anyOf": either}
    assert set(granted["headers"]) == {"Ensue-Position", "Ensue-Replayed"}
    assert [one["name"] for one in post["parameters"]] == ["Idempotency-Key", "Ensue-After", "Ensue-Timeout"]
    assert shown["components"]["schemas"]["Placed"]["description"] == "An order."
    many = shown["paths"]["/open"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert many == {"type": "array", "items": {"$ref": "#/components/schemas/Placed"}}


def test_the_refusals_that_the_code_of_a_handler_names_are_described(shown: dict[str, Any]) -> None:
    for path, refusal in (("/place", "TooLate"), ("/open", "Closed")):
        refused = shown["paths"][path]["post"]["responses"]["422"]
        assert refused["description"] == f"Refused: {refusal}"
        one = refused["content"]["application/problem+json"]["schema"]["anyOf"][0]["allOf"][1]
        assert one["properties"]["type"] == {"const": f"urn:ensue:refusal:{refusal}"}
        assert one["properties"]["fields"] == {"$ref": f"#/components/schemas/{refusal}"}
    assert shown["components"]["schemas"]["TooLate"]["required"] == ["by"]


def test_a_query_is_described_as_parameters_and_as_a_body(shown: dict[str, Any]) -> None:
    orders = shown["paths"]["/orders"]
    customers, limits = orders["get"]["parameters"][:2]
    assert (customers["name"], customers["in"], customers["explode"]) == ("customers", "query", True)
    assert limits["content"]["application/json"]["schema"]["type"] == "object"
    assert orders["post"]["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Orders"
    }
    lines = {"application/jsonl": {"schema": {"$ref": "#/components/schemas/Placed"}}}
    assert orders["get"]["responses"]["200"]["content"] == lines
    problems = shown["paths"]["/problems"]["get"]["responses"]["200"]["content"]
    assert set(problems) == {"application/json", "text/event-stream"}


def test_a_type_of_the_application_may_have_the_name_of_ours(shown: dict[str, Any]) -> None:
    assert shown["components"]["schemas"]["Problem"]["properties"] == {"text": {"type": "string"}}
    invalid = shown["components"]["responses"]["400"]["content"]["application/problem+json"]["schema"]["$ref"]
    assert "RFC 9457" in shown["components"]["schemas"][invalid.rpartition("/")[2]]["description"]


def test_who_is_asked_for_a_name_is_told_so() -> None:
    with served(web("memory:", by_token)) as client:
        found = client.get("/openapi.json", headers={"Authorization": "Bearer of-ada"}).json()
    assert found["security"] == [{"bearer": []}]
    assert found["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    assert "401" in found["paths"]["/deposit"]["post"]["responses"]
