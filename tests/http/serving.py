"""A real server on loopback, in a thread of the test."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from typing import Any

import httpx
import uvicorn

from tests.servers.processes import until

__all__ = ["served"]


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
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), "the server starts")
            assert server.started, reached
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
    assert raised is not None or not reached, reached
