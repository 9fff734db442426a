"""What students do, for the demo: it follows from a seed, so that it can be checked afterwards."""

from __future__ import annotations

from ensue import App
from ensue.examples.chance import Chance
from ensue.examples.enrolment.school import Enrol, Leave, OpenCourse, school

__all__ = ["COURSES", "PLACES", "STUDENTS", "Students", "clients", "course_name", "opening", "student_name"]

COURSES, PLACES, STUDENTS = 20, 15, 150
"""Three hundred places, and students who would take seven hundred and fifty."""
LEAVING = 0.15


def course_name(number: int) -> str:
    return f"course-{number}"


def student_name(number: int) -> str:
    return f"student-{number}"


def opening() -> list[OpenCourse]:
    return [OpenCourse(course_id=course_name(number), places=PLACES) for number in range(COURSES)]


class Students:
    """See `Clients`."""

    def application(self, url: str) -> App:
        return school(url)

    def act(self, seed: int, client: int, number: int) -> Enrol | Leave:
        chance = Chance(seed)
        course = course_name(int(chance.of(f"{client}/{number}/course") * COURSES))
        student = student_name(int(chance.of(f"{client}/{number}/student") * STUDENTS))
        if chance.of(f"{client}/{number}/leaves") < LEAVING:
            return Leave(course_id=course, student_id=student)
        return Enrol(course_id=course, student_id=student)


clients = Students()
