"""Every adapter is held to the contract that others are given."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from pathlib import Path

import apsw
import pytest

from ensue.store.base import Store
from ensue.store.memory import MemoryStore, MemoryTransfer
from ensue.store.postgresql import PostgresqlStore
from ensue.store.postgresql.transfer import PostgresqlTransfer
from ensue.store.sqlite import SqliteStore
from ensue.store.sqlite.transfer import SqliteTransfer
from ensue.store.transfer import Transfer
from ensue.testing.contracts import DurableContract, SharedContract, SqlContract, StoreContract, TransferContract
from ensue.testing.simulation import memory_database
from tests.servers.postgresql import PostgresAddress, empty_schema

_numbers = itertools.count()


class TestMemory(StoreContract, TransferContract):
    @pytest.fixture(autouse=True)
    def _stores(self) -> None:
        self._here, self._elsewhere = MemoryStore(), MemoryStore()

    def store(self) -> Store:
        return self._here

    def transfer(self) -> Transfer:
        return MemoryTransfer(self._here)

    def elsewhere(self) -> tuple[Store, Transfer]:
        return self._elsewhere, MemoryTransfer(self._elsewhere)


class TestSqliteFile(StoreContract, DurableContract, SharedContract, SqlContract, TransferContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.db"

    def store(self) -> Store:
        return SqliteStore(str(self.path))

    def transfer(self) -> Transfer:
        return SqliteTransfer(str(self.path))

    def elsewhere(self) -> tuple[Store, Transfer]:
        path = str(self.path.with_name("elsewhere.db"))
        return SqliteStore(path), SqliteTransfer(path)


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


class TestPostgresql(StoreContract, DurableContract, SharedContract, SqlContract, TransferContract):
    @pytest.fixture(autouse=True)
    def _schema(self, postgresql: PostgresAddress) -> None:
        self.url = empty_schema(postgresql.url())
        self._elsewhere: str | None = None
        self._server = postgresql.url()

    def store(self) -> Store:
        return PostgresqlStore(self.url)

    def transfer(self) -> Transfer:
        return PostgresqlTransfer(self.url)

    def elsewhere(self) -> tuple[Store, Transfer]:
        self._elsewhere = self._elsewhere or empty_schema(self._server)
        return PostgresqlStore(self._elsewhere), PostgresqlTransfer(self._elsewhere)


class TestPostgresqlForManyWriters(StoreContract, DurableContract, SharedContract, SqlContract, TransferContract):
    @pytest.fixture(autouse=True)
    def _schema(self, postgresql: PostgresAddress) -> None:
        self.url = f"{empty_schema(postgresql.url())}&ensue_writers=many"
        self._elsewhere: str | None = None
        self._server = postgresql.url()

    def store(self) -> Store:
        return PostgresqlStore(self.url)

    def transfer(self) -> Transfer:
        return PostgresqlTransfer(self.url)

    def elsewhere(self) -> tuple[Store, Transfer]:
        self._elsewhere = self._elsewhere or f"{empty_schema(self._server)}&ensue_writers=many"
        return PostgresqlStore(self._elsewhere), PostgresqlTransfer(self._elsewhere)
