"""Which rows of a view an event touches, and what becomes of them. Pure: it knows no database.

A row's key is made of the values of the event's tags of the key's names, as they stand beside the stored payload, so that it stays
what it was when fields are renamed; an event with two such tags touches two rows. Where a type has no such tag, it is the value of
its field of that name. None is no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from operator import attrgetter
from typing import Any

import msgspec

from ensue.consumers.routing import ONE_ORDER
from ensue.domain.columns import Column, Kind
from ensue.domain.view import View, ViewDefinition
from ensue.domain.views.table import Key
from ensue.errors import DefinitionError
from ensue.events.message import Event, declaration
from ensue.events.personal import FORGOTTEN, SubjectForgotten, personal_fields, plain_type
from ensue.events.recorded import Recorded, UnknownEvent, archived_error
from ensue.events.registry import Read, Registry
from ensue.events.stored import Row, decode_meta
from ensue.events.upcasting import Parts
from ensue.store.base import Selection, Term

__all__ = ["Reading"]

_UNKNOWN: Any = object()


class Reading:
    """The events of a view, read with the types of an application."""

    def __init__(self, definition: ViewDefinition, registry: Registry) -> None:
        self.definition = definition
        name, fold = definition.row.__name__, definition.fold
        if Event in fold.events:
            raise DefinitionError(f"{name}: say which events evolve reads; a view of every event would have no key")
        self.covered = registry.covering(fold.events)
        self._forgetting = tuple(column.name for column in definition.columns if column.forgets)
        if self._forgetting:
            self._check_subject()
            self.covered = tuple(dict.fromkeys((*self.covered, *registry.covering((SubjectForgotten,)))))
        self.names = tuple(dict.fromkeys(registry.names(self.covered)))
        self.selection: Selection = (Term(types=self.names),)
        self.former_names = {one: was for one, was in registry.former().items() if one in self.names}
        self.key_tag = self._order()
        """By which tag its events are handled in order: that of the rows where each event touches at most one, else all."""
        self._registry = registry
        self._row, self._evolve, self._recorded = definition.row, fold.evolve, fold.recorded
        self._fields = tuple(field for field, _ in definition.key)
        columns = {column.name: column for column in definition.columns}
        self._parts = [(columns[field], tag) for field, tag in definition.key]
        for event in self.covered:
            if event is not SubjectForgotten:
                self._check(event)
        self._readers: dict[int, tuple[str, int, Read]] = {}
        self._direct: dict[int, Any] = {}
        self._keys_of: dict[type[Event], Callable[[Event, Iterable[str]], Sequence[Key]]] = {}

    def _check_subject(self) -> None:
        """Errors: `DefinitionError` for a row with personal data of somebody else than its key says: nobody would find it to forget
        it."""
        tags = tuple(tag for _, tag in self.definition.key)
        subjects = {field.subject[1] for event in self.covered for field in personal_fields(event)}
        if subjects != set(tags) or len(tags) != 1:
            raise DefinitionError(
                f"{self.definition.row.__name__}.{self._forgetting[0]} is personal, so each row is of one subject, its key: it is found by "
                f"{', '.join(tags)}, and what it reads is of {', '.join(sorted(subjects)) or 'nobody'}. Keep it in a view of its own "
                "with the subject's key, or in plain SQL where a handler of SubjectForgotten takes it out"
            )

    def _check(self, event: type[Event]) -> None:
        tags = _tags_of(event)
        for field, tag in self.definition.key:
            if tag not in tags and tag not in event.__struct_fields__:
                raise DefinitionError(
                    f"the rows of {self._row.__name__} are found by {field!r}, and {event.__name__}, which it reads, has no such key, "
                    f"tag or field; its tags are: {', '.join(sorted(tags)) or 'none'}; its fields: "
                    f"{', '.join(event.__struct_fields__) or 'none'}"
                )

    def _order(self) -> str | None:
        if len(self.names) > len({declaration(event).name for event in self.covered}):
            return ONE_ORDER  # types that are gone have become others, and a stored event may touch several rows
        # That somebody was forgotten stands in the stream of the subject, which the rows are found by.
        covered = [event for event in self.covered if event is not SubjectForgotten]
        for _, tag in self.definition.key:
            if all(declaration(event).key is not None and _tags_of(event).count(tag) == 1 for event in covered):
                own = all(_tags_of(event)[0] == tag for event in covered)
                return None if own else tag
        return ONE_ORDER

    # --------------------------------------------------------------------------------------------------------- events

    def events(self, row: Row, types: Mapping[int, tuple[str, int]], log_id: str) -> Iterable[Recorded[Any]]:
        """The events of the view that a stored one is read as. Errors: `UnreadableEvent` where this code is too old for it; what
        decoding raises."""
        found = self._readers.get(row[2])
        if found is None:
            name, version = types[row[2]]
            found = self._readers[row[2]] = (name, version, self._registry.reader(name, version))
        name, version, read = found
        try:
            event = read(row[11])
        except Exception as error:
            if self._dropped(row, types, error):
                return ()
            raise
        if not isinstance(event, Parts):
            return (Recorded(event, row, name, version, log_id),)
        parts = self._registry.selected(event, row, [(self.names, ())])
        return [Recorded(one, row, name, version, log_id, part) for part, one in parts]

    @staticmethod
    def _dropped(row: Row, types: Mapping[int, tuple[str, int]], error: Exception) -> bool:
        """Whether it is a payload that retention dropped, which is passed over. Errors: `ArchivedEvent`."""
        gone = archived_error(row, types[row[2]][0])
        if gone is not None and gone.file:
            raise gone from error
        return gone is not None

    def knows(self, type_number: int, types: Mapping[int, tuple[str, int]]) -> None:
        """Errors: `UnreadableEvent` where this code is too old for events of that number."""
        self._registry.reader(*types[type_number])

    # ----------------------------------------------------------------------------------------------------------- rows

    def keys(self, recorded: Recorded[Any]) -> Sequence[Key]:
        """The keys of the rows that it touches, each once. Errors: `msgspec.ValidationError` for a value that is no key of the
        view's type."""
        event = recorded.event
        keys_of = self._keys_of.get(type(event))
        if keys_of is None:
            keys_of = self._keys_of[type(event)] = self._keyer(type(event))
        if recorded.part:
            keyed = self._registry.keyed(event)
            return keys_of(event, (keyed.key or "", *keyed.tags))
        meta = decode_meta(recorded.row[10])
        return keys_of(event, (meta.key or "", *meta.tags))

    def touched(
        self, rows: Iterable[Row], types: Mapping[int, tuple[str, int]], log_id: str
    ) -> Iterator[tuple[Row, Key, Any]]:
        """For each stored event, and each row that it touches: the key, and what `after` is given. Errors: as `events`, `keys`."""
        recorded, numbered = self._recorded, self._direct
        for row in rows:
            direct = numbered.get(row[2], _UNKNOWN)
            if direct is _UNKNOWN:
                direct = numbered[row[2]] = self._directly(*types[row[2]])
            if direct is not None:
                try:
                    event = direct[0](row[11])
                except Exception as error:
                    if self._dropped(row, types, error):
                        continue
                    raise
                yield row, (direct[1](event),), event
                continue
            for one in self.events(row, types, log_id):
                for key in self.keys(one):
                    yield row, key, one if recorded else one.event

    def _directly(self, name: str, version: int) -> tuple[Callable[[bytes], Any], Callable[[Any], Any]] | None:
        """How to decode, and to find the one row, where that needs no look at what stands beside the payload: the row is that of
        the event's own key, and the payload is as the code writes it, so that its field is what the key was made of."""
        event = next((one for one in self.covered if declaration(one).name == name), None)
        declared = declaration(event) if event is not None else None
        if declared is None or declared.key is None or declared.version != version or self._recorded:
            return None
        (column, tag), *others = self._parts
        if others or tag != declared.key[1] or _tags_of(event).count(tag) != 1:
            return None
        get = attrgetter(declared.key[0])
        if column.kind is Kind.TEXT and column.plain and declared.key[0] in _texts_of(event):
            return self._registry.decoder(name, version), get
        return self._registry.decoder(name, version), lambda event: _typed(column, get(event))

    def follow(self, row: View | None, key: Key, recorded: Recorded[Any]) -> View | None:
        """The row of that key after the event; None where there is none any more. The row given is used up. Errors: what evolve
        raises; `TypeError`, `ValueError` for what is no row of that key."""
        return self.after(row, key, recorded if self._recorded else recorded.event)

    def after(self, row: View | None, key: Key, event: Any) -> View | None:
        """The same, for an event as `evolve` takes it."""
        told = event.event if isinstance(event, Recorded) else event
        if isinstance(told, SubjectForgotten):
            for name in self._forgetting if row is not None else ():
                setattr(row, name, FORGOTTEN)
            return row
        if row is None:
            row = self._row(**dict(zip(self._fields, key, strict=True)))
        after: View | None = self._evolve(row, event)
        if after is None:
            return None
        if after.__class__ is not self._row:
            raise TypeError(
                f"{self._row.__name__}.evolve returned a value of type {type(after).__name__}; it returns the row, or None to delete it"
            )
        for field, value in zip(self._fields, key, strict=True):
            if getattr(after, field) != value:
                raise ValueError(
                    f"{self._row.__name__}.evolve made {getattr(after, field)!r} of the key {field}={value!r}; a row keeps its key"
                )
        return after

    def key_given(self, values: Sequence[object]) -> Key:
        """A key as somebody asks for it. Errors: `TypeError` for too few or too many values; `msgspec.ValidationError`."""
        if len(values) != len(self._fields):
            raise TypeError(
                f"{self._row.__name__} is found by {', '.join(self._fields)}; given were {len(values)} values: {list(values)!r}"
            )
        return tuple(_typed(column, value) for (column, _), value in zip(self._parts, values, strict=True))

    def _keyer(self, event: type[Event]) -> Callable[[Event, Iterable[str]], Sequence[Key]]:
        if issubclass(event, UnknownEvent):
            return lambda _event, _texts: ()
        tags = _tags_of(event) if event is not SubjectForgotten else [tag for _, tag in self._parts]
        columns = [(column, tag, tag in tags) for column, tag in self._parts]
        if len(columns) == 1 and columns[0][2]:
            column, tag, _ = columns[0]
            read, prefix = _reader(column), f"{tag}="
            size = len(prefix)

            def by_one_tag(_event: Event, texts: Iterable[str]) -> Sequence[Key]:
                return [(read(text[size:]),) for text in texts if text.startswith(prefix)]

            return by_one_tag

        def by_all(event: Event, texts: Iterable[str]) -> Sequence[Key]:
            values: list[list[Any]] = []
            for column, name, is_tag in columns:
                if is_tag:
                    prefix = f"{name}="
                    found = [text.removeprefix(prefix) for text in texts if text.startswith(prefix)]
                    values.append([_reader(column)(text) for text in found])
                else:
                    value = getattr(event, name)
                    values.append([] if value is None else [_typed(column, value)])
            return list(dict.fromkeys(product(*values)))

        return by_all


