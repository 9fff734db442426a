"""The open transaction, as functions inside it see it.

Its statements block the loop until they are answered, as they do on SQLite: a change of thread would cost more than they do,
and nobody else may write meanwhile anyway. A function that runs no statement costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import psycopg

from ensue.errors import Misuse
from ensue.events.stored import Row
from ensue.store.base import Selection
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.reading import select
from ensue.store.postgresql.session import Call, Rows, Session, Statement

__all__ = ["PostgresqlTransaction", "checked", "numbered"]

_SAVEPOINT = Statement("SAVEPOINT ensue_request")()
_RELEASE = Statement("RELEASE SAVEPOINT ensue_request")()
_BACK = Statement("ROLLBACK TO SAVEPOINT ensue_request")()
_ENDS_TRANSACTIONS = frozenset(
    ("ABORT", "BEGIN", "COMMIT", "END", "PREPARE", "RELEASE", "ROLLBACK", "SAVEPOINT", "START", "VACUUM")
)
_OUTLASTS_TRANSACTIONS = frozenset(("DEALLOCATE", "DISCARD", "LISTEN", "RESET", "UNLISTEN"))
_SET_FOR_NOW = ("LOCAL", "CONSTRAINTS", "TRANSACTION")
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKENS = re.compile(
    r"""
    [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"      # texts and names
    | \$(?P<quote>\w*)\$.*?\$(?P=quote)\$ | --[^\n]* | /\*.*?\*/    # quoted in dollars, comments
    | \?\? | \?\d*
    """,
    re.VERBOSE | re.DOTALL,
)


@lru_cache(maxsize=1024)
def numbered(sql: str) -> str:
    """SQL with `?` for values, as everywhere in Ensue, in PostgreSQL's own form. An operator of JSON is written `??`.
    Errors: `Misuse` for a numbered one."""
    count = 0

    def one(token: re.Match[str]) -> str:
        nonlocal count
        if token[0] == "?":
            count += 1
            return f"${count}"
        if token[0].startswith("?") and token[0] != "??":
            raise Misuse(f"{token[0]} is not for every database: write ? for each value, and give them in order")
        return "?" if token[0] == "??" else token[0]

    return _TOKENS.sub(one, sql)


@lru_cache(maxsize=1024)
def checked(sql: str) -> None:
    """Errors: `Misuse` for a statement that would end the transaction, or change its session for good."""
    words = [word.rstrip(";").upper() for word in _COMMENTS.sub(" ", sql).split(None, 2)[:2]]
    first, second = (*words, "", "")[:2]
    if first in _ENDS_TRANSACTIONS:
        raise Misuse(f"{first} inside the application's transaction: it begins, commits and rolls back by itself")
    if first in _OUTLASTS_TRANSACTIONS or (first == "SET" and second not in _SET_FOR_NOW):
        raise Misuse(
            f"{first} inside the application's transaction: the session is the log's, and would keep it. Write SET LOCAL for "
            "what is to hold until the commit"
        )


class PostgresqlTransaction:
    """What the functions of one request are given. All of them are undone together."""

    def __init__(self, session: Session, earlier: list[Call], names: Names, *, head: int, batch: object) -> None:
        self.head = head
        self.batch = batch
        self.types = names.by_number
        self._names = names
        self._session = session
        self._unsent = earlier
        """What an earlier request left to be sent before anything else."""
        self._begun = False
        self.broken: psycopg.Error | None = None
        """What an earlier request's statement raised: nothing of the batch can be kept."""

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[object, ...]]:
        """Run one statement and return all its rows. Errors: those of psycopg, after which the transaction takes no further
        statement; `Misuse` for one that would end the transaction, and with it the promise that all of the request is
        stored or nothing, or that would change the session for good."""
        checked(sql)
        if isinstance(values, Mapping):
            raise Misuse("named parameters are not for every database: write ? for each value, and give them in order")
        return list(self._run(self._session.dumped(numbered(sql), values)))

    def later(self, sql: str, values: Sequence[object] = (), /) -> None:
        """See `WriterTransaction.later`: it goes with the next flight."""
        checked(sql)
        call = self._session.dumped(numbered(sql), values)
        self._unsent.extend([call] if self._begun else [_SAVEPOINT, call])
        self._begun = True

    def read(self, selection: Selection, *, after: int, limit: int) -> list[Row]:
        """See `WriterTransaction.read`. What this batch appends is sent later."""
        return self._run(
            select(selection, self._names.expand, after=after, before=1 << 62, limit=limit, backwards=False)
        )

    def _run(self, call: Call) -> Rows:
        if any(one is not _SAVEPOINT and one is not _RELEASE for one in self._unsent):
            # An error of what was to be sent later may be that of another request, which is accepted already.
            unsent = list(self._unsent)
            self._unsent.clear()
            try:
                self._session.run_now(*unsent)
            except psycopg.Error as error:
                self.broken = error
                raise
        before = [*self._unsent, *(() if self._begun else (_SAVEPOINT,))]
        self._unsent.clear()
        self._begun = True
        return self._session.run_now(*before, call)[-1]

    def check(self) -> None:
        """Errors: `Misuse` when a statement of the function failed, and it went on as if nothing had been."""
        if self._begun and self._session.failed:
            raise Misuse(
                "a statement failed, and the function caught its error: on PostgreSQL nothing more can be done in that "
                "transaction. Let the error out, or ask before whether the statement can succeed"
            )

    def keep(self) -> None:
        """The functions succeeded."""
        if self._begun:
            self._unsent.append(_RELEASE)

    def undo(self) -> None:
        """One of them failed: nothing of them is kept."""
        if self._begun and self._session.lost is None:
            unsent = list(self._unsent)
            self._unsent.clear()
            self._session.run_now(*unsent, _BACK, _RELEASE)
