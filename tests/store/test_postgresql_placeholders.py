"""`?` for values, as in every database of Ensue, in PostgreSQL's own form."""

from __future__ import annotations

import pytest

from ensue.errors import Misuse
from ensue.store.postgresql.transaction import numbered


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("SELECT 1", "SELECT 1"),
        ("INSERT INTO book VALUES (?, ?)", "INSERT INTO book VALUES ($1, $2)"),
        ("SELECT ?::jsonb ?? 'a', x ??| ?", "SELECT $1::jsonb ? 'a', x ?| $2"),
        ("SELECT 'why?', 'it''s ?', E'\\'?', ?", "SELECT 'why?', 'it''s ?', E'\\'?', $1"),
        ('SELECT "odd ?""name?" FROM t WHERE a = ?', 'SELECT "odd ?""name?" FROM t WHERE a = $1'),
        ("SELECT $$ ? $$, $body$ $$?$$ $body$, ?", "SELECT $$ ? $$, $body$ $$?$$ $body$, $1"),
        ("SELECT ? -- really?\n, ? /* sure? */", "SELECT $1 -- really?\n, $2 /* sure? */"),
    ],
)
def test_each_question_mark_that_stands_for_a_value_gets_its_number(written: str, sent: str) -> None:
    assert numbered(written) == sent


def test_a_numbered_one_is_refused_because_it_would_mean_something_else_elsewhere() -> None:
    with pytest.raises(Misuse, match=r"\?1 is not for every database"):
        numbered("SELECT ?1, ?1")
