"""The headers that Ensue reads: what a client asks for beside its message. What cannot be read is a problem that names it."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from starlette.requests import Request

from ensue.app.checks import checked_traceparent
from ensue.app.receipt import WAIT
from ensue.errors import InvalidEvent
from ensue.events.recorded import Position
from ensue.http.problems import Problem

__all__ = [
    "AFTER",
    "KEY",
    "POSITION",
    "REPLAYED",
    "TIMEOUT",
    "TIMEOUT_SECONDS_MAX",
    "after",
    "idempotency_key",
    "timeout",
    "traceparent",
]

POSITION = "Ensue-Position"
"""In an answer: where what was stored is. Given back as `Ensue-After`, an answer has seen it."""
AFTER = "Ensue-After"
"""In a request: answer only when this position is seen."""
TIMEOUT = "Ensue-Timeout"
"""In a request: for how many seconds to wait for it."""
KEY = "Idempotency-Key"
"""In a request: the same for each repetition of a command, and another for each command."""
REPLAYED = "Ensue-Replayed"
"""In an answer: this is the first answer of that key, and nothing was stored now."""
LAST = "Last-Event-ID"
"""In a request for a watch, sent by the browser that comes back: as `Ensue-After`."""

TIMEOUT_SECONDS_MAX = 60.0
"""A request that waits holds a connection; proxies give up at about this time."""
KEY_CHARACTERS = 255
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE = re.compile(r"[!#-~]+")


def after(request: Request, name: str = AFTER) -> Position | None:
    """Errors: `Problem`."""
    text = request.headers.get(name)
    if text is None:
        return None
    try:
        if len(text) > KEY_CHARACTERS:
            raise ValueError
        return Position(text)
    except ValueError:
        raise Problem.of(
            "invalid-header", f"{name} is no position; one is given in the header {POSITION} of an answer", header=name
        ) from None


def timeout(request: Request) -> timedelta:
    """Errors: `Problem`."""
    text = request.headers.get(TIMEOUT)
    if text is None:
        return WAIT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= TIMEOUT_SECONDS_MAX:
        raise Problem.of(
            "invalid-header", f"{TIMEOUT} is a number of seconds from 0 to {TIMEOUT_SECONDS_MAX:.0f}", header=TIMEOUT
        )
    return timedelta(seconds=seconds)


def idempotency_key(request: Request) -> str | None:
    """A text in quotes (a string of RFC 8941, as the draft for this header wants it), or the same without. Errors: `Problem`."""
    given = request.headers.getlist(KEY)
    if not given:
        return None
    text = given[0].strip()
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if len(given) > 1 or not 0 < len(key) <= KEY_CHARACTERS or not (quoted or _BARE.fullmatch(text)):
        raise Problem.of(
            "invalid-header",
            f"{KEY} is one text of 1 to {KEY_CHARACTERS} characters in quotes, such as a UUID",
            header=KEY,
        )
    return key


def traceparent(request: Request) -> str | None:
    """One that is none is left out, as the W3C wants it: no request fails for its trace."""
    try:
        return checked_traceparent(request.headers.get("traceparent"))
    except InvalidEvent:
        return None
