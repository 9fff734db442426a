"""Lives of the shop that may end at any moment: processes that are forked from one that has imported everything, so that
fifty of them cost what fifty forks cost. Run as a program it is that one; a life is told in lines on stdout:

    pid N          it has begun
    head N         the log is this long now
    report {…}     it has come to its end
    ended N        it is gone, with this status
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import msgspec

from ensue.examples.shop import shop
from ensue.examples.shop.meter import Meter
from ensue.examples.shop.order_file import OrderFile
from ensue.examples.shop.running import Report, Run
from ensue.world import RealWorld

__all__ = ["Nursery", "nursery"]


class Nursery:
    """See the module."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.heads: list[int] = []
        """How long the log was at the end of each life."""

    def live(self, orders: Path, database: Path, *, until: int | None) -> Report | None:
        """One life: killed when the log is as long as `until`, at once for 0. Its report, if it has come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{orders}\t{database}\n")
        self._process.stdin.flush()
        pid = head = 0
        report: Report | None = None
        for word, rest in self._lines():
            if word == "pid":
                pid = int(rest)
            elif word == "head":
                head = max(head, int(rest))
            elif word == "report":
                report = msgspec.json.decode(rest, type=Report)
            elif word == "ended":
                assert rest in ("0", str(signal.SIGKILL.value)), f"the life ended with status {rest}"
                break
            if pid and until is not None and head >= until:
                os.kill(pid, signal.SIGKILL)
                pid = 0
        self.heads.append(head)
        return report

    def _lines(self) -> Iterator[tuple[str, str]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            yield word, rest


@contextmanager
def nursery() -> Generator[Nursery, None, None]:
    """Until the block ends."""
    command = [sys.executable, "-m", "tests.examples.nursery"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


def _tell(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def _run(orders: Path, database: Path) -> None:
    world = RealWorld()
    meter = Meter(world)
    app = shop(f"sqlite:///{database}", observe=meter.observe, world=world)
    async with app:
        store = app.open_store()

        async def follow() -> None:
            head = 0
            while True:
                _tell(f"head {head}")
                head = await store.changed(head)

        following = asyncio.get_running_loop().create_task(follow())
        run = Run(app, world, meter, stop=asyncio.Event(), show=lambda figures, lines: None)
        report = await run.file(OrderFile(orders))
        following.cancel()
    _tell(f"report {msgspec.json.encode(report).decode()}")


def _main() -> None:
    logging.getLogger("ensue").addHandler(logging.NullHandler())
    for module in ("ensue.app.engine", "ensue.store.sqlite"):  # imported when a log is opened: here once for all lives
        import_module(module)
    for line in sys.stdin:
        orders, database = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            asyncio.run(_run(Path(orders), Path(database)))
            os._exit(0)
        _tell(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        _tell(f"ended {status}")


if __name__ == "__main__":
    _main()
