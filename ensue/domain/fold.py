"""What states and views have in common: a value that follows from events. `evolve(value, event)` is the next value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from ensue.consumers.handler import hints_of, reacted_to
from ensue.errors import DefinitionError, InvalidEvent, UnreadableEvent
from ensue.events.message import Event, tag_of, tag_text
from ensue.events.recorded import Criteria, Recorded, archived_error
from ensue.events.registry import Read, Registry, declaration
from ensue.events.stored import Draft, Row, tag_hash
from ensue.events.upcasting import Parts
from ensue.store.base import Selection, Term

__all__ = ["Boundary", "Fold", "FoldMeta", "FoldType", "Folding", "Key", "evolved", "fold_of", "key_pairs"]

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

    `key` is what says whose events those are: pairs of a message's field and a tag. Without it, all of these types are read;
    `criteria` says it by a function of the message instead. `kinds` are the types that its values may have.
    `recorded` folds see events with their place and time.
    """

    name: str
    initial: Callable[[], S]
    evolve: Callable[[S, Any], S]
    events: tuple[type[Event], ...]
    kinds: tuple[Any, ...]
    key: tuple[tuple[str, str], ...] = ()
    criteria: Callable[[Any], Criteria] | None = None
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
        name=kind.__name__,
        initial=kind,
        evolve=evolve,
        events=events,
        kinds=(kind,),
        key=declared.key,
        recorded=recorded,
    )


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


class Boundary(msgspec.Struct, Generic[S], frozen=True):
    """One value of a fold, by what selects its events: what a decision on it looks at, and what must not have come since."""

    folding: Folding[S]
    selection: Selection

    def reads(self, draft: Draft) -> bool:
        """Whether a draft is one of its events."""
        return any(
            (not term.types or draft.type_name in term.types)
            and all(tag == draft.stream or tag in draft.tags for tag in term.tags)
            for term in self.selection
        )


class Folding(Generic[S]):
    """A fold, ready for use with the types of an application."""

    def __init__(self, fold: Fold[S], registry: Registry) -> None:
        self.fold = fold
        self._covered = registry.covering(fold.events)
        # Whoever reads every event reads those of types that are not known here, too.
        self.names = () if Event in fold.events else tuple(dict.fromkeys(registry.names(self._covered)))
        self._registry = registry
        self._readers: dict[int, Read] = {}
        self._places: dict[int, tuple[str, int]] = {}
        self._names_of: dict[tuple[type[Event], ...], tuple[str, ...]] = {}
        for event in self._covered if self.names else ():
            declared = declaration(event)
            tags = {tag for _, tag in ((declared.key,) if declared.key else ()) + declared.tags}
            missing = [tag for _, tag in fold.key if tag not in tags]
            if missing:
                raise DefinitionError(
                    f"{fold.name} is found by {missing[0]!r}, and {declared.name}, which it reads, has no such key or tag; "
                    f"it has: {', '.join(sorted(tags)) or 'none'}"
                )

    @property
    def former_names(self) -> Mapping[str, tuple[str, ...]]:
        """Name → former names, of the types that it reads."""
        return {name: was for name, was in self._registry.former().items() if not self.names or name in self.names}

    @property
    def covered(self) -> tuple[type[Event], ...]:
        """The types that it reads, as the code knows them."""
        return self._covered

    def boundary(
        self, message: object, fields: Sequence[str] | None = None, criteria: Callable[[Any], Criteria] | None = None
    ) -> Boundary[S]:
        """The value that a message is about: by its key's fields, by others, or by criteria that are made of the message.

        Errors: `InvalidEvent`; `ValueError` where a field is None.
        """
        made_by = criteria or (self.fold.criteria if fields is None else None)
        if made_by is not None:
            return self.matching(made_by(message))
        found: list[bytes] = []
        for (field, tag), other in zip(self.fold.key, fields or [field for field, _ in self.fold.key], strict=True):
            text = tag_text(message, other, tag)
            if text is None:
                raise ValueError(
                    f"{type(message).__name__}: {other} is None, and it says which {self.fold.name} is meant ({field})"
                )
            found.append(tag_hash(text))
        return Boundary(self, (Term(self.names, tuple(found)),))

    def keyed(self, values: Sequence[object], named: Mapping[str, object]) -> Boundary[S]:
        """The value with this key: its parts in the order of the declaration, or by field. Errors: `TypeError` for too few or
        too many, `InvalidEvent` for what cannot be a tag."""
        fields = [field for field, _ in self.fold.key]
        given = dict(zip(fields, values, strict=False))
        if len(values) > len(fields) or given.keys() & named.keys() or {*given, *named} != set(fields):
            wanted = f"is found by {', '.join(fields)}" if fields else "has no key"
            raise TypeError(f"{self.fold.name} {wanted}; given were {[*values, *(f'{name}=' for name in named)]}")
        given.update(named)
        return Boundary(self, (Term(self.names, tuple(tag_hash(tag_of(tag, given[at])) for at, tag in self.fold.key)),))

    def matching(self, criteria: Criteria) -> Boundary[S]:
        """What the fold reads among what matches. Errors: `InvalidEvent` where that is nothing."""
        terms: list[Term] = []
        for types, tags in criteria.terms:
            names = self._among(types)
            if names or not (types and self.names):
                terms.append(Term(names, tags))
        if not terms:
            raise InvalidEvent(
                f"the criteria for {self.fold.name} match none of the events that it reads: {', '.join(self.names)}"
            )
        return Boundary(self, tuple(dict.fromkeys(terms)))

    def _among(self, types: tuple[type[Event], ...]) -> tuple[str, ...]:
        if not types or Event in types:
            return self.names
        names = self._names_of.get(types)
        if names is None:
            wanted = self._registry.names(self._registry.covering(types))
            names = tuple(name for name in dict.fromkeys(wanted) if not self.names or name in self.names)
            self._names_of[types] = names
        return names

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
                parts = self._parts(event, row, selection) if event.__class__ is Parts else None
            except (msgspec.MsgspecError, ValueError, TypeError, KeyError, UnreadableEvent) as error:
                name, version = types[number]
                gone = archived_error(row, name)
                raise gone or UnreadableEvent(
                    f"the {name} at position {row[0]}, version {version}, cannot be decoded for {self.fold.name}: {error}"
                ) from error
            try:
                if parts is None:
                    value = evolve(value, Recorded(event, row, *self._places[number], log_id) if recorded else event)
                    continue
                for part, one in parts:
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
