"""One run of the school: students in processes that are killed, a second count looking on, and all that is checked afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from ensue import App, Recorded
from ensue.errors import Refusal
from ensue.examples.crowd import GRANTED, Crowd, Looking, Settings, on_a_log
from ensue.examples.enrolment.clients import COURSES, PLACES, STUDENTS, course_name, opening, student_name
from ensue.examples.enrolment.school import (
    MOST_COURSES,
    CourseFull,
    CourseList,
    CourseOpened,
    Enrol,
    Enrolled,
    Left,
    school,
)
from ensue.world import World

__all__ = ["Register", "Report", "run"]

MODULE = "ensue.examples.enrolment.clients"
PATIENCE = timedelta(seconds=60)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. `problems` says in words what did not hold, and is empty."""

    seconds: float
    clients: int
    processes: int
    kills: int
    commands_answered: int
    commands_per_second: float
    refused: dict[str, int]
    enrolments: int
    departures: int
    courses_full: int
    most_courses_of_a_student: int
    events_in_log: int
    rows_compared: int
    problems: list[str]


class Register:
    """A second count of the log, by other means: who is where. `problems` are told in words, and are none."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.students: dict[str, set[str]] = {}
        """Course → who is in it."""
        self.courses: Counter[str] = Counter()
        """Student → in how many."""
        self.enrolments = 0
        self.departures = 0
        self.position = 0
        self._places: dict[str, int] = {}

    async def read(self, app: App) -> None:
        """Count what is new. Errors: those of the store."""
        async for recorded in app.log.read(after=self.position):
            self.add(recorded)

    def add(self, recorded: Recorded[Any]) -> None:
        """Count one event."""
        event, self.position = recorded.event, recorded.position.last
        if isinstance(event, CourseOpened):
            self._places[event.course_id] = event.places
            self.students[event.course_id] = set()
        elif isinstance(event, Enrolled):
            inside = self.students[event.course_id]
            if event.student_id in inside:
                self._tell(f"{event.student_id} is in {event.course_id} already")
            inside.add(event.student_id)
            self.courses[event.student_id] += 1
            self.enrolments += 1
            if len(inside) > self._places[event.course_id]:
                self._tell(f"{event.course_id} has {len(inside)} students and {self._places[event.course_id]} places")
            if self.courses[event.student_id] > MOST_COURSES:
                self._tell(f"{event.student_id} is in {self.courses[event.student_id]} courses")
        elif isinstance(event, Left):
            if event.student_id not in self.students[event.course_id]:
                self._tell(f"{event.student_id} left {event.course_id} without being in it")
            self.students[event.course_id].discard(event.student_id)
            self.courses[event.student_id] -= 1
            self.departures += 1

    def _tell(self, what: str) -> None:
        self.problems.append(f"at position {self.position}: {what}")


async def run(settings: Settings, world: World, *, stop: asyncio.Event, show: Callable[[Looking], None]) -> Report:
    """Open the courses, let students do what they do for so long or until `stop`, let the courses fill, and check. Errors: those
    of the store."""
    app, register = school(settings.url), Register()
    async with app:
        settings = on_a_log(settings, app.open_store().head())
        for command in opening():
            await app.send(command, idempotency_key=f"open-{command.course_id}")
        await register.read(app)
        before = register.enrolments + register.departures

        async def count() -> tuple[str, int]:
            await register.read(app)
            inside = sum(map(len, register.students.values()))
            return f"{inside} of {COURSES * PLACES} places taken", len(register.problems)

        began = world.monotonic()
        async with Crowd(MODULE, settings, world) as crowd:
            await crowd.look_on(stop, show, count)
        seconds = world.monotonic() - began
        await register.read(app)
        problems = _compare_answers(crowd, register, before)
        problems += await _fill(app)
        await register.read(app)
        full = sum(len(students) == PLACES for students in register.students.values())
        if full != COURSES:
            problems.append(f"{full} of {COURSES} courses are full, though more students asked than there are places")
        problems += register.problems + await _compare_rows(app, register)
    return Report(
        seconds=round(seconds, 3),
        clients=settings.clients,
        processes=settings.processes,
        kills=crowd.kills,
        commands_answered=len(crowd.answers),
        commands_per_second=round(len(crowd.answers) / seconds, 1),
        refused=crowd.refused,
        enrolments=register.enrolments,
        departures=register.departures,
        courses_full=full,
        most_courses_of_a_student=max(register.courses.values(), default=0),
        events_in_log=register.position,
        rows_compared=len(register.students),
        problems=problems,
    )


def _compare_answers(crowd: Crowd, register: Register, before: int) -> list[str]:
    """Each act that was granted is in the log once, and nothing else: clients ask again until they hear an answer."""
    granted, found = crowd.outcomes[GRANTED], register.enrolments + register.departures - before
    problems = [f"act {number} of client {client} was answered in two ways" for client, number in crowd.differing]
    if granted != found and not crowd.differing:
        problems.append(f"{granted} acts were granted, and the log has {found} events more than before")
    return problems


async def _fill(app: App) -> list[str]:
    """Ask for each place that is left, until each course says that it is full."""
    problems: list[str] = []
    for course in map(course_name, range(COURSES)):
        for student in map(student_name, range(STUDENTS)):
            try:
                await app.send(Enrol(course_id=course, student_id=student))
            except CourseFull:
                break
            except Refusal:
                continue
        else:
            problems.append(f"{course} has never said that it is full")
    return problems


async def _compare_rows(app: App, register: Register) -> list[str]:
    """The list that is shown is what was counted."""
    position, problems = (await app.publish()).position, list[str]()
    for course, students in register.students.items():
        row = await app.get(CourseList, course, after=position, timeout=PATIENCE)
        if row is None or (row.places, row.taken) != (PLACES, len(students)):
            problems.append(f"the row of {course} is {row}, and {len(students)} are in it")
    return problems
