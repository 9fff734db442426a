"""A real server on loopback: in a thread of the test, or a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from tests.servers.processes import ServerError, die_with_parent, until
from tests.typing.checkers import ROOT

__all__ = ["process", "served"]


@contextlib.contextmanager
def served(
    web: Any, *, lifespan: bool = True, raised: list[BaseException] | None = None
) -> Generator[httpx.Client, None, None]:
    """Serve this by uvicorn and give a client of it. What is raised to the server goes to `raised`; without it, nothing may be."""
    reached: list[BaseException] = [] if raised is None else raised

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        try:
            await web(scope, receive, send)
        except Exception as error:
            reached.append(error)
            raise

    config = uvicorn.Config(
        watched, lifespan="on" if lifespan else "off", ws="none", log_level="critical", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))

        def run() -> None:
            with contextlib.suppress(SystemExit):  # how it tells that the application did not start
                server.run(sockets=[listening])

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), "the server starts")
            if not server.started:
                raise ServerError("the application did not start")
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
    assert raised is not None or not reached, reached


@contextlib.contextmanager
def process(arguments: Sequence[str], folder: Path, **environment: str) -> Generator[httpx.Client, None, None]:
    """Run this as a program of Python that serves by uvicorn, in this folder, and give a client of it. It ends on SIGTERM."""
    log = folder / f"served-{len(list(folder.glob('served-*')))}.log"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    with (
        log.open("w") as told,
        subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            cwd=folder,
            env=kept | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=told,
            stderr=told,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        ) as running,
    ):
        try:
            until(lambda: "running on http" in log.read_text() or running.poll() is not None, "it is served")
            found = re.findall(r"running on (http://\S+)", log.read_text())
            assert found, log.read_text()
            with httpx.Client(base_url=found[0], timeout=30) as client:
                yield client
        finally:
            running.terminate()
            assert running.wait(60) in (0, -signal.SIGTERM), log.read_text()
