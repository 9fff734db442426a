"""Real Kafka servers for tests and benchmarks, in KRaft mode, from the files that `.ci/kafka` fetches.

A server is one process of Java, broker and controller at once, with a folder and ports of its own. It listens on loopback alone
and ends with the process that started it. It starts in about a second and a half: its classes come from an archive that the
first start on a machine makes, and only the fast half of the compiler is used.

What was confirmed survives the death of the process. Nothing waits for the disk, like on any Kafka server by default.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.servers.guarded import GuardedProcess
from tests.servers.postgresql import HOST, reserved_port
from tests.servers.processes import PATIENCE_SECONDS, ServerError, until
from tests.servers.server import Server

__all__ = ["ADVICE", "KafkaAddress", "KafkaServer", "installed"]

ADVICE = "Kafka is not installed; .ci/kafka fetches it where there are Java 17 and Maven"
ROOM = 4 << 30
_ADMINISTRATOR = "administrator"
_JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_LOGGING = """
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.network.name = org.apache.kafka.common.network.Selector
logger.network.level = info
"""
_SETTINGS: Mapping[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "auto.create.topics.enable": "false",
    "num.partitions": 1,
    "offsets.topic.num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # A test waits for what a person would not notice.
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 500,
    # After it was killed, a server must wait until the one before counts as dead.
    "broker.session.timeout.ms": 1000,
    "broker.heartbeat.interval.ms": 200,
    "controller.quorum.election.timeout.ms": 100,
    "controller.quorum.election.backoff.max.ms": 50,
    # Small, since there is one for each process of a run.
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "log.cleaner.dedupe.buffer.size": 2 << 20,
    "log.index.size.max.bytes": 64 << 10,
    "offsets.topic.segment.bytes": 8 << 20,
}


def installed() -> Path | None:
    """The folder of the newest version there is, if there is Java too; None where there is none."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensue" / "kafka"
    folders = [folder for folder in place.glob("[0-9]*") if (folder / "jars").is_dir()]
    if not folders or shutil.which("java") is None:
        return None
    return max(folders, key=lambda folder: [int(part) for part in folder.name.split(".") if part.isdecimal()])


@dataclass(frozen=True)
class KafkaAddress:
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
            parameters = {"tls": "yes", "tls_ca": str(self.certificate)} | parameters
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"kafka://{credentials}{HOST}:{self.port}{query}"


