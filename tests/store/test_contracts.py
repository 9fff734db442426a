"""Every adapter is held to the contract that others are given."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path

import apsw
import pytest

from ensue.store.base import Store
from ensue.store.memory import MemoryStore
from ensue.store.sqlite import SqliteStore
from ensue.testing.contracts import DurableContract, SharedContract, SqlContract, StoreContract
from ensue.testing.simulation import memory_database

_numbers = itertools.count()


class TestMemory(StoreContract):
    _store: MemoryStore | None = None

    def store(self) -> Store:
        self._store = self._store or MemoryStore()
        return self._store


class TestSqliteFile(StoreContract, DurableContract, SharedContract, SqlContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    def store(self) -> Store:
        return SqliteStore(str(self.path))


class TestSqliteInMemory(StoreContract, SharedContract, SqlContract):
    @pytest.fixture(autouse=True)
    def _database(self) -> Generator[None, None, None]:
        self.path = memory_database(f"contract-{next(_numbers)}")
        keeper = apsw.Connection(
            self.path, flags=apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        yield
        keeper.close()

    def store(self) -> Store:
        return SqliteStore(self.path)
