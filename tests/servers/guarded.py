"""A server process under its guard, seen from the process that started it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers.processes import PATIENCE_SECONDS, ServerError, kill_family

__all__ = ["GuardedProcess"]

ROOT = Path(__file__).resolve().parents[2]


class GuardedProcess:
    """A running server. It ends with this process at the latest, by the signal `ending`: SIGQUIT is what PostgreSQL calls
    immediate, and most others die of it."""

    def __init__(
        self,
        command: list[str],
        user: str | None,
        folder: Path,
        log: Path,
        *,
        ending: signal.Signals = signal.SIGQUIT,
    ) -> None:
        self._log = log
        self._command = command[0]
        self._writer: int | None
        reader, self._writer = os.pipe()
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.guard", user or "-", str(folder), str(int(ending)), *command],
                cwd=ROOT,
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the tests; the guard then sees them end
            )
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
