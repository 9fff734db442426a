"""Names of types and their numbers in one log, as this process knows them."""

from __future__ import annotations

from collections.abc import Sequence, Set

from ensue.store.postgresql.session import Call, Rows, Statement

__all__ = ["Names"]

_REVISION = Statement("SELECT names FROM ensue_log")
_TYPES = Statement("SELECT id, name, version FROM ensue_event_type")
_FORMER = Statement("SELECT former, name FROM ensue_former_name")


class Names:
    """Numbers of (name, version), and which names count as which, as they were at `revision`.

    Numbers that a batch adds are given under the log's lock, so they are nobody else's; `commit` or `roll_back` ends it.
    """

    def __init__(self) -> None:
        self.revision = -1
        self.by_number: dict[int, tuple[str, int]] = {}
        self.former: dict[str, str] = {}
        self.added: list[tuple[int, str, int]] = []
        self._numbers: dict[tuple[str, int], int] = {}

    @staticmethod
    def queries() -> list[Call]:
        """What `load` wants the rows of. The revision is read first, so that it is never newer than the names."""
        return [_REVISION(), _TYPES(), _FORMER()]

    def load(self, results: Sequence[Rows]) -> None:
        revision, types, former = results
        if revision[0][0] < self.revision:
            return
        self.revision = revision[0][0]
        self.by_number = {number: (name, version) for number, name, version in types}
        self._numbers = {pair: number for number, pair in self.by_number.items()}
        for number, name, version in self.added:  # by the batch under way: what it has added may be among what was read
            self._numbers[name, version] = number
        self.former = dict(former)

    @property
    def known(self) -> Set[tuple[str, int]]:
        """Names and versions that have a number."""
        return self._numbers.keys()

    def number(self, name: str, version: int) -> int:
        """The number of this type; a new one if it has none."""
        number = self._numbers.get((name, version))
        if number is None:
            number = self._numbers[name, version] = max(self._numbers.values(), default=0) + 1
            self.added.append((number, name, version))
        return number

    @property
    def revision_after(self) -> int:
        """The revision once the batch is stored."""
        return self.revision + 1 if self.added else self.revision

    def commit(self) -> None:
        """What the batch has added is stored."""
        if self.added and not all(number in self.by_number for number, _, _ in self.added):
            self.revision += 1
            self.by_number = {**self.by_number, **{number: (name, version) for number, name, version in self.added}}
        self.added = []

    def roll_back(self) -> None:
        """What the batch has added is not stored."""
        if self.added:
            self.added = []
            self._numbers = {pair: number for number, pair in self.by_number.items()}

    def counts_as(self, name: str, names: Sequence[str]) -> bool:
        """Whether the name is one of these, now or formerly."""
        return self.former.get(name, name) in {self.former.get(other, other) for other in names}

    def expand(self, names: Sequence[str]) -> list[int]:
        """All numbers whose name is one of these, now or formerly."""
        if not names:
            return []
        wanted = {self.former.get(name, name) for name in names}
        return [number for number, (name, _) in self.by_number.items() if self.former.get(name, name) in wanted]
