"""A program for tests of several processes on one log: `python -m tests.consumers.program work URL` runs its consumers.

A pulse with a number below 0 takes its time: "began", its clock and its number are said when a handler has it. Its events are
its own: what other tests derive from theirs is not known to these processes, which would stand by.
"""

from __future__ import annotations

import asyncio
import sys

from ensue import App, Event, Transaction

__all__ = ["EMIT_ONE", "Pulse", "application"]

EMIT_ONE = ("ring", "echo")
SLOW_SECONDS = 2.0


class Pulse(Event, key="clock_id"):
    clock_id: str
    number: int


class Echo(Event, key="clock_id"):
    clock_id: str
    number: int


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def application(url: str) -> App:
    app = App("clocks", url=url)

    @app.on
    async def ring(event: Pulse) -> Echo:
        if event.number < 0:
            say(f"began {event.clock_id} {event.number}")
            await asyncio.sleep(SLOW_SECONDS)
        return Echo(clock_id=event.clock_id, number=event.number)

    @app.on(pure=True)
    def echo(event: Pulse) -> Echo:
        return Echo(clock_id=f"echo of {event.clock_id}", number=event.number)

    @app.on
    def note(event: Pulse, tx: Transaction) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS noted (clock_id TEXT, number INTEGER)")
        tx.execute("INSERT INTO noted VALUES (?, ?)", event.clock_id, event.number)

    return app


def main() -> None:
    app = application(sys.argv[2])
    asyncio.run(app.serve(ready=lambda: say("ready")))
    say("stopped")


if __name__ == "__main__":
    main()
