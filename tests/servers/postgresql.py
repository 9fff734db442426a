"""Real PostgreSQL servers for tests and benchmarks, from the binaries of Debian's packages.

A server is an ordinary process with a folder and a port of its own. It listens on loopback alone and has no socket in the file
system; it ends with the process that started it, however that ends. PostgreSQL refuses to run as root: for root it runs as the
user `postgres` of the package. Debian's own cluster is never touched.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tests.servers.guarded import GuardedProcess
from tests.servers.processes import PATIENCE_SECONDS, ServerError, until
from tests.servers.server import Server

__all__ = [
    "ADVICE",
    "PostgresAddress",
    "PostgresServer",
    "account",
    "empty_database",
    "empty_schema",
    "new_role",
    "give_away",
    "installed",
    "reserved_port",
]

ADVICE = "PostgreSQL 15 or later is not installed; on Debian: apt install postgresql"
OLDEST = 15
HOST = "127.0.0.1"
SUPERUSER = "ensue"
ROOM = 4 << 30
_STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_ACCESS = (
    f"host all {SUPERUSER} {HOST}/32 trust",
    f"host replication {SUPERUSER} {HOST}/32 trust",
    f"host all all {HOST}/32 scram-sha-256",
)


def installed() -> Path | None:
    """The folder of the newest binaries there are; None where there are none."""
    folders = {
        int(folder.parent.name): folder
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if folder.parent.name.isdigit() and (folder / "postgres").exists() and (folder / "initdb").exists()
    }
    newest = max(folders, default=0)
    return folders[newest] if newest >= OLDEST else None


@dataclass(frozen=True)
class PostgresAddress:
    """Where a server is: what a test may know of one that other tests use too, and so must not stop."""

    port: int
    version: str

    def url(
        self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None, **parameters: str
    ) -> str:
        """With any further parameters of libpq. Without a user it is a superuser who needs no password; all others do."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"postgresql://{quote(user, safe='')}{secret}@{HOST}:{self.port}/{quote(database, safe='')}{query}"


class PostgresServer(Server):
    """One server: `with PostgresServer(durable=False) as server:` starts it and, at the end, removes all traces of it.

    `durable` keeps the durability of a server at home (fsync is on, the folder is on a disk); without it nothing survives a
    loss of power, but every commit survives the death of its processes. `settings` are those of postgresql.conf, `access`
    the lines of pg_hba.conf that come before its own; both may be changed, and hold from the next start. With `tls` the
    server speaks TLS also, with a certificate of its own making (`certificate`).

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(
        self,
        *,
        durable: bool = True,
        tls: bool = False,
        settings: Mapping[str, str | int] | None = None,
        access: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.settings = dict(settings or {})
        self.access = list(access)
        self._durable = durable
        self._tls = tls
        self._primary: PostgresServer | None = None
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
    def address(self) -> PostgresAddress:
        return PostgresAddress(self.port, self.version)

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self._place / "data"

    def url(
        self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None, **parameters: str
    ) -> str:
        """See `PostgresAddress.url`."""
        return self.address.url(database, user=user, password=password, **parameters)

    def start(self) -> None:
        """Start it, the first time with a new data folder; returns when it can be used, after recovery if it needs any."""
        assert not self.running(), "it runs"
        if self._folder is None:
            self._make()
        self._write_settings()
        command = [str(_binaries() / "postgres"), "-D", str(self.data)]
        self._process = GuardedProcess(command, account(), self._place, self.log)
        until(self._started, f"PostgreSQL was to take connections; see {self.log}")
        if not self._running.running():
            raise ServerError(f"PostgreSQL did not start; {self._running.last_words()}")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """As `pg_ctl stop` does: smart waits for those who are connected, fast sends them away, immediate is a crash."""
        self._running.send(_STOP[mode])
        self._running.ended()

    def close(self) -> None:
        """End it and remove its folder. It may be in any state."""
        if self.running():
            self.stop("immediate")
        self._release_ports()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def replica(self) -> PostgresServer:
        """Another server, started, that streams from this one and can be read. It must be closed like any other."""
        other = PostgresServer(durable=self._durable, tls=self._tls, settings=self.settings, access=self.access)
        other._primary = self
        try:
            other.start()
        except BaseException:
            other.close()
            raise
        return other

    def catch_up(self) -> None:
        """Wait until this replica has replayed all that its primary has written by now."""
        assert self._primary is not None, "not a replica"
        with psycopg.connect(self._primary.url(), connect_timeout=10) as primary:
            written = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert written is not None
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as own:
            question = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)"
            until(lambda: own.execute(question, written).fetchone() == (True,), f"replay of all up to {written[0]}")

    def promote(self) -> None:
        """Make this replica a primary, whether the one it followed still lives or not."""
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as own:
            if own.execute("SELECT pg_promote(true, %s)", [int(PATIENCE_SECONDS)]).fetchone() != (True,):
                raise ServerError(f"the replica was not promoted; {self._running.last_words()}")

    def _release_ports(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None

    def _make(self) -> None:
        # A place that the other user can reach. What is to be durable is put where no memory plays the disk.
        place = "/var/tmp" if self._durable else _memory()
        self._folder = Path(tempfile.mkdtemp(prefix="ensue-postgresql-", dir=place))
        self._port = reserved_port()
        give_away(self._folder)
        if self._tls:
            self._make_certificate()
        if self._primary is not None:
            self._copy_data(self._primary)
        elif self._durable:
            _initialise(self.data)
        else:
            _run("tar", "-xC", str(self._folder), given=_initialised())

    def _copy_data(self, primary: PostgresServer) -> None:
        _run(
            _binaries() / "pg_basebackup",
            f"--dbname={primary.url()}",
            f"--pgdata={self.data}",
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
            *([] if self._durable else ["--no-sync"]),
        )

    def _make_certificate(self) -> None:
        _run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=ensue-test", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-keyout", str(self._place / "server.key"), "-out", str(self.certificate)),
        )

    def _write_settings(self) -> None:
        ours: dict[str, str | int] = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "128MB",
            "fsync": "on" if self._durable else "off",
            "lc_messages": "C",
            "hba_file": str(self._place / "access.conf"),
        }
        if self._tls:
            key = str(self._place / "server.key")
            ours |= {"ssl": "on", "ssl_cert_file": str(self.certificate), "ssl_key_file": key}
        lines = [
            f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in (ours | self.settings).items()
        ]
        self._place.joinpath("access.conf").write_text("".join(f"{line}\n" for line in (*self.access, *_ACCESS)))
        self._place.joinpath("settings.conf").write_text("".join(f"{line}\n" for line in lines))
        main = self.data / "postgresql.conf"
        text = main.read_text().partition("# settings of the test")[0]
        main.write_text(f"{text}# settings of the test\ninclude '{self._place}/settings.conf'\n")

    def _started(self) -> bool:
        """What `pg_ctl` looks at: the eighth line of this file. The first tells the file of this start from an older one."""
        if not self._running.running():
            return True  # there is nothing to wait for any more
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


def empty_schema(url: str) -> str:
    """A new, empty schema in the database of this URL, and the URL that leads there. Takes milliseconds; what is not in a
    schema, like channels of NOTIFY, advisory locks and roles, is shared with all others."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"options": f"-csearch_path={name}"}, quote_via=quote))))
    return urlunsplit(parts._replace(query=query))


