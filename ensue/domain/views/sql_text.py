"""SQL as text: which of its words name the tables of a view, and the same text with other names for them.

A view in plain SQL has tables of its own for each version. Its author writes `daily`; the statement that runs says `daily__v3`.
Strings, comments and parameters are left alone; what could mean something else is refused, never guessed. Knows the words of SQLite
and of PostgreSQL, and no database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from ensue.errors import DefinitionError, Misuse

__all__ = ["Schema", "own_statement", "parse_schema", "renamed"]

LONGEST_NAME = 50
"""PostgreSQL cuts names off at 63 bytes, and the version stands behind it."""
_TOKEN = re.compile(
    r"""
      (?P<space>\s+ | --[^\n]* | /\*(?:(?!/\*).)*?\*/)
    | (?P<text>[eE]'(?:[^'\\]|\\.|'')*' | (?:[xXbBnN]|[uU]&)?'(?:[^']|'')*' | [uU]&"(?:[^"]|"")*"
        | \$(?P<quote>[^\W\d]\w*|)\$.*?\$(?P=quote)\$)
    | (?P<quoted>"(?:[^"]|"")*" | `[^`]*`)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<other>:: | [:@$?]\w+ | \d[\w.]* | [^'"`])
    """,
    re.VERBOSE | re.DOTALL,
)
_CHANGES = frozenset(("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "WITH", "SELECT", "VALUES"))
_NO_TARGET_BEHIND = frozenset(("DO", "FOR", "KEY", "THEN", "ON", "OF"))
_BEFORE_TARGET = frozenset(("ONLY", "OR", "ROLLBACK", "ABORT", "REPLACE", "FAIL", "IGNORE"))


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str

    @property
    def name(self) -> str | None:
        """What it names, if it may name something: as the database reads it, in small letters where it stands without quotes."""
        if self.kind == "word":
            return self.text.lower()
        return self.text[1:-1] if self.kind == "quoted" else None

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.upper() in words


class Schema(msgspec.Struct, frozen=True):
    """The tables of a view in plain SQL, and the statements that make them, in order."""

    tables: tuple[str, ...]
    indexes: tuple[str, ...]
    statements: tuple[str, ...]

    def of(self, version: int) -> Mapping[str, str]:
        """What its tables are called in a version."""
        return {name: f"{name}__v{version}" for name in self.tables}

    def made(self, version: int) -> list[str]:
        """The statements that make the tables of a version, and their indexes."""
        names = {**self.of(version), **{name: f"{name}__v{version}" for name in self.indexes}}
        return [renamed(statement, names) for statement in self.statements]


def _tokens(sql: str, refuse: Callable[[str], Exception]) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None or match.lastgroup is None:
            raise refuse(f"a text or comment does not end: {sql[at : at + 40]!r}")
        kind = match.lastgroup if match.lastgroup != "quote" else "text"
        if kind == "other" and sql.startswith("/*", at):
            raise refuse(
                "a comment that does not end, or stands within another, means different things to different databases"
            )
        found.append(_Token(kind, match[0]))
        at = match.end()
    return found


def _said(tokens: Sequence[_Token]) -> list[_Token]:
    return [token for token in tokens if token.kind != "space"]


def _split(tokens: Sequence[_Token]) -> Iterator[list[_Token]]:
    """Its statements, without what says nothing."""
    statement: list[_Token] = []
    for token in (*tokens, _Token("other", ";")):
        if token.text != ";":
            statement.append(token)
        elif _said(statement):
            yield statement
            statement = []


# ------------------------------------------------------------------------------------------------------------ schema


def parse_schema(name: str, schema: str) -> Schema:
    """What the statements of a view's schema make: tables of its own, and indexes on them. Errors: `DefinitionError`."""

    def refuse(why: str) -> DefinitionError:
        return DefinitionError(f"{name}: schema= {why}")

    tables: list[str] = []
    indexes: list[str] = []
    statements: list[str] = []
    parsed = list(_split(_tokens(schema, refuse)))
    for statement in parsed:
        made = _made(_said(statement), refuse)
        (tables if made[0] == "TABLE" else indexes).append(made[1])
        statements.append("".join(token.text for token in statement).strip())
    if not tables:
        raise refuse('makes no table; write schema="CREATE TABLE daily (day TEXT PRIMARY KEY, orders INTEGER)"')
    names = [*tables, *indexes]
    for one in names:
        if names.count(one) > 1:
            raise refuse(f"makes {one} twice")
    for statement in parsed:
        _check_names(_said(statement), names, refuse)
    return Schema(tuple(tables), tuple(indexes), tuple(statements))


def _made(said: list[_Token], refuse: Callable[[str], Exception]) -> tuple[str, str]:
    """What a statement makes, and its name."""
    rest = [token for token in said if not token.is_word("UNIQUE")]
    if len(rest) < 3 or not rest[0].is_word("CREATE") or not rest[1].is_word("TABLE", "INDEX"):
        shown = " ".join(token.text for token in said[:3])
        raise refuse(
            f"makes tables and their indexes, nothing else: {shown} … is neither CREATE TABLE nor CREATE INDEX"
        )
    at = 2
    if [token.text.upper() for token in rest[2:5]] == ["IF", "NOT", "EXISTS"]:
        at = 5
    name = rest[at].name if at < len(rest) else None
    if name is None or not name.isidentifier() or name != name.lower() or len(name) > LONGEST_NAME or "__v" in name:
        raise refuse(
            f"names {rest[at].text if at < len(rest) else 'nothing'}; a name is of at most {LONGEST_NAME} small letters, digits "
            "and _, without __v, behind which the version stands"
        )
    if name.startswith(("ensue_", "sqlite_", "pg_")):
        raise refuse(f"names {name}; names that begin like this are the database's and the log's")
    if at + 1 < len(rest) and rest[at + 1].text == ".":
        raise refuse(
            f"names {name}.…; tables are made where the log's are, or in the database= that is said: leave it out"
        )
    if rest[1].is_word("TABLE") and not any(token.text == "(" for token in rest):
        raise refuse(f"makes {name} without columns of its own")
    return rest[1].text.upper(), name


def _check_names(said: list[_Token], names: Sequence[str], refuse: Callable[[str], Exception]) -> None:
    """Errors: what `refuse` makes, where the name of a table or an index stands for something else as well."""
    for at, token in enumerate(said):
        if token.name is None or token.name.lower() not in names:
            continue
        before = said[at - 1] if at else None
        names_it = before is not None and before.is_word("TABLE", "INDEX", "EXISTS", "ON", "REFERENCES")
        behind = said[at + 1].text if at + 1 < len(said) else ""
        if not names_it and behind != ".":
            raise refuse(
                f"uses {token.text} for what it makes and for something else: call the column, or whatever it is, differently, so that "
                "it is known which is meant in a statement"
            )


# -------------------------------------------------------------------------------------------------------- statements


def renamed(sql: str, names: Mapping[str, str]) -> str:
    """The same statement with these tables, and indexes, called differently. Errors: `Misuse` for what cannot be told."""

    def refuse(why: str) -> Misuse:
        return Misuse(f"{why}, in the statement {sql.strip()[:80]!r}")

    parts: list[str] = []
    before = ""
    for token in _tokens(sql, refuse):
        name = token.name
        if name is not None and name.lower() in names:
            if name not in names:
                raise refuse(
                    f"{token.text} is {name.lower()} to one database and another table to others: write {name.lower()}"
                )
            if before == ".":
                raise refuse(
                    f"…{'.'}{token.text} may be the view's table or somebody's column: write the table's name alone, and give "
                    "the column another name"
                )
            quote = token.text[0] if token.kind == "quoted" else ""
            parts.append(f"{quote}{names[name]}{quote}")
        else:
            parts.append(token.text)
        if token.kind != "space":
            before = token.text
    return "".join(parts)


def own_statement(sql: str, tables: Sequence[str]) -> None:
    """Errors: `Misuse` for a statement that does more than read rows, and change those of the view's own tables: a view is made
    anew from the log at any time, and whatever else it did would be done again."""

    def refuse(why: str) -> Misuse:
        return Misuse(f"{why}, in the statement {sql.strip()[:80]!r} of a view")

    statements = list(_split(_tokens(sql, refuse)))
    if len(statements) != 1:
        raise refuse("one statement at a time")
    said = _said(statements[0])
    if not said[0].is_word(*_CHANGES):
        raise refuse(f"{said[0].text.upper()} does more than read and change rows; tables are made by schema=")
    for at, token in enumerate(said):
        target = _target(said, at, token)
        if target is not None and (target.name is None or target.name.lower() not in tables):
            raise refuse(
                f"{token.text.upper()} … {target.text} changes what is not the view's: a view is made anew from the log at any "
                f"time, and would change it again. Its own are: {', '.join(tables)}"
            )


def _target(said: list[_Token], at: int, token: _Token) -> _Token | None:
    """The table that a word is about to change."""
    before = said[at - 1] if at else None
    after_dot = before is not None and before.text == "."
    if not token.is_word("INTO", "UPDATE", "DELETE") or after_dot:
        return None
    if token.is_word("UPDATE", "DELETE") and before is not None and before.is_word(*_NO_TARGET_BEHIND):
        return None
    rest = said[at + 1 :]
    if token.is_word("DELETE"):
        if not (rest and rest[0].is_word("FROM")):
            return None
        rest = rest[1:]
    while rest and rest[0].is_word(*_BEFORE_TARGET):
        rest = rest[1:]
    return rest[0] if rest else token
