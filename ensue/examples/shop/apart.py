"""Running the shop taken apart: a process for each service, started again when it dies, and the books over all their logs.

As a program it is one of these processes: `python -m ensue.examples.shop.apart payment` says `ready` when it runs, and stops as on
SIGTERM when its input ends, which is also when whoever started it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ensue import App
from ensue.errors import EnsueError
from ensue.events.message import Event
from ensue.events.recorded import Recorded
from ensue.examples.shop.audit import Audit
from ensue.examples.shop.events import (
    CustomerNotified,
    GoodsOrdered,
    GoodsReturned,
    LineRejected,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentProcessed,
    PaymentRefunded,
    StockUpdated,
)
from ensue.examples.shop.meter import Meter, quantile_of
from ensue.examples.shop.services import LINKS, SERVICES, service
from ensue.world import World

__all__ = ["Apart", "ServiceFailed", "State"]

_EVENTS = (
    *(CustomerNotified, GoodsOrdered, GoodsReturned, LineRejected, OrderCancelled, OrderPlaced, OrderShipped),
    *(PaymentProcessed, PaymentRefunded, StockUpdated),
)
START_SECONDS = 120.0
"""How long a service may take to start, its wait for a broker that is not there yet included."""
RESTART_SECONDS = 0.2
STOP_SECONDS = 30.0
READY = "ready"


class ServiceFailed(Exception):
    """A service ended by itself before it ever ran."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How one service stands."""

    events: int
    received: int
    """Of its events, those that came by a channel."""
    to_do: int
    starts: int
    dead_letters: int


class _Process:
    """One service: its process, started again when it ends."""

    def __init__(self, name: str, folder: Path, url: str, channels: str, world: World) -> None:
        self.name = name
        self.starts = 0
        self.ready = 0
        self.log = folder / f"{name}.log"
        self._environment = os.environ | {"ENSUE_URL": url, "ENSUE_CHANNELS": channels}
        self._world = world
        self._ready = asyncio.Event()
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it runs. Errors: `ServiceFailed`, with its last words."""
        self._task = self._world.spawn(self._keep(), name=f"service {self.name}")
        ready = self._world.spawn(self._ready.wait(), name=f"service {self.name} is ready")
        await asyncio.wait({self._task, ready}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.is_set():
            ready.cancel()
            if self._task.done():
                self._task.result()
            raise ServiceFailed(f"the service {self.name} was not ready in {START_SECONDS:.0f} s; see {self.log}")

    async def _keep(self) -> None:
        while not self._stopping:
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "ensue.examples.shop.apart",
                    self.name,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
            self.starts += 1
            if self._stopping:
                self._kill()
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                if line.decode().strip() == READY:
                    self.ready += 1
                    self._ready.set()
            code = await self._process.wait()
            if self._stopping:
                return
            if code > 0 and not self._ready.is_set():
                words = self.log.read_text(errors="replace").strip().splitlines()
                raise ServiceFailed(f"the service {self.name} ended with code {code}: {words[-1] if words else ''}")
            await self._world.sleep(RESTART_SECONDS)

    async def stop(self) -> None:
        """Drain and end it; kill it where it has not begun to run, which loses nothing."""
        self._stopping = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            if not self._ready.is_set():
                self._kill()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_SECONDS)
            if not self._task.done():
                self._kill()
            await asyncio.gather(self._task, return_exceptions=True)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None


class _Log:
    """The log of one service, as whoever keeps the books sees it."""

    def __init__(self, app: App, world: World) -> None:
        self.app = app
        self.meter = Meter(world)
        self.lag: Mapping[str, int] = {}
        self.made: Counter[type] = Counter()
        self.received: Counter[type] = Counter()
        self.letters = 0
        self._place = 0

    async def look(self, enter: Callable[[Recorded[Event]], None]) -> None:
        """Read what is new; `enter` what this service itself has made."""
        self.lag = (await self.meter.look(self.app.open_store())).lag
        async for recorded in self.app.log.read(*_EVENTS, after=self._place):
            self._place = recorded.position.last
            if recorded.meta.origin is None:
                self.made[type(recorded.event)] += 1
                enter(recorded)
            else:
                self.received[type(recorded.event)] += 1
        self.letters = len([letter async for letter in self.app.dead_letters.list()])


class Apart:
    """All five, with `async with`: they run when the block begins, and are drained when it ends. Their logs are files in
    `folder`; `channels` is the URL that joins them."""

    def __init__(self, folder: Path, channels: str, world: World) -> None:
        self.books = Audit()
        self._world = world
        self._processes: dict[str, _Process] = {}
        self._logs: dict[str, _Log] = {}
        self._placed: dict[str, int] = {}
        self._latencies: list[float] = []
        for name in SERVICES:
            url = f"sqlite:////{str((folder / f'{name}.db').resolve()).lstrip('/')}"
            self._processes[name] = _Process(name, folder, url, channels, world)
            self._logs[name] = _Log(service(name, url), world)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Apart:
        try:
            for process in self._processes.values():
                self._stack.push_async_callback(process.stop)
            # All of them receive before anything is sent: some brokers keep nothing for who is not known yet.
            await _together(process.start() for process in self._processes.values())
            for log in self._logs.values():
                await self._stack.enter_async_context(log.app.connected())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def front(self) -> App:
        """Where orders are placed."""
        return self._logs["orders"].app

    def pids(self) -> dict[str, int]:
        """The processes as they are now."""
        return {name: process.pid for name, process in self._processes.items() if process.pid is not None}

    def starts(self) -> dict[str, int]:
        """How often each was started and said that it runs."""
        return {name: process.ready for name, process in self._processes.items()}

    async def look(self) -> dict[str, State]:
        """How the services stand. One call at a time."""
        for name in SERVICES:
            await self._logs[name].look(self._enter)
        return {
            name: State(
                events=sum(log.made.values()) + sum(log.received.values()),
                received=sum(log.received.values()),
                to_do=sum(log.lag.values()),
                starts=self._processes[name].starts,
                dead_letters=log.letters,
            )
            for name, log in self._logs.items()
        }

    @property
    def quiet(self) -> bool:
        """At the last look: every service had done what it had, and had got what the others had sent it."""
        for (sender, receiver), types in LINKS.items():
            for kind in types:
                if self._logs[sender].made[kind] != self._logs[receiver].received[kind]:
                    return False
        return all(log.meter.quiet for log in self._logs.values())

    def latency(self, quantile: float) -> float:
        """From an order in the first log to the news for its customer in the last, in milliseconds."""
        return quantile_of(sorted(self._latencies), quantile)

    def shelf_agrees(self) -> bool:
        """The rows that the inventory decides by are what its log says."""
        stock = self.books.stock
        return not stock or dict(self._logs["inventory"].app.sql("SELECT sku, on_hand FROM shop_stock")) == stock

    def _enter(self, recorded: Recorded[Event]) -> None:
        event = recorded.event
        self.books.add(event)
        if isinstance(event, OrderPlaced | OrderCancelled):
            self._placed[event.order_id] = recorded.row[5]
        elif isinstance(event, CustomerNotified) and event.order_id in self._placed:
            self._latencies.append(max(0, recorded.row[5] - self._placed.pop(event.order_id)) / 1000)


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    ends = await asyncio.gather(*work, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end


def _main(name: str) -> int:
    """One service, until SIGTERM or the end of its input."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    app = service(name)

    def ready() -> None:
        asyncio.get_running_loop().add_reader(0, input_ended)
        print(READY, flush=True)

    def input_ended() -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            signal.raise_signal(signal.SIGTERM)

    try:
        asyncio.run(app.serve(ready=ready))
    except EnsueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
