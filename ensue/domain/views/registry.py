"""What the log knows of the versions of its views: the table `ensue_view`, and every change of it.

A version is *building* (its builder reads history into a table of its own, `NAME__vN`) or *following* (the consumer `view.NAME.vN`
goes on behind the position where the building ended). One following version of a name may be *current*: the SQL view NAME shows
its table. Each change is a compare-and-set on the row's `rev`, inside the transaction that also does what the change says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeAlias

import msgspec

from ensue.consumers.node import VIEWS
from ensue.domain.view import ViewDefinition
from ensue.domain.views.table import quoted
from ensue.errors import ApplyFailed, WiringError
from ensue.events.fingerprint import fingerprint_of
from ensue.events.message import Event
from ensue.store.base import Request, SqlTransaction, Store

__all__ = [
    "BUILDING",
    "FOLLOWING",
    "HELD_UP",
    "POSTGRESQL",
    "Database",
    "Stale",
    "Version",
    "Work",
    "change",
    "consumer_name",
    "create",
    "creation",
    "drop",
    "fingerprint",
    "is_there",
    "lock",
    "of_name",
    "prepare",
    "rebuild",
    "shape",
    "show",
    "table_name",
    "versions",
    "write",
]

Work: TypeAlias = Callable[[SqlTransaction], object]
"""Part of a transaction."""

BUILDING, FOLLOWING = "building", "following"
HELD_UP = "readers do not see it yet"
"""How a reason begins that ends when they do."""
POSTGRESQL = "postgresql"


class Database(Store, Protocol):
    """A store whose database has tables beside the log."""

    dialect: str

    async def select(self, sql: str, values: Sequence[object] = (), /) -> list[tuple[Any, ...]]:
        """A reading statement, without blocking the loop. Errors: those of `Log.read`."""
        ...


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a view."""

    name: str
    number: int
    fingerprint: str
    """Of the code that it is built by. The newest version with the code's own fingerprint is the code's."""
    shape: str
    """Of its columns: two versions of one shape have rows of one type."""
    kept: str
    """How it is kept: after, by a consumer; by its position: inline, elsewhere, or followed (plain SQL)."""
    state: str
    position: int
    """Everything up to here was in it when it was building, and is where its consumer began."""
    owner: str | None
    """The process that builds it, by its node's id."""
    began_at: int | None
    """When its table was made."""
    changed_at: int
    reason: str | None
    """Why it is not further, for people."""
    paused: bool
    ready: bool
    """It has caught up with the log once."""
    current: bool
    pinned: bool
    """A person made it current; no version becomes that by itself meanwhile."""
    rev: int = 0


_FIELDS = (
    "name", "number", "fingerprint", "shape", "kept", "state", "position", "owner", "began_at", "changed_at", "reason",
    "paused", "ready", "current", "pinned", "rev",
)  # fmt: skip
_COLUMNS = ", ".join(quoted(name) for name in _FIELDS)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS ensue_view (name TEXT NOT NULL, number {int} NOT NULL, fingerprint TEXT NOT NULL, "
    "shape TEXT NOT NULL, kept TEXT NOT NULL, state TEXT NOT NULL, position {int} NOT NULL, owner TEXT, began_at {int}, "
    "changed_at {int} NOT NULL, reason TEXT, paused INTEGER NOT NULL, ready INTEGER NOT NULL, current INTEGER NOT NULL, "
    "pinned INTEGER NOT NULL, rev {int} NOT NULL, PRIMARY KEY (name, number)){strict}"
)


_LOCKS_SOON = "SET LOCAL lock_timeout = '300ms'"
"""Whoever reads the name keeps it as it is until the end of the reading, and the log's writers would wait for it with us."""
_LOCKS_AS_EVER = "SET LOCAL lock_timeout TO DEFAULT"


class Stale(Exception):
    """The version is not what it was read as: somebody else has changed it."""


def table_name(name: str, number: int) -> str:
    """The table of a version."""
    return f"{name}__v{number}"


def consumer_name(name: str, number: int) -> str:
    """The consumer of a version."""
    return f"{VIEWS}{name}.v{number}"


# --------------------------------------------------------------------------------------------------------- reading


async def versions(store: Database) -> list[Version]:
    """All versions of all views, by name and number. Errors: those of the store."""
    if not await is_there(store, "ensue_view"):
        return []
    return [_version(row) for row in await store.select(f"SELECT {_COLUMNS} FROM ensue_view ORDER BY name, number")]


