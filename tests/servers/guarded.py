"""A server process under its guard, seen from the process that started it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.servers.processes import PATIENCE_SECONDS, ServerError, kill_family

__all__ = ["GuardedProcess", "Needed"]

ROOT = Path(__file__).resolve().parents[2]


class Needed(NamedTuple):
    """How a guard learns that nobody needs the server any more: the reading end of a pipe, and the lock under which those
    who need it come and go."""

    reader: int
    lock: Path


class GuardedProcess:
    """A running server. It ends with this process at the latest, or, where it is shared, with the last that needs it."""

    def __init__(self, command: list[str], user: str | None, folder: Path, log: Path, needed: Needed | None) -> None:
        self._log = log
        self._command = command[0]
        self._writer: int | None = None
        reader, lock = needed or (None, "-")
        if reader is None:
            reader, self._writer = os.pipe()
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.guard", user or "-", str(folder), str(lock), *command],
                cwd=ROOT,
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests; the guard then sees them end
            )
        if needed is None:
            os.close(reader)
        self.pid = self._first_line()

    def running(self) -> bool:
        return self._guard.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Signal the server itself."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL for the server and all its children, in the midst of whatever they do."""
        kill_family(self.pid)
        self.ended()

    def ended(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until it has ended; `ServerError` after so many seconds."""
        try:
            self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self._command} did not end within {seconds:.0f} s; {self.last_words()}") from None
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None

    def let_go(self) -> int:
        """Leave it to those who share it. The process id of its guard, which is the last to end."""
        self._guard.returncode = 0  # else `Popen` complains that nobody waits for a process that ends by itself
        return self._guard.pid

    def last_words(self) -> str:
        """What the server said last, for a message."""
        lines = self._log.read_text(errors="replace").splitlines()[-12:]
        return "\n  ".join([f"the last lines of {self._log}:", *lines])

    def _first_line(self) -> int:
        assert self._guard.stdout is not None
        with self._guard.stdout as output:
            select.select([output], [], [], PATIENCE_SECONDS)
            line = output.readline()
        if not line:
            self.ended()
            raise ServerError(f"{self._command} could not be started; {self.last_words()}")
        return int(line)
