"""What went wrong, as HTTP tells it: `application/problem+json` (RFC 9457).

One table says which error is which answer. What the client can do is said; what the server is made of is not: texts of errors
that are the server's own matter go to the log of the process, never into an answer.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ensue.errors import (
    AlreadyForgotten,
    Conflict,
    EnsueError,
    GiveUp,
    HandlerFailed,
    IdempotencyKeyReused,
    InvalidEvent,
    InvalidTenant,
    LogFileReplaced,
    NotCaughtUp,
    OutcomeUnknown,
    ReadOnlyLog,
    Refusal,
    StorageFull,
    StreamClosed,
    TryAgain,
    Unavailable,
    WriterStopped,
    WrongLog,
)

__all__ = ["MEDIA_TYPE", "PROBLEMS", "REFUSED", "Problem", "answered", "problem_of", "refusal_type"]

MEDIA_TYPE = "application/problem+json"
REFUSED = 422
"""What a refusal is answered with: the request was understood, and the answer is no."""

PROBLEMS: Mapping[str, tuple[int, str]] = {
    "invalid": (400, "The message is not valid"),
    "invalid-header": (400, "A header is not valid"),
    "wrong-log": (400, "The position belongs to another log"),
    "unknown-tenant": (404, "There is no such tenant"),
    "conflict": (409, "Others decided at the same time"),
    "closed": (409, "What it is about is closed"),
    "forgotten": (409, "Who it is about was forgotten"),
    "idempotency-key-reused": (422, "The idempotency key was used for something else"),
    "outcome-unknown": (500, "It is not known whether this was stored"),
    "unavailable": (503, "Not available now"),
    "storage-full": (503, "There is no room to store this"),
    "not-caught-up": (504, "The position was not reached in time"),
}
"""The problems that have a type of their own, with status and title. All others are what their status says."""

_BY_ERROR: tuple[tuple[type[EnsueError], str, str], ...] = (
    (IdempotencyKeyReused, "idempotency-key-reused", "Send another command under another key."),
    (InvalidEvent, "invalid", "What it leads to cannot be stored."),
    (InvalidTenant, "unknown-tenant", ""),
    (StreamClosed, "closed", "Nothing was stored."),
    (AlreadyForgotten, "forgotten", "Nothing was stored."),
    (WrongLog, "wrong-log", "Ask without Ensue-After, or with a position of this log."),
    (Conflict, "conflict", "Nothing was stored. Send the same again."),
    (NotCaughtUp, "not-caught-up", "What was written stays written. Ask again."),
    (OutcomeUnknown, "outcome-unknown", "With the same Idempotency-Key it can be sent again; without one it may be stored twice."),
    (StorageFull, "storage-full", "Nothing was stored."),
    (Unavailable, "unavailable", "Nothing was stored. Try again."),
    (TryAgain, "unavailable", "Nothing was stored. Try again."),
    (ReadOnlyLog, "unavailable", "Nothing was stored. Reading still works."),
    (WriterStopped, "unavailable", "Nothing was stored."),
    (LogFileReplaced, "unavailable", "Nothing was stored."),
    (HandlerFailed, "unavailable", "What was written stays written. What follows from it stands still until a person has looked."),
)  # fmt: skip
_AGAIN = {"Retry-After": "1"}
_UNFIT = re.compile(r"\w+: (\w+), which is a key or tag, (.*)")
"""What an `InvalidEvent` says that is the client's own matter. What else it says shows values, which may be the server's."""


class Problem(Exception):
    """An answer that is a problem. `kind` is one of `PROBLEMS`, else the problem is what its status says."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        kind: str = "",
        title: str = "",
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title or HTTPStatus(status).phrase
        self.detail = detail
        self.headers = headers
        self.members = members

    @classmethod
    def of(cls, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> Problem:
        """One of `PROBLEMS`."""
        status, title = PROBLEMS[kind]
        return cls(status, detail, kind=f"urn:ensue:problem:{kind}", title=title, headers=headers, **members)

    def encoded(self) -> bytes:
        told = {"type": self.kind or "about:blank", "title": self.title, "status": self.status}
        return msgspec.json.encode(told | ({"detail": self.detail} if self.detail else {}) | self.members)

    def response(self) -> Response:
        return answered(self.encoded(), status=self.status, media_type=MEDIA_TYPE, headers=self.headers)


def refusal_type(refusal: type[Refusal]) -> str:
    """What a problem of this refusal has as its type."""
    return f"urn:ensue:refusal:{refusal.__name__}"


def problem_of(error: Exception, request: Request) -> Problem:
    """How this is told. What a person must see is logged; a bug shows nothing of itself."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refusal):
        name = type(error).__name__
        fields = {field.name: getattr(error, field.name) for field in dataclasses.fields(error)}  # type: ignore[arg-type]
        return Problem(REFUSED, kind=refusal_type(type(error)), title=name, refusal=name, fields=fields)
    log, what = logging.getLogger("ensue.http"), f"{request.method} {request.url.path}"
    found = next(((kind, said) for cause, kind, said in _BY_ERROR if isinstance(error, cause)), None)
    if found is None:
        log.error("%s met a bug", what, exc_info=error)
        return Problem(500, "This is a mistake of the server. It has been logged")
    kind, said = found
    if isinstance(error, InvalidEvent):
        unfit = _UNFIT.match(str(error))
        if unfit:
            return Problem.of(kind, f"{unfit[1]}, which is a key or tag, {unfit[2]}", field=unfit[1])
        log.warning("%s was answered with %d: %s", what, PROBLEMS[kind][0], error)
    again = isinstance(error, TryAgain) and not isinstance(error, OutcomeUnknown)
    problem = Problem.of(kind, said, headers=_AGAIN if again else None)
    if isinstance(error, GiveUp | OutcomeUnknown | Unavailable):
        log.warning("%s was answered with %d: %s: %s", what, problem.status, type(error).__name__, error)
    return problem


def answered(
    body: bytes, *, status: int = 200, media_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> Response:
    """An answer that nobody on the way keeps: a reader would not see its own writes."""
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, media_type)
