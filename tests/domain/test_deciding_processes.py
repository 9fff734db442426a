"""Several processes that decide about the same things, and one that is killed while it does."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.app.processes import Program
from tests.domain.program import COURSES, PAYMENTS
from tests.domain.school import COURSES_A_STUDENT, CourseDefined, Deposited, StudentEnrolled, Withdrawn, application

PROCESSES, PLACES = 3, 5


class Decider(Program):
    module = "tests.domain.program"


@pytest.mark.slow
@pytest.mark.parametrize("act", ["enrol", "subscribe"])
def test_no_limit_is_passed_by_processes_that_decide_at_once(shared_url: str, act: str) -> None:
    async def prepare() -> None:
        async with application(shared_url).connected() as app:
            await app.publish(*(CourseDefined(course_id=f"c{number}", places=PLACES) for number in range(COURSES)))

    async def enrolled() -> list[StudentEnrolled]:
        async with application(shared_url).connected() as app:
            return [one.event async for one in app.log.read(StudentEnrolled)]

    asyncio.run(prepare())
    with ExitStack() as stack:
        crowd = [stack.enter_context(Decider(act, shared_url, f"p{number}")) for number in range(PROCESSES)]
        for one in crowd:
            one.until("ready")
        for one in crowd:
            one.tell("go")
        granted = sum(int(one.until("granted")[-1].split()[1]) for one in crowd)
    events = asyncio.run(enrolled())
    assert granted == len(events)
    courses, students = Counter(one.course_id for one in events), Counter(one.student_id for one in events)
    assert max(courses.values()) <= PLACES
    assert max(students.values()) <= COURSES_A_STUDENT
    assert len(events) == COURSES * PLACES


@pytest.mark.slow
def test_what_a_killed_process_was_answered_is_answered_again_and_nothing_is_decided_twice(shared_url: str) -> None:
    async def prepare() -> None:
        async with application(shared_url).connected() as app:
            await app.publish(Deposited(account_id="a", amount=PAYMENTS))

    async def stored() -> list[int]:
        async with application(shared_url).connected() as app:
            return [one.position.last async for one in app.log.read(Withdrawn)]

    asyncio.run(prepare())
    answered: dict[str, str] = {}
    for lines in (7, 40, PAYMENTS):
        with Decider("pay", shared_url) as process:
            process.until("ready")
            process.tell("go")
            for _ in range(lines):
                _, number, position, _ = process.line().split()
                assert answered.setdefault(number, position) == position
            process.send(signal.SIGKILL)
    positions = asyncio.run(stored())
    assert len(positions) == PAYMENTS
    assert sorted(map(int, answered.values())) == positions
