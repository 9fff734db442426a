"""Indexes of a version's table: those that the view declares, and those that an owner made on the version before."""

from __future__ import annotations

import re

from ensue.domain.views import registry
from ensue.domain.views.registry import POSTGRESQL, Database, Version
from ensue.domain.views.table import Table, quoted
from ensue.errors import ApplyFailed
from ensue.store.base import SqlTransaction

__all__ = ["make"]

_SUFFIX = re.compile(r"__v\d+$")
_HEAD = re.compile(
    r'^\s*CREATE\s+(?P<unique>UNIQUE\s+)?INDEX\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"(?:[^"]|"")*"|[^\s"]+)\s+'
    r'ON\s+(?:ONLY\s+)?(?:(?:"(?:[^"]|"")*"|[^\s".(]+)\.)?(?:"(?:[^"]|"")*"|\[[^\]]*\]|`[^`]*`|[^\s"(]+)\s*(?P<rest>(?:USING|\().*)$',
    re.IGNORECASE | re.DOTALL,
)


async def make(store: Database, table: Table, version: Version, *, unique: bool = True) -> str | None:
    """Make all that are missing, each in a transaction of its own; without `unique` those only that refuse no row. What could not be
    made, for people: an owner's index on a column that is gone, say. Errors: those of the store."""
    there = {name for name, _ in await _of(store, table.name)}
    before = [one for one in await registry.versions(store) if one.name == version.name and one.current]
    wanted = {_named(statement): statement for statement in table.indexes()}
    if before and before[0].number != version.number:
        former = registry.table_name(version.name, before[0].number)
        for name, text in await _of(store, former):
            found = _HEAD.match(text)
            if name.startswith(f"{former}_by_") or found is None:
                continue  # the view's own
            anew = f"{_SUFFIX.sub('', name)}__v{version.number}"
            refusing = "UNIQUE " if found["unique"] else ""
            wanted[anew] = f"CREATE {refusing}INDEX {quoted(anew)} ON {quoted(table.name)} {found['rest']}"
    failures: list[str] = []
    for name, statement in wanted.items():
        if name in there or (not unique and statement.startswith("CREATE UNIQUE")):
            continue
        try:
            await registry.write(store, _once(statement))
        except ApplyFailed as error:
            failures.append(f"{name}: {error.__cause__}")
    return f"without indexes that could not be made: {'; '.join(failures)}"[:1000] if failures else None


def _once(statement: str) -> registry.Work:
    def execute(sql: SqlTransaction) -> None:
        sql.execute(statement)

    return execute


def _named(statement: str) -> str:
    return statement.split('"')[1]


async def _of(store: Database, table: str) -> list[tuple[str, str]]:
    """The indexes of a table, without that of its key: name and statement."""
    if store.dialect == POSTGRESQL:
        text = (
            "SELECT c.relname::text, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = to_regclass(?) AND NOT i.indisprimary ORDER BY 1"
        )
        return [(str(name), str(sql)) for name, sql in await store.select(text, (quoted(table),))]
    text = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL ORDER BY name"
    return [(str(name), str(sql)) for name, sql in await store.select(text, (table,))]
