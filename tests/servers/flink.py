"""A real Flink for tests: a session cluster and an SQL gateway, from the files that `.ci/flink` fetches.

The cluster is three processes of Java: the job manager, one task manager, and the gateway that takes SQL over REST. They have
a folder and ports of their own, listen on loopback alone and end with the process that started them. They start beside each
other, with classes from archives that the first start on a machine makes, since reading classes is most of what they do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from ensue.patterns.flink.gateway import Session
from ensue.world import RealWorld
from tests.servers.guarded import GuardedProcess
from tests.servers.postgresql import HOST, reserved_port
from tests.servers.processes import ServerError, until

__all__ = ["ADVICE", "FlinkAddress", "FlinkCluster", "class_path", "installed"]

ADVICE = "Flink is not installed; .ci/flink fetches it where there are Java 17 and Maven"
SLOTS = 16
_OPENED = (
    "lang",
    "net",
    "io",
    "nio",
    "lang.reflect",
    "text",
    "time",
    "util",
    "util.concurrent",
    "util.concurrent.atomic",
)
_JAVA = (
    *("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"),
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED),
)
_PROGRAMS = {
    "jobmanager": ("-Xmx384m", "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"),
    "taskmanager": ("-Xmx1g", "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"),
    "gateway": ("-Xmx768m", "org.apache.flink.table.gateway.SqlGateway"),
}
_LOGGING = """
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""
# Patient, since a machine that tests use with many processes may not run one of them for a while.
_SETTINGS = """
jobmanager.rpc.address: {host}
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: {host}
jobmanager.memory.process.size: 1024m
taskmanager.host: {host}
taskmanager.bind-host: {host}
taskmanager.rpc.port: {task}
taskmanager.data.port: {data}
taskmanager.numberOfTaskSlots: {slots}
taskmanager.cpu.cores: 2
taskmanager.memory.task.heap.size: 512m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
rest.address: {host}
rest.bind-address: {host}
rest.port: {rest}
rest.bind-port: '{rest}'
blob.server.port: '{blob}'
sql-gateway.endpoint.rest.address: {host}
sql-gateway.endpoint.rest.bind-address: {host}
sql-gateway.endpoint.rest.port: {gateway}
sql-gateway.endpoint.rest.bind-port: '{gateway}'
execution.target: remote
execution.attached: true
parallelism.default: 1
pekko.ask.timeout: 120 s
web.timeout: 120000
client.timeout: 300 s
heartbeat.timeout: 300000
io.tmp.dirs: {folder}/tmp
web.tmpdir: {folder}/tmp
"""


def installed() -> Path | None:
    """The folder of the newest version there is, if there is Java too; None where there is none."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ensue" / "flink"
    folders = [folder for folder in place.glob("[0-9]*") if (folder / "jars").is_dir()]
    if not folders or shutil.which("java") is None:
        return None
    return max(folders, key=lambda folder: [int(part) for part in folder.name.split(".") if part.isdecimal()])


def class_path() -> str:
    """All of Flink's files, for a program of Java that wants them."""
    if (home := installed()) is None:
        raise ServerError(ADVICE)
    return ":".join(str(jar) for jar in sorted((home / "jars").glob("*.jar")))


@dataclass(frozen=True)
class FlinkAddress:
    """Where a cluster is: what a test may know of one that other tests use too."""

    gateway: str
    """The URL of the SQL gateway."""
    cluster: str
    """The URL of the job manager's REST interface."""
    version: str


