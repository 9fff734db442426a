"""The same decisions by the library `eventsourcing`: aggregates on SQLite and PostgreSQL, slices of its DCB on PostgreSQL.

Aggregates are loaded by its repository and saved by its application, as its users do; its cache of aggregates is off where an
aggregate is to be loaded, and large enough for all where it is to be remembered (fast-forwarding included, which is what makes
it right beside other processes). Enrolments are slices with a boundary over course and student, and its MessagePack mapper, the
faster of its two. Connections and locks are as for its appends. Whoever meets a conflict decides again.
"""

# mypy: disable-error-code="misc, untyped-decorator"
# The peer is installed for benchmarks only: without it its classes and decorators are untyped.
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.dcb.application import DCBApplication
from eventsourcing.dcb.domain import Selector, Slice
from eventsourcing.dcb.msgpack import Decision
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError

from bench.bank import ACCOUNT_EVENTS, COURSE_PLACES, COURSES_A_STUDENT, courses_of
from bench.measure import Outcome, folder
from tests.servers.postgresql import empty_database

__all__ = ["decide", "decide_hot", "decide_on_postgresql", "enrol"]

CONNECTIONS = 8


class Account(Aggregate):
    """Ten deposits, and one withdrawal at a time."""

    @event("Opened")
    def __init__(self, number: int) -> None:
        self.number = number
        self.balance = 0
        self.movements = 0

    @staticmethod
    def create_id(number: int) -> UUID:
        return uuid5(NAMESPACE_OID, f"a{number}")

    @event("Deposited")
    def deposit(self, amount: int) -> None:
        self.balance += amount
        self.movements += 1

    def withdraw(self, amount: int) -> None:
        if amount > self.balance:
            raise ValueError(f"{self.balance} available")
        self._withdrawn(amount)

    @event("Withdrawn")
    def _withdrawn(self, amount: int) -> None:
        self.balance -= amount
        self.movements += 1


def _on_sqlite(path: Path) -> dict[str, str]:
    return {
        "PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "SQLITE_DBNAME": str(path / "eventsourcing.db"),
        "SQLITE_LOCK_TIMEOUT": "60",
        "SQLITE_POOL_TIMEOUT": "60",
    }


def _on_postgresql(url: str, connections: int) -> dict[str, str]:
    at = urlsplit(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": unquote(at.path.removeprefix("/")),
        "POSTGRES_HOST": at.hostname or "",
        "POSTGRES_PORT": str(at.port),
        "POSTGRES_USER": unquote(at.username or ""),
        "POSTGRES_PASSWORD": unquote(at.password or "none is asked for"),
        "POSTGRES_POOL_SIZE": str(connections),
        "POSTGRES_MAX_OVERFLOW": "0",
        "POSTGRES_CONNECT_TIMEOUT": "60",
    }


def decide(count: int, clients: int, *, remembered: bool = False) -> Outcome:
    """See `bank.decide`."""
    with folder() as path:
        return _decide(_on_sqlite(path), count, clients, remembered=remembered)


def decide_on_postgresql(server: str, count: int, clients: int, *, remembered: bool = False) -> Outcome:
    """See `bank.decide`."""
    env = _on_postgresql(empty_database(server), min(CONNECTIONS, clients))
    return _decide(env, count, clients, remembered=remembered)


def decide_hot(count: int, clients: int) -> Outcome:
    """See `bank.decide_hot`."""
    with folder() as path:
        return _decide(_on_sqlite(path), count, clients, remembered=False, accounts=1, amount=count)


def _decide(
    env: dict[str, str],
    count: int,
    clients: int,
    *,
    remembered: bool,
    accounts: int | None = None,
    amount: int = 10,
) -> Outcome:
    accounts = accounts or count
    app = Application[UUID](env=env)
    try:
        _fill(app, accounts, amount)
    finally:
        app.close()
    app = Application[UUID](env={**env, "AGGREGATE_CACHE_MAXSIZE": str(count * 2)} if remembered else env)
    try:
        _connect(app.recorder)

        def withdraw(number: int) -> None:
            while True:
                account: Account = app.repository.get(Account.create_id(number % accounts))
                account.withdraw(1)
                try:
                    app.save(account)
                except IntegrityError:
                    continue
                return

        if remembered:
            _all_at_once(withdraw, range(count), clients)
        seconds = _all_at_once(withdraw, range(count), clients)
        return Outcome(count / seconds, _contents(app, accounts))
    finally:
        app.close()


