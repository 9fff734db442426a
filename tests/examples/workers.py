"""Processes that run the shop's services, forked from one that has imported everything. Run as a program it is that one: each
line on stdin asks for one more, whose process id is told on stdout; all of them end with it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

from ensue.examples.shop import shop
from tests.servers.processes import die_with_parent

__all__ = ["Workers", "workers"]


class Workers:
    """Those that run. A worker that is killed is not started again by itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pids: list[int] = []
        self._process = process

    def start(self) -> None:
        """One more."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("more\n")
        self._process.stdin.flush()
        self.pids.append(int(self._process.stdout.readline()))

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.pids.remove(pid)


@contextmanager
def workers(url: str, count: int) -> Generator[Workers, None, None]:
    """So many of the shop on the log there, killed when the block ends."""
    command = [sys.executable, "-m", "tests.examples.workers", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        found = Workers(process)
        for _ in range(count):
            found.start()
        yield found
        assert process.stdin is not None
        process.stdin.close()


def _work(url: str) -> None:
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asyncio.run(shop(url).serve())


def _main() -> None:
    logging.getLogger("ensue").addHandler(logging.NullHandler())
    for module in ("ensue.app.engine", "ensue.store.postgresql"):  # imported when a log is opened: here once for all
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _work(sys.argv[1])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.write(1, f"{pid}\n".encode())


if __name__ == "__main__":
    _main()
