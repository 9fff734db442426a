"""What states and views have in common: a value that follows from events. `evolve(value, event)` is the next value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from ensue.consumers.handler import hints_of, reacted_to
from ensue.errors import DefinitionError, UnreadableEvent
from ensue.events.message import Event, tag_text
from ensue.events.recorded import Recorded
from ensue.events.registry import Read, Registry, declaration
from ensue.events.stored import Draft, Row, tag_hash
from ensue.events.upcasting import Parts
from ensue.store.base import Selection, Term

__all__ = ["Fold", "FoldMeta", "FoldType", "Folding", "Key", "evolved", "fold_of", "key_pairs"]

S = TypeVar("S")
F = TypeVar("F", bound="FoldMeta")

Key: TypeAlias = str | tuple[str, ...] | Mapping[str, str] | None


class FoldType(msgspec.Struct, frozen=True, kw_only=True):
    """What a state or view class declares. `key` holds pairs of a field and its tag's name."""

    key: tuple[tuple[str, str], ...] = ()
    table: str | None = None
    index: tuple[str, ...] = ()
    version: int | None = None


class FoldMeta(msgspec.StructMeta):
    """Takes the keywords of a state or view class."""

    def __new__(
        mcls: type[F],
        cls_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        key: Key = None,
        table: str | None = None,
        index: tuple[str, ...] = (),
        version: int | None = None,
        kw_only: bool = True,
    ) -> F:
        cls = super().__new__(mcls, cls_name, bases, namespace, kw_only=kw_only)
        inherited: FoldType = getattr(cls, "__ensue_fold__", FoldType())
        declared = FoldType(
            key=key_pairs(cls_name, key) or inherited.key,
            table=table,
            index=(index,) if isinstance(index, str) else tuple(index),
            version=version,
        )
        type.__setattr__(cls, "__ensue_fold__", declared)
        return cls


def key_pairs(name: str, key: Key) -> tuple[tuple[str, str], ...]:
    """A declared key as pairs of a field and its tag's name. Errors: `DefinitionError`."""
    if key is None:
        return ()
    given: Any = key
    pairs: tuple[Any, ...] = ()
    if isinstance(given, str):
        pairs = ((given, given),)
    elif isinstance(given, Mapping):
        pairs = tuple(given.items())
    elif isinstance(given, tuple):
        pairs = tuple((field, field) for field in given)
    if not pairs or not all(isinstance(part, str) and part.isidentifier() for pair in pairs for part in pair):
        raise DefinitionError(f"{name}: key={given!r}; write a field, a tuple of fields, or {{'field': 'tag'}}")
    return pairs


