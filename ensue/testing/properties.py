"""Properties of deciders that follow from their types: found by Hypothesis, told by the shortest history that breaks them.

    def test_the_bank_keeps_its_promises() -> None:
        check_decisions(bank, never_below_its_limit)

A history is a list of commands, which are decided one after another, and of events that come from elsewhere. After each step:

1. a command is granted or refused: what else it raises is a bug; decided twice, it is decided alike
2. what is decided can be stored and read back
3. no state, and no row of a view, fails to follow: an event that is stored cannot be refused any more
4. a state that goes on from what a snapshot kept is the one that all its events lead to
5. what you say of states and rows holds
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import hypothesis
import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ensue.app import App
from ensue.consumers.handler import hints_of
from ensue.domain.command import CommandDefinition, StateParameter
from ensue.domain.fold import Boundary
from ensue.domain.forms import Form, form_of
from ensue.domain.registered import Registered
from ensue.domain.view import ViewDefinition
from ensue.errors import DefinitionError, InvalidEvent, Refusal
from ensue.events.message import Command, Event
from ensue.events.registry import Registry, declaration
from ensue.store.memory import MemoryStore
from ensue.testing.checking import NotDeterministic, checking, same
from ensue.testing.pure import History, NotPure
from ensue.testing.strategies import Overrides, messages, values_of
from ensue.world import RealWorld

__all__ = ["Broken", "Invariant", "Overrides", "check_decisions", "messages", "values_of"]

STEPS = 20
"""The longest history that is tried."""

Invariant = Callable[[Any], object]
"""A function of a state, or of a row, which its annotation names. It asserts, or returns False where the state must not be."""


class Broken(AssertionError):
    """A property does not hold. The message is the shortest history that was found, and what is wrong at its end."""


def check_decisions(
    app: App,
    /,
    *invariants: Invariant,
    published: Iterable[type[Event]] = (),
    values: Overrides | None = None,
    examples: int = 100,
) -> None:
    """Check what the module says, on so many histories of the application's commands. Events that no command of it decides
    come from elsewhere, and so do those that are `published`. `values` are strategies for classes, where those that follow from
    the types are not what you mean.

    Handlers that take anything but states are left out; `NotPure` where all do. Errors: `Broken`; `DefinitionError` for an
    invariant whose annotation names no class.
    """
    copy = checking(app.in_world(RealWorld(), MemoryStore()), [])
    names = sys._getframe(1).f_locals
    subject = _Subject(copy._registered(), [_invariant(one, names) for one in invariants])
    steps = subject.steps(tuple(published), values or {})

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
    )
    @hypothesis.given(st.lists(steps, max_size=STEPS))
    def history(happens: list[Command[Any] | Event]) -> None:
        subject.check(happens)

    history()


def _invariant(function: Invariant, local_names: Mapping[str, Any]) -> tuple[type, Invariant]:
    """Errors: `DefinitionError`."""
    name = getattr(function, "__name__", repr(function))
    hints = {key: value for key, value in hints_of(function, local_names).items() if key != "return"}
    kind = next(iter(hints.values()), None)
    if not isinstance(kind, type):
        raise DefinitionError(
            f"{name}: annotate its parameter with the state it is about: def {name}(account: Account)"
        )
    return kind, function


class _Subject:
    """The pure part of an application."""

    def __init__(self, registered: Registered, invariants: list[tuple[type, Invariant]]) -> None:
        # What commands pass on their way is no part of what is decided.
        bare = [msgspec.structs.replace(one, middleware=()) for one in registered.commands]
        self._registered = registered = msgspec.structs.replace(registered, commands=bare)
        self._invariants = invariants
        self._forms: dict[str, Form | None] = {}
        self._pure = [one for one in registered.commands if _is_pure(one)]
        self._views = [one for one in registered.views if isinstance(one, ViewDefinition)]
        if not self._pure and not self._views:
            names = ", ".join(one.name for one in registered.commands) or "none"
            raise NotPure(
                f"no command is decided by a pure function of states, and there are no views; the command handlers are: {names}"
            )
        for one in self._pure:
            for parameter in one.parameters:
                if isinstance(parameter, StateParameter):
                    self._forms[parameter.fold.name] = form_of(parameter.fold.kinds)

    def steps(self, published: tuple[type[Event], ...], values: Overrides) -> SearchStrategy[Command[Any] | Event]:
        """Any command that is decided, and any event that comes from elsewhere."""
        found: list[SearchStrategy[Any]] = [
            messages(command, _keys_of(one), values) for one in self._pure for command in one.commands
        ]
        decided = tuple(event for one in self._registered.commands for event in one.emits)
        events: dict[type[Event], None] = dict.fromkeys(published)
        registry = Registry()
        folds = [one.fold for one in self._views]
        folds += [
            parameter.fold
            for one in self._pure
            for parameter in one.parameters
            if isinstance(parameter, StateParameter)
        ]
        for fold in folds:
            covered = registry.covering(fold.events)
            events.update(dict.fromkeys(event for event in covered if not issubclass(event, decided)))
        found += [messages(event, _tagged(event), values) for event in events]
        return st.one_of(found)

    def check(self, happens: list[Command[Any] | Event]) -> None:
        """Errors: `Broken`, `NotDeterministic`."""
        run = _Run(History(self._registered, Registry()), self._forms, self._invariants, self._views)
        for step in happens:
            run.step(step)


class _Run:
    """One history, as it is followed."""

    def __init__(
        self,
        history: History,
        forms: dict[str, Form | None],
        invariants: list[tuple[type, Invariant]],
        views: list[ViewDefinition],
    ) -> None:
        self._history = history
        self._forms = forms
        self._invariants = invariants
        self._views = views
        self._told: list[str] = []
        self._seen: dict[Any, Boundary[Any]] = {}
        self._kept: dict[Any, tuple[Any, int]] = {}
        """For each state, what a snapshot kept of it, and of how many events of the log."""

    def step(self, step: Command[Any] | Event) -> None:
        try:
            self._happen(step)
            for key, boundary in self._seen.items():
                self._follow(key, boundary)
            for view in self._views:
                self._keep(view)
        except NotDeterministic as error:
            raise self._broken(str(error)) from error

    def _happen(self, step: Command[Any] | Event) -> None:
        if isinstance(step, Event):
            self._told.append(f"{step} happens")
            return self._history.add(step)
        for boundary in self._history.boundaries(step):
            self._seen.setdefault((boundary.folding.fold.name, boundary.selection), boundary)
        self._told.append(f"{step} is sent")
        try:
            decision = self._history.decide(step)
        except Refusal as refusal:
            self._told[-1] = f"{step} is refused: {refusal!r}"
            return
        except NotDeterministic:
            raise
        except Exception as error:
            raise self._broken(f"deciding it raised {error!r}, which is no Refusal") from error
        led = ", ".join(map(str, decision.events)) or "nothing"
        self._told[-1] = f"{step} is granted, and leads to {led}"
        try:
            self._history.add(*decision.events)
        except InvalidEvent as error:
            raise self._broken(f"this cannot be stored: {error}") from error

    def _follow(self, key: Any, boundary: Boundary[Any]) -> None:
        fold = boundary.folding.fold
        try:
            value = self._history.follow(boundary, fold.initial())
        except NotDeterministic:
            raise
        except Exception as error:
            raise self._broken(
                f"evolve of {fold.name} raised {error!r}, though an event that is stored cannot be refused any more"
            ) from error
        form = self._forms.get(fold.name)
        if form is not None:
            self._compare(key, boundary, form, value)
        self._hold_all(value)

    def _keep(self, view: ViewDefinition) -> None:
        try:
            rows = self._history.rows(view)
        except NotDeterministic:
            raise
        except Exception as error:
            raise self._broken(f"evolve of {view.row.__name__} raised {error!r}, which would stop its row") from error
        for row in rows.values():
            self._hold_all(row)

    def _hold_all(self, value: Any) -> None:
        for kind, invariant in self._invariants:
            if isinstance(value, kind):
                self._hold(invariant, value)

    def _compare(self, key: Any, boundary: Boundary[Any], form: Form, value: Any) -> None:
        kept, count = self._kept.get(key, (None, 0))
        if kept is not None:
            later = self._history.follow(boundary, form.decode(kept), count)
            if not same(later, value):
                raise self._broken(
                    f"a snapshot that was kept before led to {later}, and all events together lead to {value}: the state "
                    "hides something that is no field of it"
                )
        data = form.encode(value)
        if data is None:
            raise self._broken(
                f"{value} would come back from a snapshot as something else: its fields are not what their types say"
            )
        self._kept[key] = data, len(self._history.events)

    def _hold(self, invariant: Invariant, value: Any) -> None:
        name = getattr(invariant, "__name__", repr(invariant))
        try:
            held = invariant(value)
        except AssertionError as error:
            raise self._broken(f"{name} does not hold for {value}: {error}") from error
        if held is False:
            raise self._broken(f"{name} does not hold for {value}")

    def _broken(self, what: str) -> Broken:
        steps = "\n".join(f"  {number}. {line}" for number, line in enumerate(self._told, 1))
        return Broken(f"{what}\n{steps}")


def _is_pure(definition: CommandDefinition) -> bool:
    """Whether it takes states alone, or what has a default."""
    return not definition.is_async and all(
        isinstance(one, StateParameter) or one.default is not inspect.Parameter.empty for one in definition.parameters
    )


def _keys_of(definition: CommandDefinition) -> list[str]:
    """The fields of its commands that say which states are meant, or that are called like a tag of what it decides."""
    found = [name for event in definition.emits for name in _tagged(event)]
    for one in definition.parameters:
        if not isinstance(one, StateParameter):
            continue
        if one.fields is not None:
            found += one.fields
        elif one.criteria is None and one.fold.criteria is None:
            found += [field for field, _ in one.fold.key]
        else:  # a function of the command says it: probably of those that are called like a tag
            found += [name for event in one.fold.events for name in _tagged(event)]
    return found


def _tagged(event: type[Event]) -> list[str]:
    declared = declaration(event)
    return [field for field, _ in ((declared.key,) if declared.key else ()) + declared.tags]
