"""An event whose handler's process dies is not given up before any of the handler's policies would give it up."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import apsw

from ensue import App, Event, Retry
from ensue.consumers.routing import segment_of
from ensue.events.stored import tag_hash
from ensue.store.base import Lane, LaneState
from ensue.store.sqlite.rows import lane_values


class Asked(Event, key="question"):
    question: str


class Answered(Event, key="question"):
    question: str


def test_many_failures_and_two_deaths_do_not_use_up_a_patient_policy(tmp_path: Path) -> None:
    """The row is that of an event which failed seven times by a policy of twenty, in a process that then died twice."""
    url = f"sqlite:///{tmp_path / 'deaths.db'}"
    key = tag_hash("question=why")

    def application() -> App:
        app = App("deaths", url=url)

        @app.on(retry={ConnectionError: Retry(attempts=20, first=timedelta(milliseconds=1))})
        async def answer(asked: Asked) -> Answered:
            return Answered(question=asked.question)

        return app

    async def prepare(app: App) -> None:
        async with app.connected():
            await app.publish(Asked(question="why"))
        connection = apsw.Connection(str(tmp_path / "deaths.db"))
        segment = segment_of(key, 16)
        lane = Lane(
            consumer=1, segment=segment, key=key, key_text="question=why", after=0, state=LaneState.RETRY, attempts=7,
            due_at=0, error="ConnectionError",
        )  # fmt: skip
        connection.execute("INSERT INTO ensue_lane VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", lane_values(lane))
        connection.execute("UPDATE ensue_progress SET unclean = 2, position = 1 WHERE segment = ?", (segment,))
        connection.close()

    async def go_on(app: App) -> list[Answered]:
        async with app:
            while not (found := [recorded.event async for recorded in app.log.read(Answered)]):
                assert not [letter async for letter in app.dead_letters.list()]
                await asyncio.sleep(0)
            return found

    asyncio.run(prepare(application()))
    assert asyncio.run(go_on(application())) == [Answered(question="why")]