class Fold(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """A fold as it was declared: its initial value, its function, and the events it reads, without their subclasses.

    `key` is what says whose events those are: pairs of a message's field and a tag. Without it, all of these types are read.
    `recorded` folds see events with their place and time.
    """

    name: str
    initial: Callable[[], S]
    evolve: Callable[[S, Any], S]
    events: tuple[type[Event], ...]
    key: tuple[tuple[str, str], ...] = ()
    recorded: bool = False


def fold_of(kind: type[S], local_names: Mapping[str, Any]) -> Fold[S]:
    """What a state or view class says. Errors: `DefinitionError`."""
    evolve = getattr(kind, "evolve", None)
    declared: FoldType = vars(kind).get("__ensue_fold__", FoldType())
    if evolve is None:
        raise DefinitionError(
            f"{kind.__name__} has no evolve: write `def evolve(self, event: Deposited | Withdrawn) -> Self`, which says what "
            "follows from each event"
        )
    events, recorded = evolved(f"{kind.__name__}.evolve", evolve, local_names)
    return Fold(
        name=kind.__name__, initial=kind, evolve=evolve, events=events, key=declared.key, recorded=recorded
    )  # fmt: skip


def evolved(
    name: str, evolve: Callable[..., Any], local_names: Mapping[str, Any]
) -> tuple[tuple[type[Event], ...], bool]:
    """The events that an `evolve(value, event)` reads, and whether it takes them as `Recorded`. Errors: `DefinitionError`."""
    parameters = list(inspect.signature(evolve).parameters)
    if inspect.iscoroutinefunction(evolve) or len(parameters) != 2:
        raise DefinitionError(
            f"{name} is a plain function of a value and one event, and returns the value that follows"
        )
    return reacted_to(name, parameters[1], hints_of(evolve, local_names).get(parameters[1]))


class Folding(Generic[S]):
    """A fold, ready for use with the types of an application."""

    def __init__(self, fold: Fold[S], registry: Registry) -> None:
        self.fold = fold
        covered = registry.covering(fold.events)
        self.names = tuple(dict.fromkeys(registry.names(covered)))
        self._registry = registry
        self._readers: dict[int, Read] = {}
        self._places: dict[int, tuple[str, int]] = {}
        for event in covered:
            declared = declaration(event)
            tags = {tag for _, tag in ((declared.key,) if declared.key else ()) + declared.tags}
            missing = [tag for _, tag in fold.key if tag not in tags]
            if missing:
                raise DefinitionError(
                    f"{fold.name} is found by {missing[0]!r}, and {declared.name}, which it reads, has no such key or tag; "
                    f"it has: {', '.join(sorted(tags)) or 'none'}"
                )

    def tags(self, message: object, fields: Sequence[str] | None = None) -> tuple[bytes, ...]:
        """The tags by which a message names the value it is about. Errors: `InvalidEvent`, `ValueError` where a field is None."""
        found: list[bytes] = []
        for (field, tag), other in zip(self.fold.key, fields or [field for field, _ in self.fold.key], strict=True):
            text = tag_text(message, other, tag)
            if text is None:
                raise ValueError(
                    f"{type(message).__name__}: {other} is None, and it says which {self.fold.name} is meant ({field})"
                )
            found.append(tag_hash(text))
        return tuple(found)

    def term(self, tags: tuple[bytes, ...]) -> Term:
        """What selects the events of one value."""
        return Term(types=self.names, tags=tags)

    def reads(self, draft: Draft, tags: tuple[bytes, ...]) -> bool:
        """Whether a draft is one of the events of that value."""
        return draft.type_name in self.names and all(tag == draft.stream or tag in draft.tags for tag in tags)

    def follow(
        self,
        value: S,
        rows: Sequence[Row],
        types: Mapping[int, tuple[str, int]],
        log_id: str,
        selection: Selection = (),
    ) -> S:
        """The value after these rows, which are all of its events. `selection` is what they were read by: of an event that is
        read as several, the value follows those that match it. Errors: `UnreadableEvent` for an event that cannot be decoded,
        or on which the fold raises."""
        evolve, readers, recorded = self.fold.evolve, self._readers, self.fold.recorded
        for row in rows:
            number = row[2]
            read = readers.get(number)
            if read is None:
                self._places[number] = types[number]
                read = readers[number] = self._registry.reader(*types[number])
            try:
                event: Any = read(row[11])
                events = ((0, event),) if not isinstance(event, Parts) else self._parts(event, row, selection)
            except (msgspec.MsgspecError, ValueError, TypeError, KeyError, UnreadableEvent) as error:
                name, version = types[number]
                raise UnreadableEvent(
                    f"the {name} at position {row[0]}, version {version}, cannot be decoded for {self.fold.name}: {error}"
                ) from error
            try:
                for part, one in events:
                    value = evolve(value, Recorded(one, row, *self._places[number], log_id, part) if recorded else one)
            except Exception as error:
                raise UnreadableEvent(
                    f"{self.fold.name} cannot follow the {types[number][0]} at position {row[0]}: evolve raised "
                    f"{type(error).__name__}: {error}. It is in the log for good: evolve must take it"
                ) from error
        return value

    def _parts(self, parts: Parts, row: Row, selection: Selection) -> tuple[tuple[int, Event], ...]:
        terms = [(term.types or self.names, term.tags) for term in selection] or [(self.names, ())]
        return tuple(self._registry.selected(parts, row, terms))
