"""Accounts and enrolments, as our side decides about them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Self

from bench.measure import Outcome
from bench.ours import Place
from ensue import App, Command, Event, Refusal, State

__all__ = [
    "ACCOUNT_EVENTS",
    "COURSE_PLACES",
    "Account",
    "application",
    "contents_of_accounts",
    "contents_of_courses",
    "courses_of",
    "decide",
    "decide_hot",
    "enrol",
    "load",
]

ACCOUNT_EVENTS = 10
COURSE_PLACES = 10


class Deposited(Event, key="account_id"):
    account_id: str
    amount: int


class Withdrawn(Event, key="account_id"):
    account_id: str
    amount: int


class Overdrawn(Refusal):
    available: int


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: int


class Account(State, key="account_id"):
    balance: int = 0
    movements: int = 0

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        self.movements += 1
        return self


class CourseDefined(Event, key="course_id"):
    course_id: str
    places: int


class StudentEnrolled(Event, key="course_id", tags=("student_id",)):
    course_id: str
    student_id: str


class Full(Refusal):
    course_id: str


class TooMany(Refusal):
    student_id: str


class Enrol(Command[StudentEnrolled]):
    course_id: str
    student_id: str


class Course(State, key="course_id"):
    places: int = 0
    taken: int = 0

    def evolve(self, event: CourseDefined | StudentEnrolled) -> Self:
        if isinstance(event, CourseDefined):
            self.places = event.places
        else:
            self.taken += 1
        return self


class Student(State, key="student_id"):
    courses: int = 0

    def evolve(self, event: StudentEnrolled) -> Self:
        self.courses += 1
        return self


COURSES_A_STUDENT = 3


def application(url: str) -> App:
    app = App("bench", url=url)

    @app.command
    def withdraw(command: Withdraw, account: Account) -> Withdrawn:
        if command.amount > account.balance:
            raise Overdrawn(available=account.balance)
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    @app.command
    def enrol(command: Enrol, course: Course, student: Student) -> StudentEnrolled:
        if course.taken >= course.places:
            raise Full(course_id=command.course_id)
        if student.courses >= COURSES_A_STUDENT:
            raise TooMany(student_id=command.student_id)
        return StudentEnrolled(course_id=command.course_id, student_id=command.student_id)

    return app


async def _filled(url: str, accounts: int, events: int, amount: int = 10) -> None:
    async with application(url).connected() as app:
        for number in range(accounts):
            for start in range(0, events, 1_000):
                size = min(1_000, events - start)
                await app.publish(*(Deposited(account_id=f"a{number}", amount=amount) for _ in range(size)))


async def _all_at_once(app: App, commands: Sequence[Command[Any]], clients: int) -> float:
    """Clients that each send one command after another; the seconds it took."""

    async def client(share: Sequence[Command[Any]]) -> None:
        for command in share:
            await app.send(command)

    began = time.perf_counter()
    await asyncio.gather(*(client(commands[number::clients]) for number in range(clients)))
    return time.perf_counter() - began


async def contents_of_accounts(app: App) -> str:
    """How many events, and what is left."""
    events = left = 0
    async for recorded in app.log.read(Deposited):
        events += 1
        left += recorded.event.amount
    async for taken in app.log.read(Withdrawn):
        events += 1
        left -= taken.event.amount
    return f"{events} events, {left} left"


def decide(place: Place, count: int, clients: int, *, remembered: bool = False) -> Outcome:
    """Each decision is about another account: of ten events, loaded from the log, or as this process remembers it."""

    async def run() -> Outcome:
        with place() as url:
            await _filled(url, count, ACCOUNT_EVENTS)
            async with application(url).connected() as app:
                commands = [Withdraw(account_id=f"a{number}", amount=1) for number in range(count)]
                if remembered:
                    await _all_at_once(app, commands, clients)
                seconds = await _all_at_once(app, commands, clients)
                return Outcome(count / seconds, await contents_of_accounts(app))

    return asyncio.run(run())


def decide_hot(place: Place, count: int, clients: int) -> Outcome:
    """All decisions are about one account."""

    async def run() -> Outcome:
        with place() as url:
            await _filled(url, 1, ACCOUNT_EVENTS, count)
            async with application(url).connected() as app:
                commands = [Withdraw(account_id="a0", amount=1)] * count
                seconds = await _all_at_once(app, commands, clients)
                return Outcome(count / seconds, await contents_of_accounts(app))

    return asyncio.run(run())


def courses_of(count: int) -> tuple[int, list[tuple[str, str]]]:
    """How many courses there are, and who enrols where: each course is filled to its last place, no student takes too many."""
    courses = count // COURSE_PLACES
    pairs = [(f"c{number % courses}", f"s{number // COURSES_A_STUDENT}") for number in range(count)]
    return courses, pairs


async def contents_of_courses(app: App) -> str:
    pairs = {(one.event.course_id, one.event.student_id) async for one in app.log.read(StudentEnrolled)}
    return f"{len(pairs)} enrolments in {len({course for course, _ in pairs})} courses"


def enrol(place: Place, count: int, clients: int) -> Outcome:
    """Students enrol: a decision over a course and a student, both as they are in the log."""

    async def run() -> Outcome:
        with place() as url:
            courses, pairs = courses_of(count)
            async with application(url).connected() as app:
                await app.publish(*(CourseDefined(course_id=f"c{at}", places=COURSE_PLACES) for at in range(courses)))
            async with application(url).connected() as app:
                commands = [Enrol(course_id=course, student_id=student) for course, student in pairs]
                seconds = await _all_at_once(app, commands, clients)
                return Outcome(count / seconds, await contents_of_courses(app))

    return asyncio.run(run())


async def load(url: str, events: int, rounds: int) -> tuple[float, float]:
    """Seconds to load an account of so many events, with its snapshot and without, each by a process that remembers nothing."""
    await _filled(url, 1, events)
    async with application(url).connected() as app:
        await app.state(Account, "a0")
        snapshots = app._open_engine().domain.snapshots
        assert snapshots is not None
        await snapshots.settle()
        states = app._open_engine().domain.states
        with_it = without = 0.0
        for number in range(rounds + 1):
            if number == 1:
                with_it = without = 0.0  # the first of each prepares its statements
            states.memory.clear()
            with_it += await _timed(app, events)
            kept, states._snapshots = states._snapshots, None
            states.memory.clear()
            without += await _timed(app, events)
            states._snapshots = kept
        return with_it / rounds, without / rounds


async def _timed(app: App, events: int) -> float:
    began = time.perf_counter()
    account = await app.state(Account, "a0")
    seconds = time.perf_counter() - began
    assert account.movements == events
    return seconds
