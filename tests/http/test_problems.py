"""Which error is which answer, on a store that fails and by a handler that raises."""

from __future__ import annotations

import re

import pytest

from ensue import App, Command
from ensue.errors import (
    AlreadyForgotten,
    ApplyFailed,
    Conflict,
    CorruptLog,
    EnsueError,
    Fenced,
    GiveUp,
    HandlerFailed,
    IdempotencyKeyReused,
    InvalidEvent,
    InvalidTenant,
    LogFileReplaced,
    Misuse,
    NotCaughtUp,
    OutcomeUnknown,
    ReadOnlyLog,
    StorageFull,
    StreamClosed,
    TryAgain,
    Unavailable,
    UnreadableEvent,
    WriterStopped,
    WrongLog,
)
from ensue.http import asgi
from ensue.http.problems import PROBLEMS
from tests.http.bank import web
from tests.http.problems import problem
from tests.http.serving import served
from tests.servers.postgresql import PostgresServer
from tests.typing.checkers import ROOT

SECRET = "the file /var/lib/secret and the table accounts"
ANSWERS: list[tuple[EnsueError, int, str]] = [
    (Conflict(SECRET, expected=1, actual=2), 409, "conflict"),
    (IdempotencyKeyReused(SECRET), 422, "idempotency-key-reused"),
    (InvalidEvent(SECRET), 400, "invalid"),
    (InvalidTenant(SECRET), 404, "unknown-tenant"),
    (StreamClosed(SECRET), 409, "closed"),
    (AlreadyForgotten(SECRET), 409, "forgotten"),
    (WrongLog(SECRET), 400, "wrong-log"),
    (NotCaughtUp(SECRET), 504, "not-caught-up"),
    (OutcomeUnknown(SECRET), 500, "outcome-unknown"),
    (StorageFull(SECRET), 503, "storage-full"),
    (Unavailable(SECRET), 503, "unavailable"),
    (Fenced(SECRET), 503, "unavailable"),
    (ApplyFailed(SECRET, unit=0), 503, "unavailable"),
    (ReadOnlyLog(SECRET), 503, "unavailable"),
    (WriterStopped(SECRET), 503, "unavailable"),
    (LogFileReplaced(SECRET), 503, "unavailable"),
    (HandlerFailed(SECRET, consumer="billing", position=1), 503, "unavailable"),
    (UnreadableEvent(SECRET), 500, ""),
    (CorruptLog(SECRET), 500, ""),
    (Misuse(SECRET), 500, ""),
]


class Fail(Command[None]):
    number: int


@pytest.mark.parametrize("number", range(len(ANSWERS)), ids=lambda number: type(ANSWERS[number][0]).__name__)
def test_each_error_has_its_answer_which_shows_nothing_of_the_server(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    error, status, kind = ANSWERS[number]
    app = App("shop", url="memory:")

    @app.command
    def fail(command: Fail) -> None:
        raise error

    with served(asgi(app)) as client:
        answer = client.post("/fail", json={"number": 1})
    problem(answer, status, f"urn:ensue:problem:{kind}" if kind else "about:blank")
    assert SECRET not in answer.text
    assert ("retry-after" in answer.headers) == (isinstance(error, TryAgain) and kind != "outcome-unknown")
    # what needs a person is in the log of the process
    assert (SECRET in caplog.text) == (
        isinstance(error, GiveUp | InvalidEvent | OutcomeUnknown | Unavailable) or kind == ""
    )


def test_every_other_error_is_one_of_the_application_or_needs_a_person() -> None:
    told = {type(error) for error, _, kind in ANSWERS if kind}
    pending = [EnsueError]
    for kind in pending:  # it grows
        pending += kind.__subclasses__()
    others = {
        kind.__name__
        for kind in pending
        if not kind.__subclasses__() and kind not in told and kind.__module__ == "ensue.errors"
    }
    assert others == {
        *("DefinitionError", "WiringError", "MissingCapability", "NotYetAvailable", "InsideHandler"),
        *("DuplicateEventId", "ForeignConnection", "ConditionFailed", "NotPortable", "FlinkFailed"),
        *("MessageRefused", "AccessRefused", "CorruptLog", "LogTooNew", "ArchivedEvent", "KeyLost"),
    }


def test_every_problem_is_answered_by_some_error_or_header_and_documented() -> None:
    assert PROBLEMS.keys() == {kind for _, _, kind in ANSWERS if kind} | {"invalid-header"}
    rows = re.findall(
        r"^\| `urn:ensue:problem:([\w-]+)` \| (\d+) \|", (ROOT / "docs/http.md").read_text(), re.MULTILINE
    )
    assert {(kind, int(status)) for kind, status in rows} == {(kind, status) for kind, (status, _) in PROBLEMS.items()}


@pytest.mark.slow
def test_a_store_that_is_gone_is_not_available_and_comes_back(own_postgresql: PostgresServer) -> None:
    money = {"account_id": "a1", "amount": "10"}
    with served(web(own_postgresql.address.url())) as client:
        assert client.post("/deposit", json=money).status_code == 200
        own_postgresql.kill()
        gone = client.post("/deposit", json=money, headers={"Idempotency-Key": '"k"'})
        assert gone.status_code in (500, 503), gone.text
        assert gone.json()["type"] in ("urn:ensue:problem:unavailable", "urn:ensue:problem:outcome-unknown")
        own_postgresql.start()
        while (back := client.post("/deposit", json=money, headers={"Idempotency-Key": '"k"'})).status_code == 503:
            pass
        assert back.status_code == 200, back.text
        assert client.get("/balance-of?account_id=a1").json() == "20"