async def is_there(store: Database, table: str) -> bool:
    """Whether the database has a table of this name."""
    if store.dialect == POSTGRESQL:
        found = await store.select("SELECT to_regclass(?)::text", (quoted(table),))
    else:
        found = await store.select("SELECT max(name) FROM sqlite_schema WHERE name = ?", (table,))
    return found[0][0] is not None


def of_name(sql: SqlTransaction, name: str) -> list[Version]:
    """The versions of a view, oldest first, inside a transaction."""
    rows = sql.execute(f"SELECT {_COLUMNS} FROM ensue_view WHERE name = ? ORDER BY number", (name,))
    return [_version(row) for row in rows]


def _version(row: Sequence[Any]) -> Version:
    values = dict(zip(_FIELDS, row, strict=True))
    for flag in ("paused", "ready", "current", "pinned"):
        values[flag] = bool(values[flag])
    return Version(**values)


# --------------------------------------------------------------------------------------------------------- writing


async def write(store: Database, *functions: Work) -> None:
    """Run functions in one transaction of the log's writer. Errors: `Stale`; `ApplyFailed` by what else they raise; those of the
    store."""

    def apply(sql: SqlTransaction) -> tuple[()]:
        for function in functions:
            function(sql)
        return ()

    await store.room()
    try:
        await store.write(Request(apply=(apply,)))
    except ApplyFailed as error:
        if isinstance(error.__cause__, Stale | WiringError):
            raise error.__cause__ from None
        raise


async def prepare(store: Database) -> None:
    """Make the table, where it is not there."""
    await write(store, lambda sql: sql.execute(creation(store.dialect)))


def creation(dialect: str) -> str:
    """The statement that makes the table, where it is not there."""
    server = dialect == POSTGRESQL
    return _TABLE.format(int="BIGINT" if server else "INTEGER", strict="" if server else " STRICT")


def lock(sql: SqlTransaction, name: str) -> None:
    """Nobody else changes a version of this view before this transaction has ended."""
    sql.execute("UPDATE ensue_view SET rev = rev WHERE name = ?", (name,))


def create(
    sql: SqlTransaction, definition: ViewDefinition, printed: str, shaped: str, *, used: int, now: int, dialect: str
) -> None:
    """A version for code with this fingerprint, unless there is one. `used` is the highest number that a consumer has. Errors:
    `WiringError` where the name is that of something else in the database."""
    lock(sql, definition.name)
    known = of_name(sql, definition.name)
    if any(version.fingerprint == printed for version in known):
        return
    if not known and (found := _relation(sql, definition.name, dialect)):
        raise WiringError(
            f"the view {definition.row.__name__} is to be read as {definition.name!r}, and this database has a {found} of that name "
            f'already: give the view another one, class {definition.row.__name__}(View, table="…")'
        )
    number = max([used, *(version.number for version in known)], default=0) + 1
    _insert(
        sql,
        Version(
            name=definition.name, number=number, fingerprint=printed, shape=shaped, kept=definition.when, state=BUILDING,
            position=0, owner=None, began_at=None, changed_at=now, reason=None, paused=False, ready=False, current=False,
            pinned=False,
        ),
    )  # fmt: skip


def rebuild(sql: SqlTransaction, version: Version, *, used: int, now: int) -> int:
    """One more version by the same code, from the beginning. Its number."""
    lock(sql, version.name)
    number = max(used, *(one.number for one in of_name(sql, version.name))) + 1
    anew = msgspec.structs.replace(
        version, number=number, state=BUILDING, position=0, owner=None, began_at=None, changed_at=now, reason=None,
        paused=False, ready=False, current=False, pinned=False, rev=0,
    )  # fmt: skip
    _insert(sql, anew)
    return number


def _insert(sql: SqlTransaction, version: Version) -> None:
    places = ", ".join("?" * len(_FIELDS))
    values = [_plain(getattr(version, name)) for name in _FIELDS]
    sql.execute(f"INSERT INTO ensue_view ({_COLUMNS}) VALUES ({places})", values)


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def change(sql: SqlTransaction, version: Version, **changes: object) -> Version:
    """The version with these fields changed. Errors: `Stale`."""
    sets = ", ".join(f"{quoted(name)} = ?" for name in changes)
    values = [*map(_plain, changes.values()), version.name, version.number, version.rev]
    found = sql.execute(
        f"UPDATE ensue_view SET {sets}, rev = rev + 1 WHERE name = ? AND number = ? AND rev = ? RETURNING rev", values
    )
    if not found:
        raise Stale(f"version {version.number} of {version.name} was changed by somebody else")
    return msgspec.structs.replace(version, rev=version.rev + 1, **changes)