def new_role(url: str, *, password: str = "secret", schema: str | None = None) -> str:
    """A new role that may log in with this password and nothing else, and the URL that leads there as this role. Its search
    path is `schema`, or an empty schema of its own: this way, because a pooler takes no `options`."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    role, path = sql.Identifier(name), sql.Identifier(schema or name)
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(role, path))
        if schema is None:
            connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(path, role))
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"))


def empty_database(url: str) -> str:
    """A new, empty database on the server of this URL, and the URL that leads there. Takes a tenth of a second."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _binaries() -> Path:
    if (folder := installed()) is None:
        raise ServerError(ADVICE)
    return folder


@cache
def _version() -> str:
    return _run(_binaries() / "postgres", "--version").split()[2]


def _initialise(data: Path, *options: str) -> None:
    _run(
        _binaries() / "initdb",
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-instructions",
        *options,
    )


@cache
def _initialised() -> int:
    """A new data folder to be unpacked, which takes a tenth of the time of making one. In memory: nothing is left of it."""
    file = os.memfd_create("initialised")
    with tempfile.TemporaryDirectory(prefix="ensue-postgresql-", dir=_memory()) as folder:
        give_away(Path(folder))
        _initialise(Path(folder) / "data", "--no-sync")
        _run("tar", "-cC", folder, "data", result=file)
    return file


def _memory() -> str | None:
    """Where to put what need not be durable: in memory, if there is plenty, which spares a server most of its start."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free >= ROOM else None


def give_away(folder: Path) -> None:
    """To the user that servers run as."""
    if (user := account()) is not None:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)


def account() -> str | None:
    """The user that servers run as; None for our own."""
    return "postgres" if os.geteuid() == 0 else None


def _run(*command: str | Path, given: int | None = None, result: int = subprocess.PIPE) -> str:
    """What it printed, if that goes to no file, with a file to be read from its beginning. As the user of the server, with no setting of ours for PostgreSQL from the environment."""
    user = account()
    if given is not None:
        os.lseek(given, 0, os.SEEK_SET)
    ended = subprocess.run(
        command,
        cwd="/",
        user=user,
        group=user,
        extra_groups=[] if user else None,
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        stdin=subprocess.DEVNULL if given is None else given,
        stdout=result,
        stderr=subprocess.PIPE,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
    )
    if ended.returncode:
        raise ServerError(f"{Path(command[0]).name} failed with {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout or ""


def reserved_port() -> socket.socket:
    """A port that the kernel gives to nobody else as long as this is open. Bound and not listening, it does not stop the
    server from listening there: both allow the reuse of an address."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, 0))
    return held
