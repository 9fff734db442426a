"""Real NATS servers with JetStream for tests and benchmarks, built by `.ci/services` from the Go module proxy, or Debian's.

A server is one process with a folder and a port of its own. It listens on loopback alone, and ends with the process that started
it. Tests ask `version()` for what only newer servers can: before 2.12 they delay no messages.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.servers.guarded import GuardedProcess
from tests.servers.postgresql import HOST, reserved_port
from tests.servers.processes import ServerError, until
from tests.servers.server import Server

__all__ = ["ADVICE", "NatsAddress", "NatsServer", "installed", "version"]

ADVICE = "NATS 2.10 or later is not installed; .ci/services builds it where there is Go, or on Debian 13: apt install nats-server"
OLDEST = (2, 10)
ROOM = 1 << 30


def installed() -> Path | None:
    """The newest program there is; None where there is none that is new enough. Debian's stands where only administrators look."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensue" / "nats"
    built = [path for path in cache.glob("*/nats-server") if os.access(path, os.X_OK)]
    if built:
        return max(built, key=lambda path: _numbers(path.parent.name))
    found = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found and _version(Path(found)) >= OLDEST else None


def version() -> tuple[int, ...]:
    """Of that program, as in (2, 15, 3)."""
    program = installed()
    if program is None:
        raise ServerError(ADVICE)
    return _version(program)


@dataclass(frozen=True)
class NatsAddress:
    """Where a server is: what a test may know of one that other tests use too, and so must not stop."""

    port: int
    tls: bool = False

    def url(self, *, user: str | None = None, password: str | None = None, **parameters: str) -> str:
        """The URL of a channel, with these parameters."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        credentials = "" if user is None else f"{quote(user, safe='')}{secret}@"
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"{'tls' if self.tls else 'nats'}://{credentials}{HOST}:{self.port}{query}"


class NatsServer(Server):
    """One server: `with NatsServer() as server:` starts it and, at the end, removes all traces of it.

    `settings` are lines of its configuration, and may be changed between a stop and a start: `max_payload: 1000`. `users` are
    names with their passwords, who may do everything; a value that begins with a brace is the rest of such a user, with
    permissions. With `tls` the server speaks TLS alone, with a certificate of its own making (`certificate`); with
    `tls="verify"` it also wants one of its clients, and takes that one with `key`.

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(
        self,
        *,
        jetstream: bool = True,
        tls: bool | str = False,
        users: Mapping[str, str] | None = None,
        settings: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.settings = list(settings)
        self._jetstream = jetstream
        self._tls = tls
        self._users = dict(users or {})
        self._port: socket.socket | None = None

    @property
    def port(self) -> int:
        """The same through all stops and starts; nobody else gets it meanwhile."""
        assert self._port is not None, "a server has a port from its first start until it is closed"
        return int(self._port.getsockname()[1])

    @property
    def address(self) -> NatsAddress:
        return NatsAddress(self.port, bool(self._tls))

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "a server has a folder from its first start until it is closed"
        return self._folder

    def url(self, *, user: str | None = None, password: str | None = None, **parameters: str) -> str:
        """See `NatsAddress.url`."""
        return self.address.url(user=user, password=password, **parameters)

    def start(self) -> None:
        """Start it with what it kept; returns when it answers."""
        assert not self.running(), "it runs"
        program = installed()
        if program is None:
            raise ServerError(ADVICE)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ensue-nats-", dir=_memory()))
            self._port = reserved_port()
            if self._tls:
                self._make_certificate()
        log = self.log
        log.write_text("")
        settings = self.folder / "server.conf"
        settings.write_text("\n".join((*self._own_settings(), *self.settings, "")))
        self._process = GuardedProcess([str(program), "-c", str(settings)], None, self.folder, log)
        until(lambda: self._started(log), f"NATS was to take connections; see {log}")
        if not self._running.running():
            raise ServerError(f"NATS did not start; {self._running.last_words()}")

    def stop(self) -> None:
        """In good order: it writes what it has, and sends its clients away."""
        self._running.send(signal.SIGINT)
        self._running.ended()

    def _release_ports(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None

    def _own_settings(self) -> list[str]:
        lines = [f'listen: "{HOST}:{self.port}"']
        if self._jetstream:
            lines.append(f'jetstream {{ store_dir: "{self.folder}/data" }}')
        if self._tls:
            verify = f'ca_file: "{self.certificate}", verify: true' if self._tls == "verify" else ""
            lines.append(f'tls {{ cert_file: "{self.certificate}", key_file: "{self.key}", {verify} }}')
        if self._users:
            users = ", ".join(
                f'{{ user: "{name}", {value[1:]}'
                if value.startswith("{")
                else f'{{ user: "{name}", password: "{value}" }}'
                for name, value in self._users.items()
            )
            lines.append(f"authorization {{ users: [{users}] }}")
        return lines

    def _make_certificate(self) -> None:
        command = (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=ensue-test", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise ServerError(f"openssl failed with {ended.returncode}: {ended.stderr.strip()}")

    def _started(self, log: Path) -> bool:
        return not self._running.running() or "Server is ready" in log.read_text(errors="replace")


@cache
def _version(program: Path) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return _numbers(said.rpartition(" ")[2])


def _numbers(text: str) -> tuple[int, ...]:
    """Of a version, as in v2.15.3."""
    return tuple(int(part) for part in text.strip().removeprefix("v").partition("-")[0].split(".") if part.isdigit())


def _memory() -> str | None:
    """Where to put what need not survive a loss of power: in memory, if there is plenty."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free >= ROOM else None
