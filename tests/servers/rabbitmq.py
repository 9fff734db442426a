"""Real RabbitMQ servers for tests and benchmarks, from the programs of Debian's package.

A server is an ordinary process (an Erlang node without plugins) with a folder, a name service and ports of its own. All of them
listen on loopback alone and end with the process that started it, however that ends. Started by root it runs as the package's
user `rabbitmq`. Debian's own server is never touched. A start takes three to four seconds, nearly all of it the loading of code.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

from tests.servers.guarded import GuardedProcess
from tests.servers.postgresql import HOST, reserved_port
from tests.servers.processes import PATIENCE_SECONDS, ServerError, until
from tests.servers.server import Server

__all__ = ["ADVICE", "RabbitAddress", "RabbitServer", "installed", "version"]

ADVICE = "RabbitMQ 3.10 or later is not installed; on Debian: apt install rabbitmq-server"
OLDEST = (3, 10)
ROOM = 2 << 30
USER = PASSWORD = "ensue"
NODE = "ensue@localhost"
"""Names of nodes are only compared where they share a name service, which no two of these servers do."""


def installed() -> Path | None:
    """The folder of the newest programs there are; None where there are none."""
    folders: dict[tuple[int, ...], Path] = {
        tuple(map(int, folder.parent.name.rpartition("-")[2].split("."))): folder
        for folder in Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin")
        if (folder / "rabbitmq-server").exists()
    }
    newest = max(folders, default=None)
    return folders[newest] if newest is not None and newest >= OLDEST else None


def version() -> str:
    """Of those programs, as in 3.10.8."""
    return _programs().parent.name.rpartition("-")[2]


@dataclass(frozen=True)
class RabbitAddress:
    """Where a server is: what a test may know of one that other tests use too, and so must not stop."""

    port: int
    tls_port: int | None = None

    def url(
        self,
        host: str = "/",
        *,
        user: str = USER,
        password: str = PASSWORD,
        tls: bool = False,
        port: int | None = None,
        **parameters: str,
    ) -> str:
        """The URL of a channel in this virtual host, with these parameters. `port` is that of a proxy in front of it."""
        assert not tls or self.tls_port is not None, "the server speaks no TLS"
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        path = "" if host == "/" else quote(host, safe="")
        credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
        place = port or (self.tls_port if tls else self.port)
        return f"{'amqps' if tls else 'amqp'}://{credentials}@{HOST}:{place}/{path}{query}"


class RabbitServer(Server):
    """One server: `with RabbitServer() as server:` starts it and, at the end, removes all traces of it.

    `settings` are those of rabbitmq.conf, and may be changed between a stop and a start. `users` are names with their passwords
    and an expression for the names of what they may configure, write and read; beside them there is `ensue`, who may do all.
    With `tls` the server speaks TLS on a port of its own, with a certificate of its own making (see `authority`); with
    `tls="verify"` it also wants one of its clients there, and takes `certificate` with `key`.

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(
        self,
        *,
        tls: bool | Literal["verify"] = False,
        users: Mapping[str, tuple[str, str]] | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__()
        self.settings = dict(settings or {})
        self._tls = tls
        self._users = {USER: (PASSWORD, ".*"), **(users or {})}
        self._ports: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The same through all stops and starts; nobody else gets it meanwhile."""
        return self._port(0)

    @property
    def address(self) -> RabbitAddress:
        return RabbitAddress(self.port, self._port(1) if self._tls else None)

    @property
    def folder(self) -> Path:
        assert self._folder is not None, "a server has a folder from its first start until it is closed"
        return self._folder

    @property
    def authority(self) -> Path:
        """What to give as `tls_ca`."""
        return self.folder / "authority.crt"

    def url(
        self, host: str = "/", *, user: str = USER, password: str = PASSWORD, tls: bool = False, **parameters: str
    ) -> str:
        """See `RabbitAddress.url`."""
        return self.address.url(host, user=user, password=password, tls=tls, port=None, **parameters)

    def start(self) -> None:
        """Start it with what it kept; returns when it takes connections."""
        assert not self.running(), "it runs"
        if self._folder is None:
            self._make()
        for held in self._ports[2:]:
            held.close()
        # Of the name service and between nodes: others at each start, for what had the old ones may still be ending.
        self._ports[2:] = [reserved_port(), reserved_port()]
        self._write_settings()
        # The shell becomes the server, and the name service is its child, which the kernel ends with it.
        names = f"setpriv --pdeathsig KILL epmd -address {HOST} -port {self._port(2)}"
        script = f"{names} & exec {shlex.quote(str(_programs() / 'rabbitmq-server'))} -noinput"
        self._process = GuardedProcess(
            ["env", "-i", *self._environment(), "sh", "-c", script], _account(), self.folder, self._log
        )
        until(self._started, f"RabbitMQ was to take connections; see {self._log}")
        if not self._running.running():
            raise ServerError(f"RabbitMQ did not start; {self._running.last_words()}")

    def stop(self) -> None:
        """In good order: it sends its clients away and writes what it has. Takes a second."""
        self._running.send(signal.SIGTERM)
        self._running.ended()

    def alarm(self, on: bool) -> None:
        """As if its memory were used up: it takes no messages until the alarm is off again. Takes a second."""
        what = "{{resource_limit, memory, node()}, []}" if on else "{resource_limit, memory, node()}"
        self.control("eval", f"rabbit_alarm:{'set' if on else 'clear'}_alarm({what}).")

    def control(self, *command: str) -> str:
        """What `rabbitmqctl` printed. Takes a second."""
        ended = subprocess.run(
            ["env", "-i", *self._environment(), str(_programs() / "rabbitmqctl"), "-q", *command],
            user=_account(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        if ended.returncode:
            raise ServerError(f"rabbitmqctl failed with {ended.returncode}: {ended.stderr.strip()}")
        return ended.stdout

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _port(self, number: int) -> int:
        assert self._ports, "a server has ports from its first start until it is closed"
        return int(self._ports[number].getsockname()[1])

    def _release_ports(self) -> None:
        for held in self._ports:
            held.close()
        self._ports = []

    def _make(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ensue-rabbitmq-", dir=_memory()))
        self._ports = [reserved_port(), reserved_port()]
        if self._tls:
            self._make_certificate()
        self.folder.joinpath("empty").write_text("")
        self.folder.joinpath("plugins").write_text("[].\n")
        if (user := _account()) is not None:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, user, pwd.getpwnam(user).pw_gid)

    def _make_certificate(self) -> None:
        new = (
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        )
        authority = ("-subj", "/CN=ensue-test-authority", "-keyout", str(self.folder / "authority.key"))
        own = (
            *(
                "-subj",
                "/CN=ensue-test",
                "-addext",
                f"subjectAltName=IP:{HOST}",
                "-addext",
                "basicConstraints=CA:FALSE",
            ),
            *("-CA", str(self.authority), "-CAkey", str(self.folder / "authority.key"), "-keyout", str(self.key)),
        )
        for command in ((*new, *authority, "-out", str(self.authority)), (*new, *own, "-out", str(self.certificate))):
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                raise ServerError(f"openssl failed with {ended.returncode}: {ended.stderr.strip()}")

    def _write_settings(self) -> None:
        settings: dict[str, str | int] = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "loopback_users": "none",
            "log.console": "true",
            "log.console.level": "warning",
            "log.file": "false",
            "load_definitions": f"{self.folder}/users.json",
        }
        if self._tls:
            settings |= {
                "listeners.ssl.1": f"{HOST}:{self._port(1)}",
                "ssl_options.cacertfile": str(self.authority),
                "ssl_options.certfile": str(self.certificate),
                "ssl_options.keyfile": str(self.key),
                "ssl_options.verify": "verify_peer" if self._tls == "verify" else "verify_none",
                "ssl_options.fail_if_no_peer_cert": "true" if self._tls == "verify" else "false",
            }
        lines = [f"{name} = {value}\n" for name, value in (settings | self.settings).items()]
        self.folder.joinpath("rabbitmq.conf").write_text("".join(lines))
        self.folder.joinpath("users.json").write_text(json.dumps(self._definitions()))

    def _definitions(self) -> dict[str, object]:
        return {
            "vhosts": [{"name": "/"}],
            "users": [
                {"name": name, "password_hash": _hashed(password), "tags": "",
                 "hashing_algorithm": "rabbit_password_hashing_sha256"}
                for name, (password, _) in self._users.items()
            ],
            "permissions": [
                {"user": name, "vhost": "/", "configure": names, "write": names, "read": names}
                for name, (_, names) in self._users.items()
            ],
        }  # fmt: skip

    def _environment(self) -> list[str]:
        return [
            f"{name}={value}"
            for name, value in {
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
                "HOME": self.folder,  # where the cookie is
                "ERL_CRASH_DUMP_SECONDS": 0,
                "ERL_EPMD_ADDRESS": HOST,
                "ERL_EPMD_PORT": self._port(2),
                "RABBITMQ_NODENAME": NODE,
                "RABBITMQ_DIST_PORT": self._port(3),
                "RABBITMQ_MNESIA_BASE": self.folder / "data",
                "RABBITMQ_LOG_BASE": self.folder,
                "RABBITMQ_CONF_ENV_FILE": self.folder / "empty",
                "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
                "RABBITMQ_ADVANCED_CONFIG_FILE": self.folder / "none",
                "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _arguments(),
                "RABBITMQ_ALLOW_INPUT": 1,  # so that the script becomes the server, and does not stay in front of it
            }.items()
        ]

    def _started(self) -> bool:
        if not self._running.running():
            return True  # there is nothing to wait for any more
        return all(_listens(self._port(number)) for number in ((0, 1) if self._tls else (0,)))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _programs() -> Path:
    if (folder := installed()) is None:
        raise ServerError(ADVICE)
    return folder


@cache
def _arguments() -> str:
    """What a server needs is found first among the seventy folders of the package: that spares it a tenth of its start."""
    needed = (
        *("rabbitmq_prelaunch", "rabbit_common", "rabbit", "ra", "osiris", "cuttlefish", "ranch", "syslog", "seshat"),
        *("sysmon_handler", "aten", "gen_batch_server", "credentials_obfuscation", "stdout_formatter", "recon"),
    )
    plugins = _programs().parent / "plugins"
    folders = [str(folder) for name in needed for folder in plugins.glob(f"{name}-[0-9]*/ebin")]
    return f"-kernel inet_dist_use_interface {{127,0,0,1}} +S 2:2 -pa {' '.join(folders)}"


def _hashed(password: str) -> str:
    salt = b"salt"
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _memory() -> str | None:
    """Where to put what need not survive a loss of power: in memory, if there is plenty."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free >= ROOM else None


def _account() -> str | None:
    """The user that servers run as; None for our own."""
    return "rabbitmq" if os.geteuid() == 0 else None