class KafkaServer(Server):
    """One server: `with KafkaServer() as server:` starts it and, at the end, removes all traces of it.

    `settings` are those of server.properties; they may be changed, and hold from the next start. `users` are names with their
    passwords, who log in by PLAIN or SCRAM-SHA-256; without them everybody may. With `tls` the server speaks TLS alone, with a
    certificate of its own making (`certificate`); with `tls="verify"` it also wants one of its clients, and takes that one with
    `key`. `place` is a folder to put its own into.

    All methods return when it is done, and raise `ServerError` with the last lines of the server's log if it was not.
    """

    def __init__(
        self,
        *,
        tls: bool | str = False,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, str | int] | None = None,
        place: Path | None = None,
    ) -> None:
        super().__init__()
        self.settings = dict(settings or {})
        self._tls = tls
        self._users = dict(users or {})
        self._parent = place
        self._ports: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The same through all stops and starts; nobody else gets it meanwhile."""
        return self._port(0)

    @property
    def version(self) -> str:
        return _home().name

    @property
    def address(self) -> KafkaAddress:
        return KafkaAddress(self.port, self.version, self.certificate if self._tls else None)

    def url(self, *, user: str | None = None, password: str | None = None, **parameters: str) -> str:
        """See `KafkaAddress.url`."""
        return self.address.url(user=user, password=password, **parameters)

    def start(self) -> None:
        """Start it, the first time with a new data folder; returns when it can be used."""
        self._start(_archive())

    def stop(self) -> None:
        """In good order."""
        self._running.send(signal.SIGTERM)
        self._running.ended()

    def _port(self, which: int) -> int:
        assert self._ports, "a server has a port from its first start until it is closed"
        return int(self._ports[which].getsockname()[1])

    def _start(self, archive: tuple[str, ...]) -> None:
        assert not self.running(), "it runs"
        if self._folder is None:
            self._make()
        self._write_settings()
        before = self.log.stat().st_size if self.log.exists() else 0
        command = [*_java(self._place), *archive, "kafka.Kafka", str(self._place / "server.properties")]
        # Java takes SIGQUIT as a request to show what its threads do.
        self._process = GuardedProcess(command, None, self._place, self.log, ending=signal.SIGKILL)
        until(lambda: self._started(before), f"Kafka was to take connections; see {self.log}")
        if not self._running.running():
            raise ServerError(f"Kafka did not start; {self._running.last_words()}")

    def _started(self, before: int) -> bool:
        if not self._running.running():
            return True  # there is nothing to wait for any more
        with self.log.open("rb") as file:
            file.seek(before)
            return b"Kafka Server started" in file.read()

    def _release_ports(self) -> None:
        for port in self._ports:
            port.close()
        self._ports = []

    def _make(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ensue-kafka-", dir=self._parent or _memory()))
        self._ports = [reserved_port(), reserved_port()]
        self._place.joinpath("logging.properties").write_text(_LOGGING)
        if self._tls:
            self._make_certificate()
        self._write_settings()
        if self._users:
            self._format()
        else:
            # What Kafka's own tool for new folders does, which takes as long as the start of the server.
            data = self._place / "data"
            data.mkdir()
            data.joinpath("meta.properties").write_text(f"version=1\nnode.id=1\ncluster.id={uuid.uuid4().hex}\n")

    def _format(self) -> None:
        """With Kafka's own tool: users of SCRAM are in the data from the beginning."""
        users = (f"SCRAM-SHA-256=[name={name},password={password}]" for name, password in self._users.items())
        command = (
            *(*_java(self._place), "kafka.tools.StorageTool", "format", "--cluster-id", str(uuid.uuid4())),
            *("--config", str(self._place / "server.properties")),
            *(option for user in users for option in ("--add-scram", user)),
        )
        _run(*command)

    def _make_certificate(self) -> None:
        _run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=ensue-test", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )
        both = self.key.read_text() + self.certificate.read_text()
        self._place.joinpath("server.pem").write_text(both)

    def _write_settings(self) -> None:
        protocol = ("SASL_" if self._users else "") + ("SSL" if self._tls else "PLAINTEXT")
        client, controller = f"CLIENT://{HOST}:{self._port(0)}", f"CONTROLLER://{HOST}:{self._port(1)}"
        ours: dict[str, str | int] = {
            **_SETTINGS,
            "listeners": f"{client},{controller}",
            "advertised.listeners": client,
            "listener.security.protocol.map": f"CLIENT:{protocol},CONTROLLER:PLAINTEXT",
            "controller.quorum.voters": f"1@{HOST}:{self._port(1)}",
            "log.dirs": str(self._place / "data"),
        }
        if self._tls:
            ours |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self._place / "server.pem"),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.certificate),
                "ssl.client.auth": "required" if self._tls == "verify" else "none",
            }
        if self._users:
            users = {_ADMINISTRATOR: uuid.uuid4().hex} | self._users
            plain = " ".join(f'user_{name}="{password}"' for name, password in users.items())
            own = f'username="{_ADMINISTRATOR}" password="{users[_ADMINISTRATOR]}"'
            module = "org.apache.kafka.common.security"
            ours |= {
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                "listener.name.client.plain.sasl.jaas.config": f"{module}.plain.PlainLoginModule required {own} {plain};",
                "listener.name.client.scram-sha-256.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
            }
        lines = (f"{name}={value}\n" for name, value in (ours | self.settings).items())
        self._place.joinpath("server.properties").write_text("".join(lines))


def _home() -> Path:
    if (folder := installed()) is None:
        raise ServerError(ADVICE)
    return folder


def _java(place: Path) -> tuple[str, ...]:
    """Named one by one and in order: an archive of classes holds for the same list of files only."""
    jars = ":".join(str(jar) for jar in sorted((_home() / "jars").glob("*.jar")))
    return ("java", *_JAVA, f"-Dlog4j2.configurationFile={place}/logging.properties", "-cp", jars)


@cache
def _archive() -> tuple[str, ...]:
    """The option that makes a server start in half the time: its classes, loaded and checked. Java looks itself whether the
    archive is of this Java and of these files, and does without it if not."""
    java = Path(shutil.which("java") or "java").resolve()
    archive = _home() / f"classes-{java.parents[1].name}.jsa"
    if not archive.exists():
        made = archive.with_suffix(f".{uuid.uuid4().hex}")
        server = KafkaServer()
        try:
            server._start((f"-XX:ArchiveClassesAtExit={made}",))
            server.stop()
        finally:
            server.close()
        made.rename(archive)  # at once: another process may look for it
    return (f"-XX:SharedArchiveFile={archive}", "-Xshare:auto")


def _memory() -> str | None:
    """In memory, if there is plenty: nothing here needs to survive a loss of power."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free >= ROOM else None


def _run(*command: str) -> None:
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if ended.returncode:
        raise ServerError(f"{Path(command[0]).name} failed with {ended.returncode}: {ended.stdout}{ended.stderr}")
