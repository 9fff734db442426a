"""A log made once a process, copied for each test; and the program, called as a user would."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from threading import Timer
from typing import TypeAlias

import apsw
import pytest
from click.testing import CliRunner, Result

from ensue.cli.program import ensue
from tests.cli.bakery import APP, PUBLISH
from tests.cli.shop import fill

Ensue: TypeAlias = Callable[..., Result]
Start: TypeAlias = Callable[..., subprocess.Popen[str]]
Sql: TypeAlias = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(scope="session")
def filled_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `fill`. Closed."""
    file = tmp_path_factory.mktemp("filled") / "shop.db"
    asyncio.run(fill(f"sqlite:///{file}"))
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """An empty folder, which is the current one, without ENSUE_URL. What the test imports from it is forgotten after."""
    known, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENSUE_URL", raising=False)
    yield tmp_path
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def log_file(filled_log: Path, folder: Path) -> Path:
    """A copy of the filled log, shop.db in the current folder."""
    return Path(shutil.copy(filled_log, folder / "shop.db"))


@pytest.fixture
def ensue_() -> Ensue:
    """Run `ensue` with these arguments in this process."""

    def call(*arguments: object, **environment: str) -> Result:
        return CliRunner().invoke(ensue, [str(argument) for argument in arguments], env=environment)

    return call


@pytest.fixture
def start(folder: Path) -> Generator[Start]:
    """Start `ensue` in a process of its own, in the current folder. It is killed at the end of the test, or after a minute."""
    processes: list[tuple[subprocess.Popen[str], Timer]] = []

    def begin(*arguments: str, cwd: Path = folder) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "ensue.cli", *arguments],
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = Timer(60, process.kill)
        deadline.start()
        processes.append((process, deadline))
        return process

    yield begin
    for process, deadline in processes:
        deadline.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def sql(log_file: Path) -> Sql:
    """Change the closed log with plain SQL."""

    def run(statement: str, *values: int | str | bytes) -> list[tuple[object, ...]]:
        connection = apsw.Connection(str(log_file))
        try:
            return list(connection.execute(statement, values))
        finally:
            connection.close()

    return run


@pytest.fixture
def bakery(folder: Path) -> Path:
    (folder / "app.py").write_text(APP)
    (folder / "publish.py").write_text(PUBLISH)
    return folder


@pytest.fixture
def running(bakery: Path, start: Start) -> Start:
    """Start `ensue run app:app`, or with other arguments."""
    return lambda *arguments: start("run", *(arguments or ("app:app",)))
