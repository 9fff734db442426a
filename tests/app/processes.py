"""Real processes under test, talked to by lines and signals."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Program"]

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


class Program:
    """`tests.app.program`, or another one, as a process of its own. It is killed at the end if it still runs."""

    module = "tests.app.program"

    def __init__(self, act: str, url: str, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module, act, url, *arguments],
            cwd=ROOT,
            bufsize=0,  # a line that waits in a buffer here would not be seen by `select`
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        """The next line that it says; empty when it says no more."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
        assert ready, f"the process said nothing for {PATIENCE_SECONDS} s"
        return self._process.stdout.readline().decode().rstrip("\n")

    def until(self, wanted: str) -> list[str]:
        """The lines up to one that begins like this."""
        lines: list[str] = []
        while not (lines and lines[-1].startswith(wanted)):
            lines.append(self.line())
            assert lines[-1], f"it ended after {lines} without saying {wanted!r}: {self.errors()}"
        return lines

    def tell(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def tell_no_more(self) -> None:
        """Whatever of it reads its input is told that it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Its exit status, when it has ended."""
        return self._process.wait(PATIENCE_SECONDS)

    def errors(self) -> str:
        """What it wrote to standard error, when it has ended."""
        assert self._process.stderr is not None
        self.ended()
        return self._process.stderr.read().decode()