def _fill(app: Application[UUID], count: int, amount: int) -> None:
    for number in range(count):
        account = Account(number=number)
        for _ in range(ACCOUNT_EVENTS):
            account.deposit(amount)
        app.save(account)


def _contents(app: Application[UUID], count: int) -> str:
    accounts: list[Account] = [app.repository.get(Account.create_id(number)) for number in range(count)]
    return f"{sum(one.movements for one in accounts)} events, {sum(one.balance for one in accounts)} left"


def _all_at_once(function: Callable[[Any], None], work: Sequence[Any], clients: int) -> float:
    """Clients in threads, each doing one piece after another; the seconds it took."""

    def client(share: Sequence[Any]) -> None:
        for one in share:
            function(one)

    threads = [threading.Thread(target=client, args=(work[number::clients],)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _connect(recorder: Any) -> None:
    """All its connections: it makes them in the background, from its first use on."""
    pool = getattr(getattr(recorder, "datastore", None), "pool", None)
    if pool is not None and hasattr(pool, "wait"):
        pool.open()
        pool.wait(60)


# ------------------------------------------------------------------------------------------------------------ enrolment


class CourseDefined(Decision):
    course_id: str
    places: int


class StudentEnrolled(Decision):
    course_id: str
    student_id: str


class Define(Slice[Decision]):
    def __init__(self, course_id: str) -> None:
        self.course_id = course_id

    def consistency_boundary(self) -> list[Selector]:
        return [Selector(types=[CourseDefined], tags=[self.course_id])]

    def execute(self) -> None:
        self.trigger_event(CourseDefined, tags=[self.course_id], course_id=self.course_id, places=COURSE_PLACES)


class Enrol(Slice[Decision]):
    def __init__(self, course_id: str, student_id: str) -> None:
        self.course_id = course_id
        self.student_id = student_id
        self.places = self.taken = self.courses = 0

    def consistency_boundary(self) -> list[Selector]:
        return [
            Selector(types=[CourseDefined, StudentEnrolled], tags=[self.course_id]),
            Selector(types=[StudentEnrolled], tags=[self.student_id]),
        ]

    @event(CourseDefined)
    def _(self, places: int) -> None:
        self.places = places

    @event(StudentEnrolled)
    def _(self, course_id: str, student_id: str) -> None:
        self.taken += course_id == self.course_id
        self.courses += student_id == self.student_id

    def execute(self) -> None:
        if self.taken >= self.places:
            raise ValueError(f"{self.course_id} is full")
        if self.courses >= COURSES_A_STUDENT:
            raise ValueError(f"{self.student_id} has enough courses")
        tags = [self.course_id, self.student_id]
        self.trigger_event(StudentEnrolled, tags=tags, course_id=self.course_id, student_id=self.student_id)


def enrol(server: str, count: int, clients: int) -> Outcome:
    """See `bank.enrol`."""
    env = _on_postgresql(empty_database(server), min(CONNECTIONS, clients))
    env["PERSISTENCE_MODULE"] = "eventsourcing.dcb.postgres_tt"
    env["MAPPER_TOPIC"] = "eventsourcing.dcb.msgpack:MessagePackMapper"
    courses, pairs = courses_of(count)
    app = DCBApplication(env=env)
    try:
        _connect(app.recorder)
        for number in range(courses):
            app.do(Define(f"c{number}"))

        def enrolled(pair: tuple[str, str]) -> None:
            while True:
                try:
                    app.do(Enrol(*pair))
                except IntegrityError:
                    continue
                return

        seconds = _all_at_once(enrolled, pairs, clients)
        stored = app.events.read([Selector(types=[StudentEnrolled])])
        found = {(one.decision.course_id, one.decision.student_id) for one in stored}
        return Outcome(count / seconds, f"{len(found)} enrolments in {len({course for course, _ in found})} courses")
    finally:
        app.close()
