"""A real pooler for tests: PgBouncer, from Debian's package, in front of a PostgreSQL server.

It asks the server for the passwords of roles, and takes all of them. A pooler ends with the process that started it.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from tests.servers.guarded import GuardedProcess
from tests.servers.postgresql import HOST, SUPERUSER, PostgresAddress, account, give_away, reserved_port
from tests.servers.processes import ServerError, until

__all__ = ["ADVICE", "Pooler", "installed"]

ADVICE = "PgBouncer is not installed; on Debian: apt install pgbouncer"


def installed() -> Path | None:
    """The program; None where there is none. It stands where only administrators look."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


class Pooler:
    """`with Pooler(server, mode="transaction") as pooler:` runs one in front of the server. `connections` is how many it opens
    there, at most, for each database and role."""

    def __init__(
        self,
        server: PostgresAddress,
        *,
        mode: Literal["transaction", "session", "statement"] = "transaction",
        connections: int = 20,
    ) -> None:
        self._server = server
        self._mode = mode
        self._connections = connections
        self._folder: Path | None = None
        self._port: socket.socket | None = None
        self._process: GuardedProcess | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        assert self._port is not None, "a pooler has a port while it runs"
        return int(self._port.getsockname()[1])

    def pooled(self, url: str) -> str:
        """The URL of the server, led through this pooler."""
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[0]}@{HOST}:{self.port}"
        return urlunsplit(parts._replace(netloc=place))

    def close(self) -> None:
        """End it and remove its folder."""
        if self._process is not None and self._process.running():
            self._process.kill()
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def _start(self) -> None:
        program = installed()
        if program is None:
            raise ServerError(ADVICE)
        self._folder = Path(tempfile.mkdtemp(prefix="ensue-pgbouncer-"))
        self._port = reserved_port()
        self._write_settings(self._folder)
        give_away(self._folder)
        log = self._folder / "pooler.log"
        command = [str(program), str(self._folder / "pgbouncer.ini")]
        self._process = GuardedProcess(command, account(), self._folder, log)
        until(self._started, f"PgBouncer was to take connections; see {log}")
        if not self._process.running():
            raise ServerError(f"PgBouncer did not start; {self._process.last_words()}")

    def _write_settings(self, folder: Path) -> None:
        folder.joinpath("users.txt").write_text(f'"{SUPERUSER}" ""\n')
        folder.joinpath("pgbouncer.ini").write_text(
            f"""[databases]
* = host={HOST} port={self._server.port} auth_user={SUPERUSER}
[pgbouncer]
listen_addr = {HOST}
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
auth_query = SELECT usename, passwd FROM pg_shadow WHERE usename = $1
pool_mode = {self._mode}
default_pool_size = {self._connections}
max_client_conn = 500
server_idle_timeout = 1
server_login_retry = 0.1
"""
        )

    def _started(self) -> bool:
        assert self._process is not None
        if not self._process.running():
            return True  # there is nothing to wait for any more
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0
