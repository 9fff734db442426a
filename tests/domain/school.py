"""A school, as tests decide about it: accounts, which are streams, and enrolments, which look at a course and a student at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

from ensue import App, Command, Criteria, Decided, Decider, Event, Of, Refusal, Service, State

__all__ = [
    "Account",
    "Balance",
    "Course",
    "CourseDefined",
    "Deposit",
    "Deposited",
    "Enrol",
    "Full",
    "Overdrawn",
    "Places",
    "Student",
    "StudentEnrolled",
    "Subscribe",
    "Transfer",
    "Withdraw",
    "Withdrawn",
    "application",
    "enrolment",
    "school",
]


class Deposited(Event, key="account_id"):
    account_id: str
    amount: int


class Withdrawn(Event, key="account_id"):
    account_id: str
    amount: int


class Overdrawn(Refusal):
    available: int


class Deposit(Command[Deposited]):
    account_id: str
    amount: int


class Withdraw(Command[Withdrawn]):
    account_id: str
    amount: int


class Transfer(Command[list[Event]]):
    source: str
    target: str
    amount: int


class Balance(Command[int]):
    account_id: str
    amount: int


class Account(State, key="account_id"):
    balance: int = 0
    events: int = 0

    def evolve(self, event: Deposited | Withdrawn) -> Self:
        self.balance += event.amount if isinstance(event, Deposited) else -event.amount
        self.events += 1
        return self


class CourseDefined(Event, key="course_id"):
    course_id: str
    places: int


class StudentEnrolled(Event, key={"enrolment_id": "enrolment"}, tags=("course_id", "student_id")):
    enrolment_id: str
    course_id: str
    student_id: str


class Full(Refusal):
    of: str


class Enrol(Command[StudentEnrolled]):
    course_id: str
    student_id: str


class Subscribe(Command[StudentEnrolled]):
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
    courses: list[str] = []  # noqa: RUF012

    def evolve(self, event: StudentEnrolled) -> Self:
        self.courses.append(event.course_id)
        return self


COURSES_A_STUDENT = 3

school = Service("school")


@school.command
def deposit(command: Deposit) -> Deposited:
    return Deposited(account_id=command.account_id, amount=command.amount)


@school.command
def withdraw(command: Withdraw, account: Account) -> Withdrawn:
    if command.amount > account.balance:
        raise Overdrawn(available=account.balance)
    return Withdrawn(account_id=command.account_id, amount=command.amount)


@school.command
def transfer(
    command: Transfer, source: Annotated[Account, Of("source")], target: Annotated[Account, Of("target")]
) -> list[Event]:
    if command.amount > source.balance:
        raise Overdrawn(available=source.balance)
    return [
        Withdrawn(account_id=command.source, amount=command.amount),
        Deposited(account_id=command.target, amount=command.amount),
    ]


@school.command
def balance(command: Balance, account: Account) -> Decided[int]:
    if not command.amount:
        return Decided([], result=account.balance)
    paid = Deposited(account_id=command.account_id, amount=command.amount)
    return Decided(paid, result=account.balance + command.amount)


@school.command
def enrol(command: Enrol, course: Course, student: Student) -> StudentEnrolled:
    if course.taken >= course.places:
        raise Full(of="course")
    if len(student.courses) >= COURSES_A_STUDENT:
        raise Full(of="student")
    return _enrolled(command)


def _enrolled(command: Enrol | Subscribe) -> StudentEnrolled:
    id = f"{command.course_id}-{command.student_id}"
    return StudentEnrolled(enrolment_id=id, course_id=command.course_id, student_id=command.student_id)


@dataclass(frozen=True)
class Places:
    """One state over both limits: it sees events of the course, and events of the student."""

    course_id: str = ""
    places: int = 0
    enrolled: tuple[tuple[str, str], ...] = ()


def evolve(places: Places, event: CourseDefined | StudentEnrolled) -> Places:
    if isinstance(event, CourseDefined):
        return replace(places, places=event.places)
    return replace(places, enrolled=(*places.enrolled, (event.course_id, event.student_id)))


def decide(places: Places, command: Subscribe) -> Sequence[StudentEnrolled]:
    if sum(course == command.course_id for course, _ in places.enrolled) >= places.places:
        raise Full(of="course")
    if sum(student == command.student_id for _, student in places.enrolled) >= COURSES_A_STUDENT:
        raise Full(of="student")
    return [_enrolled(command)]


def criteria(command: Subscribe) -> Criteria:
    return Criteria(course_id=command.course_id) | Criteria(StudentEnrolled, student_id=command.student_id)


enrolment = Decider(criteria=criteria, initial=Places, evolve=evolve, decide=decide)
school.include(enrolment)


def application(url: str) -> App:
    """The school on this log."""
    app = App("school", url=url)
    app.include(school)
    return app
