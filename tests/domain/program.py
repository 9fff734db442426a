"""A program for tests of real processes that decide at the same time: `python -m tests.domain.program ACT URL`.

It says `ready`, waits for a line, and then `enrol`s a crowd of students in a course, or `pay`s in many small amounts, each under
a key of its own.
"""

from __future__ import annotations

import asyncio
import sys

from tests.domain.school import Enrol, Full, Subscribe, Withdraw, application

__all__ = ["COURSES", "PAYMENTS", "STUDENTS"]

COURSES, STUDENTS, PAYMENTS = 6, 12, 150


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def enrol(url: str, who: str, command: type[Enrol] | type[Subscribe]) -> None:
    async with application(url).connected() as app:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)

        async def one(course: int, student: int) -> bool:
            try:
                await app.send(command(course_id=f"c{course}", student_id=f"s{student}"))
            except Full:
                return False
            return True

        granted = await asyncio.gather(
            *(one(course, student) for student in range(STUDENTS) for course in range(COURSES))
        )
        say(f"granted {sum(granted)} to {who}")


async def pay(url: str) -> None:
    async with application(url).connected() as app:
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(PAYMENTS):
            receipt = await app.send(Withdraw(account_id="a", amount=1), idempotency_key=f"payment {number}")
            say(f"paid {number} {receipt.position.last} {'again' if receipt.replayed else 'now'}")
        say("done")


if __name__ == "__main__":
    act, url, *who = sys.argv[1:]
    if act == "pay":
        asyncio.run(pay(url))
    else:
        asyncio.run(enrol(url, who[0], Subscribe if act == "subscribe" else Enrol))
