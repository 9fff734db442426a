"""Processes of one application that share a topic of Kafka by its group: joining while handlers work, and killed."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from ensue import Channel, connect
from ensue.world import RealWorld
from tests.app.channels import Placed
from tests.servers.guarded import ROOT
from tests.servers.kafka import KafkaAddress
from tests.servers.processes import until

KEYS, ROUNDS = 16, 12


class Plant:
    """Processes of the application, and the journal of their handlers."""

    def __init__(self, kafka: KafkaAddress, folder: Path, *, seconds: float) -> None:
        prefix = f"{RealWorld().new_id().hex()[:12]}."
        self.orders = Channel("orders", Placed, url=kafka.url(prefix=prefix, session_seconds="6", prefetch="32"))
        self._journal = folder / "journal"
        self._journal.touch()
        self._arguments = [str(self.orders.url), f"sqlite:///{folder}/plant.db", str(self._journal), str(seconds)]
        self._running: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        """Returns when it receives."""
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.channels.kafka_program", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._running.append(program)
        return program

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self._journal.read_text().splitlines()]

    def ended(self) -> set[tuple[str, str]]:
        return {(order, number) for what, order, number, _ in self.lines() if what == "end"}

    def publish(self) -> None:
        async def publish() -> None:
            async with connect(self.orders) as link:
                await link.publish(*(Placed(order=f"o{n % KEYS}", number=n // KEYS) for n in range(KEYS * ROUNDS)))

        asyncio.run(publish())

    def stop(self) -> None:
        for program in self._running:
            with contextlib.suppress(BrokenPipeError):
                program.communicate("")
            program.kill()
            program.wait()


@contextlib.contextmanager
def plant(kafka: KafkaAddress, folder: Path, *, seconds: float) -> Generator[Plant]:
    running = Plant(kafka, folder, seconds=seconds)
    try:
        yield running
    finally:
        running.stop()


@pytest.mark.slow
def test_a_process_that_joins_while_handlers_work_interrupts_none_and_keeps_the_order_of_each_key(
    kafka: KafkaAddress, tmp_path: Path
) -> None:
    with plant(kafka, tmp_path, seconds=0.2) as running:
        running.start()
        running.publish()
        until(lambda: len(running.ended()) >= KEYS, "the first process was to handle some")
        running.start()
        until(lambda: len(running.ended()) == KEYS * ROUNDS, "all were to be handled", 40)
        lines = running.lines()
    assert len({pid for *_, pid in lines}) == 2, "the second got nothing"
    of_key: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for what, order, number, pid in lines:
        of_key[order].append((what, int(number), pid))
    for steps in of_key.values():
        begun, ended = steps[::2], steps[1::2]
        assert [(number, pid) for _, number, pid in begun] == [(number, pid) for _, number, pid in ended]
        assert {what for what, *_ in begun} == {"begin"}
        assert [number for _, number, _ in begun] == list(range(ROUNDS)), "lost, repeated or out of order"


@pytest.mark.slow
def test_three_kills_in_a_row_lose_nothing(kafka: KafkaAddress, tmp_path: Path) -> None:
    with plant(kafka, tmp_path, seconds=0.05) as running:
        first = running.start()
        running.publish()
        before = 0
        for kill in range(3):
            until(lambda before=before: len(running.lines()) > before, f"something was to begin before kill {kill}")  # type: ignore[misc]
            first.kill()
            first.wait()
            before = len(running.lines())
            first = running.start()
        until(lambda: len(running.ended()) == KEYS * ROUNDS, "all were to be handled in the end", 60)
        order: dict[str, list[int]] = defaultdict(list)
        for what, key, number, _ in running.lines():
            if what == "end" and int(number) not in order[key]:
                order[key].append(int(number))
    assert all(numbers == list(range(ROUNDS)) for numbers in order.values())