def _tags_of(event: type[Event] | None) -> list[str]:
    """The names of its tags, that of its key first, each as often as it is declared."""
    if event is None:
        return []
    declared = declaration(event)
    return [tag for _, tag in ((declared.key,) if declared.key else ()) + declared.tags]


def _texts_of(event: type[Event] | None) -> list[str]:
    """The fields that are plain texts."""
    info = msgspec.inspect.type_info(plain_type(event) if event is not None else event)
    assert isinstance(info, msgspec.inspect.StructType)
    return [field.name for field in info.fields if isinstance(field.type, msgspec.inspect.StrType)]


def _reader(column: Column) -> Callable[[str], Any]:
    """From the text of a tag to a value of the key's field."""
    if column.kind is Kind.TEXT and column.plain:
        return str
    return lambda text: _from_text(column, text)


@lru_cache(maxsize=4096)
def _from_text(column: Column, text: str) -> Any:
    return msgspec.convert(text, column.hint, strict=False)


def _typed(column: Column, value: Any) -> Any:
    if column.kind is Kind.TEXT and column.plain and type(value) is str:
        return value
    try:
        return msgspec.convert(value, column.hint)
    except msgspec.ValidationError:
        return msgspec.convert(msgspec.to_builtins(value, str_keys=True), column.hint, strict=False)
