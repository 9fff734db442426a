"""Names of types and their numbers in one log, as this process knows them."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

__all__ = ["Types"]


class Types:
    """Numbers of (name, version), and which names count as which. `by_number` holds what is committed, `numbers` also what
    the batch in flight has added: a number that is rolled back may be given to another type."""

    def __init__(self) -> None:
        self.by_number: dict[int, tuple[str, int]] = {}
        self.numbers: dict[tuple[str, int], int] = {}
        self.former: dict[str, str] = {}

    def commit(self) -> None:
        """What the batch has added is committed."""
        if len(self.numbers) > len(self.by_number):
            self.by_number = {number: pair for pair, number in self.numbers.items()}

    def roll_back(self) -> None:
        self.numbers = {pair: number for number, pair in self.by_number.items()}

    def load(self, connection: apsw.Connection) -> None:
        self.by_number = {row[0]: (row[1], row[2]) for row in connection.execute("SELECT * FROM ensue_event_type")}
        self.numbers = {**self.numbers, **{pair: number for number, pair in self.by_number.items()}}
        self.former = dict(connection.execute("SELECT former, name FROM ensue_former_name"))

    def expand(self, names: Sequence[str]) -> list[int]:
        """All numbers whose name is one of these, now or formerly."""
        if not names:
            return []
        wanted = {self.former.get(name, name) for name in names}
        return [number for (name, _), number in self.numbers.items() if self.former.get(name, name) in wanted]
