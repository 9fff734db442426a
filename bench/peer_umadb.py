"""UmaDB: an event store written in Rust, its own server on the loopback interface, a client for each producer.

The server comes with the Python package. It stores the payload, the type, the key as a tag and an id, as ours does; metadata
of ours (time, correlation) it is spared. It is durable by nature.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from uuid import uuid4

import msgspec
import umadb

from bench.measure import Outcome, folder
from bench.orders import OrderPlaced, digest, order, share

__all__ = ["append_one_by_one"]

_encode = msgspec.json.Encoder(decimal_format="string").encode
_decode = msgspec.json.Decoder(OrderPlaced).decode
START_SECONDS = 20.0
_SERVE = "import sys, umadb; umadb.run_server_from_args(['umadb', *sys.argv[1:]])"


@contextlib.contextmanager
def _server() -> Generator[str, None, None]:
    with folder() as path, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        command = [sys.executable, "-c", _SERVE, "--listen", address, "--db-path", str(path)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                _wait_for(address, server)
                yield f"http://{address}"
            finally:
                server.terminate()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            umadb.Client(f"http://{address}").head()
        except umadb.TransportError:
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the UmaDB server did not start on {address}")
            time.sleep(0.02)
        else:
            return


def append_one_by_one(count: int, producers: int) -> Outcome:
    """Each producer is a thread with a connection of its own."""
    with _server() as url:
        clients = [umadb.Client(url) for _ in range(producers)]

        def produce(client: umadb.Client, events: list[OrderPlaced]) -> None:
            for event in events:
                client.append([umadb.Event("OrderPlaced", _encode(event), [f"order_id={event.order_id}"], uuid4())])

        shares = [[order(number) for number in share(count, producers, one)] for one in range(producers)]
        threads = [threading.Thread(target=produce, args=pair) for pair in zip(clients, shares, strict=True)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        events = [_decode(found.event.data) for found in clients[0].read()]
        contents = digest((event.order_id, event.sku, event.quantity, event.total) for event in events)
        return Outcome(count / seconds, contents)
