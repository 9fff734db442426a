"""What the school decides, everywhere it can run, and what holds of it whatever is sent."""

from __future__ import annotations

import asyncio

import pytest

from ensue import Event
from ensue.examples.enrolment import school
from ensue.examples.enrolment.school import (
    MOST_COURSES,
    AlreadyEnrolled,
    Course,
    CourseFull,
    CourseList,
    CourseOpened,
    Enrol,
    Enrolled,
    Leave,
    Left,
    NoSuchCourse,
    NotEnrolled,
    OpenCourse,
    OpenedAlready,
    Student,
    TooManyCourses,
)
from ensue.testing import AppSimulation, given, simulate
from ensue.testing.places import VARIABLE
from ensue.testing.properties import check_decisions


@pytest.fixture(params=["pure", "memory", "simulated"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, request.param)


everywhere = pytest.mark.usefixtures("place")


def opened(course: str = "c", places: int = 2) -> CourseOpened:
    return CourseOpened(course_id=course, places=places)


def enrolled(student: str, course: str = "c") -> Enrolled:
    return Enrolled(course_id=course, student_id=student)


join = Enrol(course_id="c", student_id="ann")


@everywhere
def test_a_course_takes_as_many_as_it_has_places() -> None:
    given(school(), opened(), enrolled("bob")).when(join).then(enrolled("ann"))
    given(school(), opened(), enrolled("bob"), enrolled("eve")).when(join).then_refused(CourseFull, places=2)
    left = Left(course_id="c", student_id="bob")
    given(school(), opened(), enrolled("bob"), enrolled("eve"), left).when(join).then(enrolled("ann"))


@everywhere
def test_a_student_takes_so_many_courses_and_each_once() -> None:
    busy: list[Event] = [enrolled("ann", f"c{number}") for number in range(MOST_COURSES)]
    given(school(), opened(), *busy).when(join).then_refused(TooManyCourses, most=MOST_COURSES)
    given(school(), opened(), *busy[1:]).when(join).then(enrolled("ann"))
    given(school(), opened(), enrolled("ann")).when(join).then_refused(AlreadyEnrolled)


@everywhere
def test_what_is_not_there_is_refused() -> None:
    given(school()).when(join).then_refused(NoSuchCourse, course_id="c")
    given(school(), opened()).when(Leave(course_id="c", student_id="ann")).then_refused(NotEnrolled)
    given(school(), opened()).when(OpenCourse(course_id="c", places=9)).then_refused(OpenedAlready)
    given(school()).when(OpenCourse(course_id="c", places=9)).then(opened(places=9))


@everywhere
def test_the_list_of_courses_says_what_is_taken() -> None:
    given(school(), opened(), enrolled("bob")).then_row(CourseList(course_id="c", places=2, taken=1))


def within_its_places(course: Course) -> None:
    assert course.taken >= 0
    assert not course.places or course.taken <= course.places


def within_the_limit(student: Student) -> None:
    assert len(student.courses) <= MOST_COURSES


def test_whatever_is_sent_both_limits_hold() -> None:
    check_decisions(school(), within_its_places, within_the_limit)


@simulate(school(), crashes="none", runs=25)
async def test_of_many_at_once_as_many_get_in_as_there_are_places(sim: AppSimulation) -> None:
    other = sim.start_another()
    await sim.app.send(OpenCourse(course_id="c", places=3))

    async def enrol(number: int) -> bool:
        app = (sim.app, other.app)[number % 2]
        try:
            await app.send(Enrol(course_id="c", student_id=f"s{number}"))
        except CourseFull:
            return False
        return True

    tasks = [sim.world.spawn(enrol(number), name=f"student {number}") for number in range(8)]
    granted = await asyncio.gather(*tasks)
    assert sum(granted) == 3
    assert len(await sim.events(Enrolled)) == 3
