"""Statements for a Flink cluster, over the REST interface of its SQL gateway (version 3 of it, Flink 2).

    async with Session("http://gateway:8083", world) as session:
        await session.execute("CREATE TABLE …")
        job = await session.submit("INSERT INTO …")

A session is a conversation: it knows the tables made in it. A job that was submitted goes on when its session is closed. Calls
of one session follow each other. Waiting for a result looks again and again, since the gateway cannot call back.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from ensue.errors import AccessRefused, DefinitionError, FlinkFailed, OutcomeUnknown, Unavailable
from ensue.urls import is_readable, shown
from ensue.world import Threads, World

__all__ = ["Session"]

ANSWER_SECONDS = 60.0
"""How long the gateway may take to answer one request. It answers that a result is not ready yet at once."""
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.02, 0.5
"""Between two looks for a result: at first, and at last."""


class _Answered(NamedTuple):
    status: int
    body: bytes


class Session:
    """A conversation with the SQL gateway at this URL. `settings` are Flink's own, for its statements and jobs.

    `async with` opens it, and closes it at the end; what it submitted goes on.

    Errors of all methods: `Unavailable` when the gateway cannot be reached, `OutcomeUnknown` when its answer to a statement was lost,
    `AccessRefused`, `FlinkFailed` with what Flink says.
    """

    def __init__(self, url: str, world: World, settings: Mapping[str, str] | None = None) -> None:
        self._place = shown(url)
        parts = urlsplit(url)
        if not is_readable(url) or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise DefinitionError(
                f"{self._place} is no SQL gateway; its URL looks like http://host:8083, without a user"
            )
        self._parts = parts
        self._world = world
        self._settings = dict(settings or {})
        self._threads: Threads | None = None
        self._name = ""

    async def __aenter__(self) -> Self:
        self._threads = self._world.threads(1, name="ensue flink")
        try:
            opened = await self._ask("POST", "/sessions", {"properties": self._settings}, what="open a session")
            self._name = str(opened["sessionHandle"])
        except BaseException:
            self._threads.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._threads is not None
        try:
            if not isinstance(error, Unavailable | OutcomeUnknown):
                await self._ask("DELETE", f"/sessions/{self._name}", None, what="close a session")
        finally:
            self._threads.close()

    async def execute(self, statement: str, /) -> list[list[Any]]:
        """Run a statement that ends by itself, and return its rows, as JSON has them: tables made, what SHOW shows, a query
        over what is bounded."""
        return [row async for rows in self._results(statement) for row in rows[1]]

    async def submit(self, statement: str, /) -> str:
        """Start what runs as a job of the cluster, an INSERT or a set of them, and return the job's id. It then runs, or will: it
        has been accepted, and not more."""
        async with aclosing(self._results(statement)) as results:
            async for job, rows in results:
                if job or rows:
                    return job or str(rows[0][0])
        raise FlinkFailed(f"the gateway {self._place} took a statement and named no job of it: {_short(statement)}")

    async def rows(self, statement: str, /) -> AsyncGenerator[list[Any], None]:
        """The rows of a query while they come. Leaving early ends the query's job."""
        async with aclosing(self._results(statement)) as results:
            async for _, rows in results:
                for row in rows:
                    yield row

    async def state(self, job: str, /) -> str:
        """What the cluster says of a job: RUNNING, FINISHED, FAILED, CANCELED and some more; "" where it knows none."""
        said = await self.execute("SHOW JOBS")
        return next((str(row[2]) for row in said if row[0] == job), "")

    async def cancel(self, job: str, /) -> None:
        """End a job. Returns when the cluster has taken the order."""
        if not job.isalnum():
            raise DefinitionError(f"{job!r} is no id of a job of Flink; `submit` returns one")
        await self.execute(f"STOP JOB '{job}'")

    async def _results(self, statement: str) -> AsyncGenerator[tuple[str, list[list[Any]]], None]:
        """(job, rows) for each part of a statement's result, until it ends."""
        what = f"run: {_short(statement)}"
        begun = await self._ask("POST", f"/sessions/{self._name}/statements", {"statement": statement}, what=what)
        operation = f"/sessions/{self._name}/operations/{begun['operationHandle']}"
        path: str | None = f"/v3{operation}/result/0?rowFormat=JSON"
        look = FIRST_LOOK_SECONDS
        try:
            while path is not None:
                part = await self._ask("GET", path.removeprefix("/v3"), None, what=what)
                rows = [row["fields"] for row in part.get("results", {}).get("data", ())]
                if part["resultType"] == "PAYLOAD":
                    yield str(part.get("jobID") or ""), rows
                if part["resultType"] == "NOT_READY" or not rows:
                    await self._world.sleep(look)
                    look = min(2 * look, LAST_LOOK_SECONDS)
                else:
                    look = FIRST_LOOK_SECONDS
                if part["resultType"] != "NOT_READY":
                    path = part.get("nextResultUri")
        finally:
            await self._ask("DELETE", f"{operation}/close", None, what="close a statement")

    async def _ask(self, method: Literal["GET", "POST", "DELETE"], path: str, body: object, *, what: str) -> Any:
        assert self._threads is not None, "a session is open within `async with`"
        future: asyncio.Future[_Answered] = asyncio.get_running_loop().create_future()

        def done(answered: _Answered | None, error: BaseException | None) -> None:
            if future.done():  # cancelled
                return
            if answered is not None:
                future.set_result(answered)
            else:
                assert error is not None
                future.set_exception(error)

        self._threads.run(partial(self._call, method, path, body, what), done)
        answered = await future
        if answered.status in (401, 403):
            raise AccessRefused(f"the gateway {self._place} does not let us {what} (status {answered.status})")
        if answered.status >= 400:
            raise FlinkFailed(f"the gateway {self._place} was asked to {what}; it says: {_reason(answered)}")
        return msgspec.json.decode(answered.body) if answered.body else {}

    def _call(self, method: str, path: str, body: object, what: str) -> _Answered:
        """On a thread."""
        connection = self._connection()
        try:
            try:
                connection.connect()
            except OSError as error:
                raise Unavailable(
                    f"the SQL gateway {self._place} cannot be reached to {what}: {error}; is it running, and the address right?"
                ) from error
            sent = None if body is None else msgspec.json.encode(body)
            try:
                connection.request(
                    method, f"{self._parts.path.rstrip('/')}/v3{path}", sent, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                return _Answered(answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                raise OutcomeUnknown(
                    f"the SQL gateway {self._place} was asked to {what}, and its answer was lost: {error!r}; look at the "
                    "cluster's jobs before you ask again"
                ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)
        return http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)


def _short(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= 200 else f"{line[:200]} …"


def _reason(answered: _Answered) -> str:
    """The innermost cause that a trace of Java names, which is what a person must know."""
    text = answered.body.decode(errors="replace")
    try:
        decoded = msgspec.json.decode(answered.body)
        text = str(decoded["errors"][-1])
    except (msgspec.DecodeError, LookupError, TypeError):
        pass
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("Caused by: "):
            blocks.append([])
        if line.strip() and not line.lstrip().startswith(("at ", "...")) and not line.startswith("End of exception"):
            blocks[-1].append(line.strip())
    causes = [" ".join(block) for block in blocks if block]
    return (
        (causes[-1] if causes else f"status {answered.status}")
        .removeprefix("Caused by: ")
        .partition(" Was expecting")[0][:2000]
    )
