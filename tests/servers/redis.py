"""Real Redis servers for tests and benchmarks, from Debian's package.

A server is an ordinary process with a folder and a port of its own. It listens on loopback alone and has no socket in the file
system; it ends with the process that started it, however that ends. Debian's own server is never touched.
"""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
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

__all__ = ["ADVICE", "RedisAddress", "RedisServer", "ask", "installed"]

ADVICE = "Redis 7 or later is not installed; on Debian: apt install redis-server"
OLDEST = 7
ROOM = 1 << 30


def installed() -> Path | None:
    """The program; None where there is none, or an older one."""
    found = shutil.which("redis-server")
    return Path(found) if found and int(_version(found).split(".")[0]) >= OLDEST else None


@dataclass(frozen=True)
class RedisAddress:
    """Where a server is: what a test may know of one that other tests use too, and so must not stop."""

    port: int
    tls_port: int | None
    version: str

    def url(self, *, user: str = "", password: str = "", tls: bool = False, **parameters: str) -> str:
        """Of a channel, with any further parameters."""
        credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"redis{'s' if tls else ''}://{credentials}{HOST}:{self.tls_port if tls else self.port}/{query}"


def ask(port: int, *commands: str, tls: ssl.SSLContext | None = None) -> list[str]:
    """What a server answers to these commands, written as in a shell, line by line of its protocol."""
    plain = socket.create_connection((HOST, port), timeout=10)
    with plain if tls is None else tls.wrap_socket(plain, server_hostname=HOST) as connection:
        connection.sendall("".join(f"{command}\r\n" for command in (*commands, "QUIT")).encode())
        said = b""
        while more := connection.recv(65536):
            said += more
        return said.decode().splitlines()[:-1]


class RedisServer(Server):
    """One server: `with RedisServer(durable=False) as server:` starts it and, at the end, removes all traces of it.

    Every command is on disk before it is answered (`appendfsync always`), so what was confirmed survives `kill`. With `durable`
    the disk is one; without it, memory plays the disk where there is plenty. `users` are names with the rules of their access,
    such as `{"shop": ">secret ~* &* +@all"}`; without a user of the name `default` everybody may do everything. `settings` are
    those of redis.conf; they and the users may be changed, and hold from the next start. With `tls` the server speaks TLS
    on a port of its own also (`tls_port`), with a certificate of its own making (`certificate`), which is an authority too:
    with the setting `tls-auth-clients` it is what clients must show.

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(
        self,
        *,
        durable: bool = True,
        tls: bool = False,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__()
        self.users = dict(users or {})
        self.settings = dict(settings or {})
        self._durable = durable
        self._tls = tls
        self._port: socket.socket | None = None
        self._tls_port: socket.socket | None = None

    @property
    def port(self) -> int:
        """The same through all stops and starts; nobody else gets it meanwhile."""
        assert self._port is not None, "a server has a port from its first start until it is closed"
        return int(self._port.getsockname()[1])

    @property
    def tls_port(self) -> int:
        """Where it speaks TLS."""
        assert self._tls_port is not None, (
            "a server has this port with tls=True, from its first start until it is closed"
        )
        return int(self._tls_port.getsockname()[1])

    @property
    def version(self) -> str:
        return _version(str(_program()))

    @property
    def address(self) -> RedisAddress:
        return RedisAddress(self.port, self.tls_port if self._tls else None, self.version)

    def url(self, *, user: str = "", password: str = "", tls: bool = False, **parameters: str) -> str:
        """See `RedisAddress.url`."""
        return self.address.url(user=user, password=password, tls=tls, **parameters)

    def start(self) -> None:
        """Start it, the first time with nothing in it; returns when it can be used, with all that it had kept."""
        assert not self.running(), "it runs"
        if self._folder is None:
            self._make()
        self._write_settings()
        command = [str(_program()), str(self._place / "redis.conf")]
        self._process = GuardedProcess(command, None, self._place, self.log)
        until(self._started, f"Redis was to take connections; see {self.log}")
        if not self._running.running():
            raise ServerError(f"Redis did not start; {self._running.last_words()}")

    def stop(self) -> None:
        """In good order: it writes what it has to write."""
        self._running.send(signal.SIGTERM)
        self._running.ended()

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        self._running.send(number)

    def _release_ports(self) -> None:
        for held in (self._port, self._tls_port):
            if held is not None:
                held.close()
        self._port = self._tls_port = None

    def _make(self) -> None:
        # What is to be durable is put where no memory plays the disk.
        self._folder = Path(tempfile.mkdtemp(prefix="ensue-redis-", dir="/var/tmp" if self._durable else _memory()))
        self._port = reserved_port()
        if self._tls:
            self._tls_port = reserved_port()
            self._make_certificate()

    def _make_certificate(self) -> None:
        command = (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=ensue-test", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )
        subprocess.run(command, check=True, capture_output=True)

    def _write_settings(self) -> None:
        ours: dict[str, str | int] = {
            "bind": HOST,
            "port": self.port,
            "dir": str(self._place),
            "daemonize": "no",
            "logfile": '""',
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "always",
            "hz": 50,  # it looks so often in a second whether it is to end
        }
        if self._tls:
            ours |= {
                "tls-port": self.tls_port,
                "tls-cert-file": str(self.certificate),
                "tls-key-file": str(self.key),
                "tls-ca-cert-file": str(self.certificate),
                "tls-auth-clients": "no",
            }
        lines = [f"{name} {value}" for name, value in (ours | self.settings).items()]
        lines += [f"user {name} on {rules}" for name, rules in self.users.items()]
        self._place.joinpath("redis.conf").write_text("".join(f"{line}\n" for line in lines))

    def _started(self) -> bool:
        if not self._running.running():
            return True  # there is nothing to wait for any more
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                # One that still reads what it kept answers -LOADING; one that wants a password, -NOAUTH.
                return probe.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _program() -> Path:
    if (found := installed()) is None:
        raise ServerError(ADVICE)
    return found


@cache
def _version(program: str) -> str:
    """`7.0.15` of `Redis server v=7.0.15 sha=…`."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return said.partition("v=")[2].split()[0]


def _memory() -> str | None:
    """Where to put what need not be durable: in memory, if there is plenty."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free >= ROOM else None
