"""Courses and students. What a decision looked at, a course and a student, is what must not have changed when it is stored."""

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

import msgspec

from ensue import App, Command, Event, Refusal, Service, State, View

__all__ = [
    "MOST_COURSES",
    "AlreadyEnrolled",
    "Course",
    "CourseFull",
    "CourseList",
    "CourseOpened",
    "Enrol",
    "Enrolled",
    "Leave",
    "Left",
    "NoSuchCourse",
    "NotEnrolled",
    "OpenCourse",
    "OpenedAlready",
    "Student",
    "TooManyCourses",
    "enrol",
    "enrolment",
    "leave",
    "open_course",
    "school",
]

MOST_COURSES = 5
"""For a student."""

Id: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Places: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class CourseOpened(Event, key="course_id"):
    course_id: Id
    places: Places


class Enrolled(Event, key="course_id", tags=("student_id",)):
    course_id: Id
    student_id: Id


class Left(Event, key="course_id", tags=("student_id",)):
    course_id: Id
    student_id: Id


class OpenCourse(Command[CourseOpened]):
    course_id: Id
    places: Places


class Enrol(Command[Enrolled]):
    course_id: Id
    student_id: Id


class Leave(Command[Left]):
    course_id: Id
    student_id: Id


class OpenedAlready(Refusal):
    course_id: str


class NoSuchCourse(Refusal):
    course_id: str


class CourseFull(Refusal):
    places: int


class TooManyCourses(Refusal):
    most: int


class AlreadyEnrolled(Refusal): ...


class NotEnrolled(Refusal): ...


class Course(State, key="course_id"):
    places: int = 0
    taken: int = 0

    def evolve(self, event: CourseOpened | Enrolled | Left) -> Self:
        match event:
            case CourseOpened():
                self.places = event.places
            case Enrolled():
                self.taken += 1
            case Left():
                self.taken -= 1
        return self


class Student(State, key="student_id"):
    courses: set[str] = msgspec.field(default_factory=set[str])

    def evolve(self, event: Enrolled | Left) -> Self:
        if isinstance(event, Enrolled):
            self.courses.add(event.course_id)
        else:
            self.courses.discard(event.course_id)
        return self


enrolment = Service("enrolment")


@enrolment.command
def open_course(command: OpenCourse, course: Course) -> CourseOpened:
    if course.places:
        raise OpenedAlready(course_id=command.course_id)
    return CourseOpened(course_id=command.course_id, places=command.places)


@enrolment.command
def enrol(command: Enrol, course: Course, student: Student) -> Enrolled:
    if not course.places:
        raise NoSuchCourse(course_id=command.course_id)
    if command.course_id in student.courses:
        raise AlreadyEnrolled
    if course.taken >= course.places:
        raise CourseFull(places=course.places)
    if len(student.courses) >= MOST_COURSES:
        raise TooManyCourses(most=MOST_COURSES)
    return Enrolled(course_id=command.course_id, student_id=command.student_id)


@enrolment.command
def leave(command: Leave, student: Student) -> Left:
    if command.course_id not in student.courses:
        raise NotEnrolled
    return Left(course_id=command.course_id, student_id=command.student_id)


@enrolment.view
class CourseList(View, key="course_id", table="course_list"):
    """What the school shows: how many places each course has, and how many are taken."""

    course_id: str
    places: int = 0
    taken: int = 0

    def evolve(self, event: CourseOpened | Enrolled | Left) -> Self:
        match event:
            case CourseOpened():
                self.places = event.places
            case Enrolled():
                self.taken += 1
            case Left():
                self.taken -= 1
        return self


def school(url: str | None = None) -> App:
    """The school on the log at `url`."""
    app = App("school", url=url)
    app.include(enrolment)
    return app
