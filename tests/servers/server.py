"""What the real servers of tests have in common: a process and a folder of their own, from the first start until they are closed."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.guarded import GuardedProcess

__all__ = ["Server"]


class Server(ABC):
    """`with` starts it and, at the end, removes all traces of it. A subclass sets `_folder` and `_process` when it starts.

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: GuardedProcess | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it, the first time in a new folder; returns when it can be used."""

    @abstractmethod
    def stop(self) -> None:
        """End it in good order. It can be started again."""

    @abstractmethod
    def _release_ports(self) -> None:
        """Others may have its ports. There may be none yet."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of its process; where it has several, of their parent."""
        return self._running.pid

    @property
    def log(self) -> Path:
        """The file that it writes its messages to."""
        return self._place / "server.log"

    @property
    def certificate(self) -> Path:
        """For the host 127.0.0.1, and signed by itself; also a client's."""
        return self._place / "server.crt"

    @property
    def key(self) -> Path:
        """Of that certificate."""
        return self._place / "server.key"

    def running(self) -> bool:
        return self._process is not None and self._process.running()

    def kill(self) -> None:
        """SIGKILL for all its processes at once. It can be started again, and then recovers."""
        self._running.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove its folder. It may be in any state."""
        if self.running():
            self.kill()
        self._release_ports()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    @property
    def _place(self) -> Path:
        assert self._folder is not None, "a server has a folder from its first start until it is closed"
        return self._folder

    @property
    def _running(self) -> GuardedProcess:
        assert self._process is not None, "it was never started"
        return self._process
