"""A process of Node.js that runs one of our programs with the packages that `.ci/javascript` installs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.processes import ServerError

__all__ = ["ADVICE", "JavaScript", "installed"]

ADVICE = "Node.js with CloudEvents' SDK is not installed; .ci/javascript fetches the SDK where there are nodejs and npm"
ANSWER_SECONDS = 20
PROGRAMS = Path(__file__).parent.parent / "channels" / "javascript"


def installed() -> Path | None:
    """The folder of the packages that the lock file names; None where they are not installed, or Node.js is not."""
    version = hashlib.sha256((PROGRAMS / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensue" / "javascript"
    packages = cache / version / "node_modules"
    return packages if packages.is_dir() and shutil.which("node") is not None else None


class JavaScript:
    """A running program that answers each line of JSON by one: `with JavaScript("sdk.js") as program:`."""

    def __init__(self, program: str) -> None:
        self._program = program

    def __enter__(self) -> Self:
        packages = installed()
        if packages is None:
            raise ServerError(ADVICE)
        self._process = subprocess.Popen(
            ["node", str(PROGRAMS / self._program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "NODE_PATH": str(packages)},
            text=True,
        )
        return self

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to the request. Errors: `ServerError` with what the program says went wrong."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.listen()

    def listen(self) -> Any:
        """The next line that it says, without being asked."""
        assert self._process.stdout is not None
        alarm = threading.Timer(ANSWER_SECONDS, self._process.kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise ServerError(f"{self._program} ended, or said nothing for {ANSWER_SECONDS} s and was killed")
        answer = json.loads(line)
        if "error" in answer:
            raise ServerError(f"{self._program}: {answer['error']}")
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It ends when nobody asks any more; else it is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(ANSWER_SECONDS if kind is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if kind is None:
                raise
        finally:
            self._process.stdout.close()
