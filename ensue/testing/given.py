"""Given events, when an event or a command comes, then events, a refusal or rows. See `given`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast, overload

import msgspec

from ensue.app import App
from ensue.domain import View
from ensue.domain.call import Principal
from ensue.domain.fold import FoldType
from ensue.errors import Refusal
from ensue.events.message import Command, Event, Query
from ensue.store.base import DeadLetter
from ensue.testing.places import Happened, Trial, happenings

__all__ = ["Given", "Outcome", "given"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Outcome(Generic[R_co]):
    """What came of it, to be asserted. Each method checks every run, and returns the outcome itself."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._runs = happenings(trial)

    @property
    def caused(self) -> list[Event]:
        """What the event caused, or the command led to, directly or not, in log order."""
        return self._runs[0].caused

    @property
    def letters(self) -> list[DeadLetter]:
        """What a handler gave up."""
        return self._runs[0].letters

    @property
    def result(self) -> R_co:
        """What the command was answered. Errors: its refusal."""
        refusal = self._runs[0].refusal
        if refusal is not None:
            raise refusal
        return cast(R_co, self._runs[0].result)

    def then(self, *events: Event) -> Outcome[R_co]:
        """It led to exactly these events, in this order."""
        for run in self._runs:
            assert run.refusal is None, _in(run, f"it was refused: {run.refusal!r}")
            assert run.caused == list(events), _in(run, f"it caused {run.caused}, not {list(events)}")
        return self

    def then_nothing(self) -> Outcome[R_co]:
        """It led to nothing; nothing failed, and nothing was refused."""
        for run in self._runs:
            assert not run.letters, _in(run, f"it failed: {run.letters[0].reason}")
        return self.then()

    def then_refused(self, refusal: type[Refusal], /, **fields: object) -> Outcome[R_co]:
        """The command was refused so, with these fields, and nothing was stored."""
        wanted = f"{refusal.__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
        for run in self._runs:
            assert run.refusal is not None, _in(run, f"it was not refused: it led to {run.caused}, not {wanted}")
            told = isinstance(run.refusal, refusal) and all(
                getattr(run.refusal, name, _NOTHING) == value for name, value in fields.items()
            )
            assert told, _in(run, f"it was refused by {run.refusal!r}, not by {wanted}")
            assert not run.caused, _in(run, f"it was refused, and {run.caused} was stored")
        return self

    def then_row(self, *rows: View) -> Outcome[R_co]:
        """Afterwards, views have these rows."""
        _check_rows(self._trial, rows)
        return self

    def then_no_row(self, view: type[View], /, *key: object) -> Outcome[R_co]:
        """Afterwards, a view has no row of this key."""
        _check_no_row(self._trial, view, key)
        return self

    def then_dead_letter(self, error: type[BaseException]) -> Outcome[R_co]:
        """A handler gave it up with this error."""
        for run in self._runs:
            reasons = [letter.reason for letter in run.letters]
            found = any(reason.split(":")[0] == error.__name__ for reason in reasons)
            assert found, _in(run, f"the dead letters are: {reasons}")
        return self


_NOTHING = object()


class Given:
    """See `given`."""

    def __init__(self, app: App, events: tuple[Event, ...], replace: tuple[Callable[..., object], ...]) -> None:
        self._trial = Trial(app=app, given=events, replace=replace)

    @overload
    def when(self, message: Command[R], /, *, principal: str | Principal | None = None) -> Outcome[R]: ...
    @overload
    def when(self, message: Event, /) -> Outcome[None]: ...
    def when(self, message: Event | Command[Any], /, *, principal: str | Principal | None = None) -> Outcome[Any]:
        """Publish the event, or send the command, and let everything that comes of it happen, retries included. `principal` is who
        sends it. Errors: what deciding raises that is no refusal; `NotDeterministic`."""
        return Outcome(msgspec.structs.replace(self._trial, when=message, principal=principal))

    def then_row(self, *rows: View) -> Given:
        """By what was given, views have these rows."""
        _check_rows(self._trial, rows)
        return self

    def then_no_row(self, view: type[View], /, *key: object) -> Given:
        """By what was given, a view has no row of this key."""
        _check_no_row(self._trial, view, key)
        return self

    def when_asked(self, query: Query[R], /, *, principal: str | Principal | None = None) -> R:
        """The answer, once what was given is done; the same in every run. Errors: what answering raises."""
        first, *others = happenings(msgspec.structs.replace(self._trial, query=query, principal=principal))
        for run in (first, *others):
            if run.refusal is not None:
                raise run.refusal
            assert run.answer == first.answer, _in(run, f"the answer is {run.answer!r}, and was {first.answer!r}")
        return cast(R, first.answer)


def _check_rows(trial: Trial, rows: tuple[View, ...]) -> None:
    """The whole trial once more: what is in a view is looked at where it is."""
    wanted = tuple((type(row), _key_of(row)) for row in rows)
    for run in happenings(msgspec.structs.replace(trial, rows=wanted)):
        for row, found in zip(rows, run.rows, strict=True):
            assert found == row, _in(run, f"the row is {found}, not {row}")


def _check_no_row(trial: Trial, view: type[View], key: tuple[object, ...]) -> None:
    for run in happenings(msgspec.structs.replace(trial, rows=((view, key),))):
        assert run.rows == [None], _in(run, f"there is a row: {run.rows[0]}")


def _key_of(row: View) -> tuple[object, ...]:
    declared: FoldType = getattr(row, "__ensue_fold__")  # noqa: B009
    return tuple(getattr(row, field) for field, _ in declared.key)


def _in(run: Happened, text: str) -> str:
    return text if run.where == "in simulation" else f"{text}, {run.where}"


def given(app: App, /, *events: Event, replace: Iterable[Callable[..., object]] = ()) -> Given:
    """These events have happened and everything they caused is done. Nothing to await, nothing to install: the
    application runs in memory and in virtual time, so a retry after an hour takes no time.

    The same test runs elsewhere where the environment variable `ENSUE_TEST` says so: `pure`, `memory`, `simulated` (the default),
    `crashes`, `sqlite`, or `postgresql://…`; several with spaces between. A place where an application cannot run, such as a pure
    one for a handler that writes rows, is passed over as long as there is another."""
    return Given(app, events, tuple(replace))
