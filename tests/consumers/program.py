"""A program for tests of several processes on one log: `python -m tests.consumers.program work URL` runs its consumers.

A tick with a number below 0 takes its time: "began", its clock and its number are said when a handler has it.
"""

from __future__ import annotations

import asyncio
import sys

from ensue import App, Transaction
from tests.consumers.clocks import Rang, Ticked

__all__ = ["EMIT_ONE", "application"]

EMIT_ONE = ("ring", "echo")
SLOW_SECONDS = 2.0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def application(url: str) -> App:
    app = App("clocks", url=url)

    @app.on
    async def ring(event: Ticked) -> Rang:
        if event.number < 0:
            say(f"began {event.clock_id} {event.number}")
            await asyncio.sleep(SLOW_SECONDS)
        return Rang(clock_id=event.clock_id, number=event.number)

    @app.on(pure=True)
    def echo(event: Ticked) -> Rang:
        return Rang(clock_id=f"echo of {event.clock_id}", number=event.number)

    @app.on
    def note(event: Ticked, tx: Transaction) -> None:
        tx.execute("CREATE TABLE IF NOT EXISTS noted (clock_id TEXT, number INTEGER)")
        tx.execute("INSERT INTO noted VALUES (?, ?)", event.clock_id, event.number)

    return app


def main() -> None:
    app = application(sys.argv[2])
    asyncio.run(app.serve(ready=lambda: say("ready")))
    say("stopped")


if __name__ == "__main__":
    main()
