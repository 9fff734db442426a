"""One server for all processes of a test run, started by the first that needs it and ended when the last is gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

from tests.servers.guarded import Needed
from tests.servers.processes import locked

__all__ = ["shared"]


@contextlib.contextmanager
def shared(folder: Path, name: str, start: Callable[[Needed], str]) -> Generator[str, None, None]:
    """What `start` told of the server called `name`, to each process that comes to this folder while it runs. `start` is
    called by the first, and again by the next to come should the server have died."""
    pipe, told, lock = folder / f"{name}.pipe", folder / f"{name}.told", folder / f"{name}.lock"
    with locked(lock):
        holding = _hold(pipe)
        if holding is None:
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # waits for no writer
            try:
                holding = os.open(pipe, os.O_WRONLY)
                told.write_text(start(Needed(reader, lock)))
            except BaseException:
                pipe.unlink()
                raise
            finally:
                os.close(reader)
        text = told.read_text()
    try:
        yield text
    finally:
        os.close(holding)


def _hold(pipe: Path) -> int | None:
    """The writing end, if there is a guard that reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # no such pipe, or one without a reader
        return None
