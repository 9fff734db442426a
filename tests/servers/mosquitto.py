"""Real MQTT servers for tests and benchmarks: Mosquitto, from Debian's package.

A server is an ordinary process with a folder and a port of its own. It listens on loopback alone and ends with the process that
started it, however that ends. Root gives it to the user `mosquitto` of the package.

It has its database on a disk that may be memory, and writes it when it is stopped, when it is told to (`save`) and every few
seconds, if that is set. So whatever is in its memory is lost when it is killed: that is how Mosquitto is.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.servers.guarded import GuardedProcess
from tests.servers.postgresql import HOST, reserved_port
from tests.servers.processes import ServerError, until
from tests.servers.server import Server

__all__ = ["ADVICE", "MosquittoAddress", "MosquittoServer", "installed"]

ROOM = 1 << 30
ADVICE = "Mosquitto 2 is not installed; on Debian: apt install mosquitto"


def installed() -> Path | None:
    """The program; None where there is none. It stands where only administrators look."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


@dataclass(frozen=True)
class MosquittoAddress:
    """Where a server is: what a test may know of one that other tests use too, and so must not stop."""

    port: int
    version: str
    certificate: Path | None = None

    def url(self, *, user: str | None = None, password: str | None = None, **parameters: str) -> str:
        """A channel's, with any further parameters. Where the server speaks TLS its certificate is trusted, if nothing else
        is said."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        credentials = "" if user is None else f"{quote(user, safe='')}{secret}@"
        if self.certificate is not None:
            parameters = {"tls_ca": str(self.certificate)} | parameters
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"{'mqtt' if self.certificate is None else 'mqtts'}://{credentials}{HOST}:{self.port}{query}"


class MosquittoServer(Server):
    """One server: `with MosquittoServer() as server:` starts it and, at the end, removes all traces of it.

    `settings` are those of mosquitto.conf, `users` have passwords, `access` are the lines of its file of access rules; all may
    be changed, and hold from the next start. Without `users` anybody may do anything. With `tls` it speaks nothing but TLS, with
    a certificate of its own making (`certificate`, `key`), which it also takes from a client.

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        settings: Mapping[str, str | int] | None = None,
        users: Mapping[str, str] | None = None,
        access: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.settings = dict(settings or {})
        self.users = dict(users or {})
        self.access = list(access)
        self._tls = tls
        self._port: socket.socket | None = None

    @property
    def port(self) -> int:
        """The same through all stops and starts; nobody else gets it meanwhile."""
        assert self._port is not None, "a server has a port from its first start until it is closed"
        return int(self._port.getsockname()[1])

    @property
    def version(self) -> str:
        return _version()

    @property
    def address(self) -> MosquittoAddress:
        return MosquittoAddress(self.port, self.version, self.certificate if self._tls else None)

    def url(self, *, user: str | None = None, password: str | None = None, **parameters: str) -> str:
        """See `MosquittoAddress.url`."""
        return self.address.url(user=user, password=password, **parameters)

    def start(self) -> None:
        """Start it, with what it had written when it ended; returns when it takes connections."""
        assert not self.running(), "it runs"
        if self._folder is None:
            self._make()
        self._write_settings()
        self._process = GuardedProcess(
            [str(_program()), "-c", str(self._place / "mosquitto.conf")], _account(), self._place, self.log
        )
        until(self._started, f"Mosquitto was to take connections; see {self.log}")
        if not self._running.running():
            raise ServerError(f"Mosquitto did not start; {self._running.last_words()}")

    def stop(self) -> None:
        """In good order: its clients are told, and its database is written."""
        self._running.send(signal.SIGTERM)
        self._running.ended()

    def save(self) -> None:
        """Have it write its database now."""
        before = self._database()
        self._running.send(signal.SIGUSR1)
        until(lambda: self._database() != before, f"Mosquitto was to write its database; see {self.log}")

    def _release_ports(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None

    def _make(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ensue-mosquitto-", dir=_memory()))
        self._port = reserved_port()
        if self._tls:
            _run(
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=ensue-test", "-addext", f"subjectAltName=IP:{HOST}"),
                *("-keyout", str(self.key), "-out", str(self.certificate)),
            )

    def _write_settings(self) -> None:
        ours: dict[str, str | int] = {
            "listener": f"{self.port} {HOST}",
            "allow_anonymous": "false" if self.users else "true",
            "persistence": "true",
            "persistence_location": f"{self._place}/",
            "autosave_interval": 0,
            "max_queued_messages": 0,
            "max_inflight_messages": 0,
            "set_tcp_nodelay": "true",
            "sys_interval": 0,
            "log_dest": "stderr",
            "connection_messages": "true",
        }
        if self.users:
            passwords = self._place / "passwords"
            passwords.write_text("")
            for name, password in self.users.items():
                _run("mosquitto_passwd", "-b", str(passwords), name, password)
            ours["password_file"] = str(passwords)
        if self.access:
            self._place.joinpath("access").write_text("".join(f"{line}\n" for line in self.access))
            ours["acl_file"] = str(self._place / "access")
        if self._tls:
            certificate = str(self.certificate)
            ours |= {"certfile": certificate, "keyfile": str(self.key), "cafile": certificate}
        lines = [f"{name} {value}\n" for name, value in (ours | self.settings).items()]
        self._place.joinpath("mosquitto.conf").write_text("".join(lines))
        if (user := _account()) is not None:
            for path in (self._place, *self._place.iterdir()):
                shutil.chown(path, user, pwd.getpwnam(user).pw_gid)

    def _database(self) -> tuple[int, int] | None:
        """What tells one that was written from the one before."""
        try:
            state = (self._place / "mosquitto.db").stat()
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_mtime_ns

    def _started(self) -> bool:
        if not self._running.running():
            return True  # there is nothing to wait for any more
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0


def _program() -> Path:
    if (program := installed()) is None:
        raise ServerError(ADVICE)
    return program


@cache
def _version() -> str:
    # It has no option that says no more than its version, and calls a question for help a failure.
    said = subprocess.run([_program(), "-h"], capture_output=True, text=True).stdout
    return said.split()[2]


def _memory() -> str | None:
    """Where there is no disk to wait for, if there is plenty of memory."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free >= ROOM else None


def _account() -> str | None:
    """The user that a server runs as; None for our own."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("mosquitto").pw_name
    except KeyError:
        raise ServerError(
            "there is no user mosquitto, whom the package makes, and root must not run a server"
        ) from None


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise ServerError(f"{command[0]} failed with {ended.returncode}: {ended.stderr.strip()}")