def show(sql: SqlTransaction, version: Version, *, dialect: str, now: int, pinned: bool = False) -> Version:
    """Make a version current: from this transaction on its name shows its table. Errors: `Stale`; those of the database, as
    where something of an owner's depends on the columns as they were."""
    lock(sql, version.name)
    before = next((one for one in of_name(sql, version.name) if one.current), None)
    if before is not None and before.number != version.number:
        change(sql, before, current=False, pinned=False, changed_at=now)
    reason = None if version.reason is not None and version.reason.startswith(HELD_UP) else version.reason
    after = change(sql, version, current=True, pinned=pinned, changed_at=now, reason=reason)
    name, table = quoted(version.name), quoted(table_name(version.name, version.number))
    if dialect == POSTGRESQL:
        sql.execute(_LOCKS_SOON)
    if dialect == POSTGRESQL and before is not None and before.shape == version.shape:
        sql.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM {table}")
        sql.execute(_LOCKS_AS_EVER)
        return after
    granted: list[tuple[Any, ...]] = []
    if dialect == POSTGRESQL and before is not None:
        granted = sql.execute(
            "SELECT grantee::text, privilege_type::text FROM information_schema.role_table_grants WHERE table_schema = "
            "current_schema() AND table_name = ? AND grantee <> current_user",
            (version.name,),
        )
    sql.execute(f"DROP VIEW IF EXISTS {name}")
    sql.execute(f"CREATE VIEW {name} AS SELECT * FROM {table}")
    for grantee, privilege in granted:
        to = "PUBLIC" if grantee == "PUBLIC" else quoted(str(grantee))
        sql.execute(f"GRANT {privilege} ON {name} TO {to}")
    if dialect == POSTGRESQL:
        sql.execute(_LOCKS_AS_EVER)
    return after


def drop(sql: SqlTransaction, version: Version, *, dialect: str) -> None:
    """Delete a version and its table; with the current one also the name. Errors: `Stale`."""
    found = sql.execute(
        "DELETE FROM ensue_view WHERE name = ? AND number = ? AND rev = ? RETURNING number",
        (version.name, version.number, version.rev),
    )
    if not found:
        raise Stale(f"version {version.number} of {version.name} was changed by somebody else")
    if dialect == POSTGRESQL:
        sql.execute(_LOCKS_SOON)
    if version.current:
        sql.execute(f"DROP VIEW IF EXISTS {quoted(version.name)}")
    sql.execute(f"DROP TABLE IF EXISTS {quoted(table_name(version.name, version.number))}")
    if dialect == POSTGRESQL:
        sql.execute(_LOCKS_AS_EVER)


def _relation(sql: SqlTransaction, name: str, dialect: str) -> str | None:
    """What in the database has this name."""
    if dialect == POSTGRESQL:
        found = sql.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(?)", (quoted(name),))
        return {"r": "table", "v": "view"}.get(str(found[0][0]), "relation") if found else None
    found = sql.execute("SELECT type FROM sqlite_schema WHERE name = ?", (name,))
    return str(found[0][0]) if found else None


# -------------------------------------------------------------------------------------------------------- fingerprints


def shape(definition: ViewDefinition) -> str:
    """Of columns and key: rows of one shape can be read by the same code."""
    columns = [[one.name, one.kind.value, one.optional, _schema(one.hint)] for one in definition.columns]
    return _printed([columns, [field for field, _ in definition.key]])


def fingerprint(definition: ViewDefinition, names: Sequence[str], events: Sequence[type[Event]]) -> str:
    """Of all that the rows follow from: columns, key, indexes, the events that are read, and the code of evolve with what it
    calls (see `ensue.events.fingerprint`), or the version that is declared in its place."""
    if definition.version is not None:
        code = f"version {definition.version}"
    else:
        code = fingerprint_of((definition.row,), (definition.fold.evolve,), events).hex()
    # How it is kept is part of it: where a version stands is written in another place for each way.
    way = [definition.when, definition.database is not None]
    return _printed([shape(definition), list(definition.key), list(definition.index), sorted(names), code, way])


def _printed(facts: object) -> str:
    return blake2b(msgspec.json.encode(facts, order="deterministic"), digest_size=12).hexdigest()


def _schema(hint: Any) -> Any:
    try:
        return msgspec.json.schema(hint)
    except TypeError:
        return repr(hint)
