"""What can be sent, and how what cannot be is told: typed, with the field, and never as a mistake of the server."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.bank import web
from tests.http.problems import problem
from tests.http.serving import served

INVALID = "urn:ensue:problem:invalid"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(web("memory:")) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (b'{"account_id": "a1"}', "amount", "missing"),
        (b'{"account_id": 1, "amount": "1"}', "account_id", "Expected `str`, got `int`"),
        (b'{"account_id": "a1", "amount": "much"}', "amount", "decimal"),
        (b'{"account_id": "a1", "amount": null}', "amount", "null"),
        (b'{"account_id": "a1", "amount": "NaN"}', "amount", "finite"),
        (b'{"account_id": "a1", "amount": "1e999999"}', "amount", "out of range"),
        (b'{"account_id": "a1", "amount": 1e999999}', "amount", "out of range"),
        (b'{"account_id": "a1", "amount": "1", "acount": "a2"}', "acount", "no field 'acount'"),
        (b'{"account_id": "", "amount": "1"}', "account_id", "which is a key or tag, is empty"),
        (b'{"account_id": "a1", "amount": "1"', None, "truncated"),
        (b"[1]", None, "object"),
        (b"", None, "truncated"),
        (b"\xff\xfe", None, "malformed"),
        (b'{"account_id": "\\ud800", "amount": "1"}', None, ""),
        (b'{"account_id": "a1", "amount": ' + b"[" * 100_000, "amount", ""),
        (b'{"acount": ' + b"[" * 100_000, None, ""),
    ],
)
def test_a_message_that_is_none_is_told_with_its_field(
    client: httpx.Client, body: bytes, field: str | None, said: str
) -> None:
    found = problem(client.post("/deposit", content=body, headers=JSON), 400, INVALID)
    assert (found.get("field"), said in found["detail"]) == (field, True), found


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
)
def test_what_another_site_could_send_without_asking_is_not_read(client: httpx.Client, kind: str | None) -> None:
    answer = client.post("/deposit", content=b"{}", headers={"Content-Type": kind} if kind else {})
    problem(answer, 415)
    assert answer.headers["accept"] == "application/json"


def test_a_body_that_is_packed_is_not_read(client: httpx.Client) -> None:
    problem(client.post("/deposit", content=b"{}", headers={**JSON, "Content-Encoding": "gzip"}), 415)


def test_json_may_be_called_what_it_is_and_name_its_letters(client: httpx.Client) -> None:
    body = b'{"account_id": "a9", "amount": "1"}'
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.bank+json"):
        assert client.post("/deposit", content=body, headers={"Content-Type": kind}).status_code == 200


def test_fields_of_a_query_are_typed_in_a_query_string(client: httpx.Client) -> None:
    text = "number=7&ratio=0.5&yes=true&text=caf%C3%A9&numbers=1&numbers=2&names=x&names=y"
    answer = client.get(f"/echo/flat?{text}").json()
    assert answer.pop("names") in ("frozenset({'x', 'y'})", "frozenset({'y', 'x'})")
    assert answer == {"number": "7", "ratio": "0.5", "yes": "True", "text": "'café'", "numbers": "(1, 2)"}
    assert client.get("/echo/flat").json()["text"] == "None"
    assert client.get("/echo/flat?text=null").json()["text"] == "'null'"


def test_values_that_text_stands_for_are_read_from_either(client: httpx.Client) -> None:
    texts = {
        "at": "2026-11-29T06:00:00Z",
        "day": "2026-11-29",
        "clock": "06:00:00",
        "span": "PT1.5S",
        "id": "0192f0c1-2b3c-7d4e-8f50-112233445566",
        "colour": "blue",
        "number": "1.10",
        "raw": "aGk=",
    }
    answer = client.get("/echo/kinds", params=texts).json()
    assert (answer["span"], answer["colour"]) == (
        "datetime.timedelta(seconds=1, microseconds=500000)",
        "<Colour.BLUE: 'blue'>",
    )
    assert (answer["number"], answer["raw"]) == ("Decimal('1.10')", "b'hi'")
    assert client.post("/echo/kinds", json=texts).json() == answer
    assert client.get("/echo/kinds?by_day={}&either=[]").status_code == 200


def test_a_field_with_a_form_of_its_own_is_json_in_a_query_string(client: httpx.Client) -> None:
    parameters = {"limits": '{"a": 1.10, "b": "2.20"}', "pairs": '[[1, "x"]]'}
    answer = client.get("/echo/nested", params=parameters)
    assert answer.json() == {
        "limits": "{'a': Decimal('1.10'), 'b': Decimal('2.20')}",
        "pairs": "((1, 'x'),)",
    }
    body = {"limits": {"a": "1.10", "b": "2.20"}, "pairs": [[1, "x"]]}
    assert client.post("/echo/nested", json=body).json() == answer.json()


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("/echo/flat?number=seven", "number", "int"),
        ("/echo/flat?number=", "number", "int"),
        ("/echo/flat?number=1&number=2", "number", "twice"),
        ("/echo/flat?numbers=1&numbers=x", "numbers[1]", "int"),
        ("/echo/flat?ratio=nan", "ratio", "finite"),
        ("/echo/flat?yes=perhaps", "yes", "bool"),
        ("/echo/flat?nummer=1", "nummer", "no field"),
        ("/echo/nested", "limits", "missing"),
        ("/echo/nested?limits={", "limits", "JSON"),
        ("/echo/nested?limits={}&pairs=[[1]]", "pairs[0]", "array"),
        ("/balance-of?account_id=", "account_id", "empty"),
    ],
)
def test_a_parameter_that_is_none_is_told_with_its_field(
    client: httpx.Client, query: str, field: str | None, said: str
) -> None:
    found = problem(client.get(query), 400, INVALID)
    assert found.get("field") == field, found
    assert said in found["detail"], found


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Ensue-After", "yesterday"),
        ("Ensue-After", "x" * 1000),
        ("Ensue-Timeout", "soon"),
        ("Ensue-Timeout", "-1"),
        ("Ensue-Timeout", "nan"),
        ("Ensue-Timeout", "61"),
    ],
)
def test_a_header_that_is_none_is_told_by_its_name(client: httpx.Client, header: str, value: str) -> None:
    answer = client.get("/balance-of?account_id=a1", headers={header: value})
    assert problem(answer, 400, "urn:ensue:problem:invalid-header")["header"] == header


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    assert "/openapi.json" in problem(client.get("/nothing"), 404)["detail"]
    problem(client.post("/deposit/", json={}), 404)
    answer = client.get("/deposit")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"
    problem(client.delete("/balance-of"), 405)
    assert client.head("/balance-of?account_id=a1").status_code == 200


def test_a_body_that_is_too_large_is_not_taken(client: httpx.Client) -> None:
    body = msgspec.json.encode({"account_id": "a1", "amount": "1", "note": "x" * 1024 * 1024})
    problem(client.post("/withdraw", content=body, headers=JSON), 413)

    def in_parts() -> Iterator[bytes]:  # so that no length is told beforehand
        for _ in range(64):
            yield b" " * 64 * 1024

    try:
        answer = client.post("/withdraw", content=in_parts(), headers=JSON)
    except httpx.TransportError:
        return  # it had answered and closed before we had sent all
    problem(answer, 413)


def test_headers_and_urls_that_are_too_large_are_not_taken() -> None:
    with served(web("memory:")) as client:
        problem(client.get("/balance-of", params={"account_id": "x" * 17_000}), 414)
        problem(client.get("/balance-of", headers=[(f"x-{n}", "x" * 8000) for n in range(5)]), 431)


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        connection.sendall(
            b"POST /deposit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    assert client.post("/deposit", json={"account_id": "a9", "amount": "1"}).status_code == 200


EXTREMES = [
    "9999-12-31T23:59:59.999999-23:59",
    "0001-01-01T00:00:00+23:59",
    "0000-01-01",
    "P999999999999999999D",
    "-P1D",
    "PT1e400S",
    "24:00:00",
    "aGk",
    "1e-9999",
    "9" * 5000,
]
KINDS = ["at", "day", "clock", "span", "id", "colour", "number", "raw", "by_day", "either"]
FIELDS = ["account_id", "amount", "note", "limits", "pairs", "text", "x", *KINDS]
pieces = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["a1", "1", "-1", "1e9999", *EXTREMES]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
near = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, pieces)).map(lambda fields: msgspec.json.encode(fields))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/deposit", "/withdraw", "/balance-of", "/echo/flat", "/echo/nested", "/echo/kinds"]),
    body=st.binary() | near,
)
def test_whatever_is_posted_is_never_a_mistake_of_the_server(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code in (200, 400, 422), answer.text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/balance-of", "/echo/flat", "/echo/nested", "/echo/kinds"]),
    pairs=st.lists(
        st.tuples(
            st.sampled_from(["account_id", "ratio", "yes", "text", "numbers", "names", "limits", "pairs", "x", *KINDS]),
            st.text(st.characters(exclude_categories=["Cs"]))
            | st.sampled_from(["1", "{}", "[[1, 2]]", "nan", "1e400", *EXTREMES]),
        ),
        max_size=5,
    ),
    headers=st.dictionaries(
        st.sampled_from(["Ensue-After", "Ensue-Timeout"]), st.text(st.characters(min_codepoint=33, max_codepoint=126))
    ),
)
def test_whatever_is_asked_is_never_a_mistake_of_the_server(
    client: httpx.Client, path: str, pairs: Sequence[tuple[str, str]], headers: dict[str, str]
) -> None:
    answer = client.get(path, params=urlencode(pairs), headers=headers)
    assert answer.status_code in (200, 400, 414), answer.text