class FlinkCluster:
    """One cluster with its gateway: `with FlinkCluster() as cluster:` starts it and, at the end, removes all traces of it.

    Errors: `ServerError`, with the last lines of the log of the part that did not start.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._ports: dict[str, socket.socket] = {}
        self._parts: dict[str, GuardedProcess] = {}

    @property
    def address(self) -> FlinkAddress:
        home = installed()
        assert home is not None, ADVICE
        return FlinkAddress(f"http://{HOST}:{self._port('gateway')}", f"http://{HOST}:{self._port('rest')}", home.name)

    def __enter__(self) -> Self:
        try:
            self._start(_archives())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it and remove its folder. It may be in any state."""
        for part in self._parts.values():
            if part.running():
                part.kill()
        self._parts = {}
        for port in self._ports.values():
            port.close()
        self._ports = {}
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def _start(self, archives: Mapping[str, tuple[str, ...]]) -> None:
        path = class_path()
        self._folder = folder = Path(tempfile.mkdtemp(prefix="ensue-flink-"))
        (folder / "tmp").mkdir()
        self._ports = {name: reserved_port() for name in ("rpc", "task", "data", "rest", "blob", "gateway")}
        settings = _SETTINGS.format(host=HOST, folder=folder, slots=SLOTS, **{p: self._port(p) for p in self._ports})
        folder.joinpath("config.yaml").write_text(settings)
        folder.joinpath("logging.properties").write_text(_LOGGING)
        logging = (f"-Dlog4j2.configurationFile={folder}/logging.properties", f"-Djava.io.tmpdir={folder}/tmp")
        for name, (memory, program) in _PROGRAMS.items():
            self._parts[name] = GuardedProcess(
                [
                    *(
                        "/usr/bin/env",
                        f"FLINK_CONF_DIR={folder}",
                        *_JAVA,
                        *archives[name],
                        memory,
                        *logging,
                        "-cp",
                        path,
                        program,
                    ),
                    *(() if name == "gateway" else ("--configDir", str(folder))),
                ],
                None,
                folder,
                folder / f"{name}.log",
                ending=signal.SIGKILL,  # Java takes SIGQUIT as a request to show what its threads do
            )
        until(self._started, f"Flink was to start; see {folder}")

    def _end_in_good_order(self) -> None:
        """So that Java writes what it was told to write at its end."""
        for part in self._parts.values():
            part.send(signal.SIGTERM)
        for part in self._parts.values():
            part.ended()

    def _started(self) -> bool:
        for part in self._parts.values():
            if not part.running():
                raise ServerError(f"Flink did not start; {part.last_words()}")
        overview = _answer(f"{self.address.cluster}/overview")
        return f'"slots-total":{SLOTS}' in overview and "version" in _answer(f"{self.address.gateway}/v3/info")

    def _port(self, name: str) -> int:
        return int(self._ports[name].getsockname()[1])


@cache
def _archives() -> Mapping[str, tuple[str, ...]]:
    """For each part the option with its classes, loaded and checked. Java looks itself whether an archive is of this Java and of these
    files, and does without it if not."""
    home = installed()
    assert home is not None, ADVICE
    java = Path(shutil.which("java") or "java").resolve().parents[1].name
    files = {name: home / f"{name}-{java}.jsa" for name in _PROGRAMS}
    if not all(file.exists() for file in files.values()):
        made = {name: file.with_suffix(f".{uuid.uuid4().hex}") for name, file in files.items()}
        cluster = FlinkCluster()
        try:
            cluster._start({name: (f"-XX:ArchiveClassesAtExit={file}",) for name, file in made.items()})
            asyncio.run(_work(cluster.address.gateway))
            cluster._end_in_good_order()
        finally:
            cluster.close()
        for name, file in made.items():
            file.rename(files[name])  # at once: another process may look for it
    return {name: (f"-XX:SharedArchiveFile={file}", "-Xshare:auto") for name, file in files.items()}


async def _work(gateway: str) -> None:
    """Something for which most of the classes are needed."""
    async with Session(gateway, RealWorld(), {"execution.runtime-mode": "streaming"}) as session:
        await session.execute(
            "CREATE TABLE given (k INT, n INT, t AS TO_TIMESTAMP_LTZ(n, 3), WATERMARK FOR t AS t) WITH "
            "('connector' = 'datagen', 'number-of-rows' = '10')"
        )
        await session.execute(
            "SELECT * FROM given MATCH_RECOGNIZE (PARTITION BY k ORDER BY t MEASURES A.n AS a, LISTAGG(CAST(B.n AS STRING)) AS b "
            "ONE ROW PER MATCH AFTER MATCH SKIP TO NEXT ROW PATTERN (A B*? C) WITHIN INTERVAL '1' SECOND "
            "DEFINE B AS B.n > A.n, C AS C.n > SUM(B.n))"
        )


def _answer(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""
