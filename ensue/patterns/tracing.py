"""Reads what a plain typed function computes, by calling it with stand-ins that note what is done with them.

    lambda p: p.amount > 200 and p.country in ("UK", "FR")

Where Python asks a stand-in whether it is true, the function is called again for the other answer, so that `and`, `or`, `not`,
`in`, `if` and chained comparisons become one expression. What cannot be followed (a call of another function, `is`, `try`, a value
that may change, more than `PATHS` ways through: `ensue.patterns.following`) makes the function *opaque*: it is then called as it is, for each event, and can be neither vectorised nor
compiled to another language. A field that an event type does not have is an error wherever it is seen.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any as AnyValue
from typing import NoReturn

import msgspec

from ensue.errors import DefinitionError
from ensue.patterns.analysis import disjoint
from ensue.patterns.expressions import (
    Aggregated,
    All,
    Any,
    Bound,
    Candidate,
    Constant,
    Expression,
    Field,
    IsA,
    Not,
    Operation,
    Operator,
    Present,
    When,
    walk,
)
from ensue.patterns.following import can_be_followed

__all__ = ["EventStandIn", "MatchStandIn", "SequenceStandIn", "StepSeen", "Untraceable", "aggregated", "trace"]

PATHS = 64
OPERATIONS = 1000
"""Of one way through a function: one that loops for ever is opaque."""


class Untraceable(Exception):
    """The function does what no expression says."""


class StepSeen(msgspec.Struct, frozen=True):
    """What a condition may know of a step: its event types (none: what it takes is no event), and whether it takes several."""

    name: str
    events: tuple[type, ...]
    several: bool = False


def trace(
    function: Callable[..., object],
    events: tuple[type, ...],
    *,
    steps: Sequence[StepSeen] | None = None,
    all_steps: Sequence[str] = (),
    truth: bool = True,
    what: str,
) -> Expression | None:
    """The expression that `function(event)` computes; with `steps`, `function(match, event)`; with `steps` and no events,
    `function(match)`. None: it is opaque. Of `truth` only whether it is true is kept, as of a condition.

    Errors: `DefinitionError` for a field that is not there, or a step among `all_steps` that comes later; `what` says where.
    """
    if not can_be_followed(function):
        return None
    assert isinstance(function, types.FunctionType)
    tracer = _Tracer(what, truth=truth)
    arguments: list[object] = []
    if steps is not None:
        arguments.append(MatchStandIn(tracer, {one.name: one for one in steps}, all_steps))
    if events:
        arguments.append(EventStandIn(tracer, Candidate(), events))
    traced = types.FunctionType(
        _watched(function.__code__, tracer),
        {**function.__globals__, "__builtins__": {**vars(builtins), **_builtins(tracer)}},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    traced.__kwdefaults__ = function.__kwdefaults__
    try:
        return tracer.explore(traced, arguments)
    except DefinitionError:
        raise
    except Exception:  # whatever a stand-in cannot do, an event may
        return None


def _watched(code: types.CodeType, tracer: _Tracer) -> types.CodeType:
    """The same code, in which `in {…}` can be noted: a set looks for its members by their hash, which no stand-in has."""
    constants = (_Members(tracer, one) if isinstance(one, frozenset) else one for one in code.co_consts)
    return code.replace(co_consts=tuple(constants))


class _Tracer:
    """One function's ways. `decide` answers the truth of an expression, each way once."""

    def __init__(self, what: str, *, truth: bool) -> None:
        self.what = what
        self._truth = truth
        self._planned: list[bool] = []
        self._asked: list[Expression] = []
        self._made: list[Expression] = []
        self._operations = 0
        self.narrowed = False
        """Whether it was asked of which type an event is: it may then have fields that its step's type has not."""

    def made(self, expression: Expression) -> Expression:
        """Note that this was computed: it may raise, so that it must be computed at the same point again."""
        self.tick()
        self._made.append(expression)
        return expression

    def decide(self, expression: Expression) -> bool:
        self.tick()
        for asked, answer in zip(self._asked, self._planned, strict=False):
            if asked == expression:
                return answer
        at = len(self._asked)
        self._asked.append(expression)
        if at == len(self._planned):
            self._planned.append(True)
        self._check_order()
        return self._planned[at]

    def _check_order(self, *leaf: Expression) -> None:
        """Errors: `Untraceable` where something was computed that the expression computes later, or not at all."""
        computed = {one for asked in (*self._asked, *leaf) for one in walk(asked)}
        if not computed.issuperset(self._made):
            raise Untraceable

    def tick(self) -> None:
        self._operations += 1
        if self._operations > OPERATIONS:
            raise Untraceable

    def explore(self, function: Callable[..., object], arguments: Sequence[object]) -> Expression:
        ways: list[tuple[tuple[tuple[Expression, bool], ...], Expression]] = []
        while True:
            self._asked, self._made, self._operations, self.narrowed = [], [], 0, False
            value = function(*arguments)
            if self._truth and isinstance(value, EventStandIn | SequenceStandIn):
                value = bool(value)
            leaf = _expression(value)
            self._check_order(leaf)
            path = tuple(zip(self._asked, self._planned, strict=True))
            ways.append((path, _known(leaf, path) if self._truth else leaf))
            if len(ways) > PATHS:
                raise Untraceable
            while self._planned and not self._planned[-1]:
                self._planned.pop()
            if not self._planned:
                return _tree(ways, 0, _either if self._truth else When)
            self._planned[-1] = False

    def missing(self, name: str, events: Sequence[type], known: Sequence[str]) -> NoReturn:
        shown = " or ".join(one.__name__ for one in events)
        raise DefinitionError(
            f"{self.what}: {shown} has no field {name!r}; its fields are: {', '.join(known) or 'none'}"
        )


def _known(leaf: Expression, path: Sequence[tuple[Expression, bool]]) -> Expression:
    """On a way where it was asked whether this is true, the answer."""
    return next((Constant(answer) for asked, answer in path if asked == leaf), leaf)


def _tree(
    ways: Sequence[tuple[tuple[tuple[Expression, bool], ...], Expression]],
    depth: int,
    either: Callable[[Expression, Expression, Expression], Expression],
) -> Expression:
    path, leaf = ways[0]
    if len(path) == depth:
        return leaf
    condition = path[depth][0]
    yes = [one for one in ways if one[0][depth][1]]
    no = [one for one in ways if not one[0][depth][1]]
    return either(condition, _tree(yes, depth + 1, either), _tree(no, depth + 1, either))


_TRUE, _FALSE = Constant(True), Constant(False)


def _either(condition: Expression, yes: Expression, no: Expression) -> Expression:
    if yes == no:  # but an error that the question raises is one
        return When(condition, yes, no) if _may_raise(condition) else yes
    match yes, no:
        case (Constant(True), Constant(False)):
            return condition
        case (Constant(False), Constant(True)):
            return Not(condition)
        case (_, Constant(False)):
            return All((*_parts(All, condition), *_parts(All, yes)))
        case (Constant(True), _):
            return Any((*_parts(Any, condition), *_parts(Any, no)))
        case (Constant(False), _):
            return All((Not(condition), *_parts(All, no)))
        case (_, Constant(True)):
            return Any((Not(condition), *_parts(Any, yes)))
        case _:
            return When(condition, yes, no)


def _may_raise(expression: Expression) -> bool:
    return any(
        isinstance(one, Aggregated)
        or (isinstance(one, Operation) and one.operator not in ("==", "!="))
        or (isinstance(one, Field) and not isinstance(one.of, Candidate))
        for one in walk(expression)
    )


def _parts(kind: type[All] | type[Any], expression: Expression) -> tuple[Expression, ...]:
    return expression.of if isinstance(expression, kind) else (expression,)


# ------------------------------------------------------------------------------------------------------- stand-ins


def _expression(value: object) -> Expression:
    if isinstance(value, _StandIn):
        return value._ensue_expression
    try:
        hash(value)
    except TypeError:
        raise Untraceable from None
    if isinstance(value, EventStandIn | MatchStandIn | SequenceStandIn):
        raise Untraceable
    return Constant(value)


def _compare(operator: Operator) -> Callable[[_StandIn, object], _StandIn]:
    def compared(self: _StandIn, other: object) -> _StandIn:
        return self._ensue_do(operator, self, other)

    return compared


def _reflected(operator: Operator) -> Callable[[_StandIn, object], _StandIn]:
    def computed(self: _StandIn, other: object) -> _StandIn:
        return self._ensue_do(operator, other, self)

    return computed


def _refuse(self: object, *arguments: object, **named: object) -> NoReturn:
    raise Untraceable


class _StandIn:
    """A value of which is only known how it is computed."""

    __slots__ = ("_ensue_expression", "_ensue_tracer", "_ensue_type")

    def __init__(self, tracer: _Tracer, expression: Expression, type_: object = None) -> None:
        self._ensue_tracer = tracer
        self._ensue_expression = expression
        self._ensue_type = type_

    def _ensue_do(self, operator: Operator, *operands: object) -> _StandIn:
        operation = Operation(operator, tuple(_expression(one) for one in operands))
        return _StandIn(self._ensue_tracer, self._ensue_tracer.made(operation))

    def __bool__(self) -> bool:
        return self._ensue_tracer.decide(self._ensue_expression)

    def __getattr__(self, name: str) -> object:
        fields: tuple[str, ...] = getattr(self._ensue_type, "__struct_fields__", ())
        if name not in fields:
            raise Untraceable
        hint = _hints(self._ensue_type).get(name)
        return _StandIn(self._ensue_tracer, self._ensue_tracer.made(Field(self._ensue_expression, name)), hint)

    __eq__ = _compare("==")  # type: ignore[assignment]
    __ne__ = _compare("!=")  # type: ignore[assignment]
    __lt__, __le__, __gt__, __ge__ = _compare("<"), _compare("<="), _compare(">"), _compare(">=")
    __add__, __radd__ = _compare("+"), _reflected("+")
    __sub__, __rsub__ = _compare("-"), _reflected("-")
    __mul__, __rmul__ = _compare("*"), _reflected("*")
    __truediv__, __rtruediv__ = _compare("/"), _reflected("/")
    __floordiv__, __rfloordiv__ = _compare("//"), _reflected("//")
    __mod__, __rmod__ = _compare("%"), _reflected("%")
    __pow__, __rpow__ = _compare("**"), _reflected("**")

    def __neg__(self) -> _StandIn:
        return self._ensue_do("neg", self)

    def __abs__(self) -> _StandIn:
        return self._ensue_do("abs", self)

    __hash__ = _refuse
    __len__ = __iter__ = __contains__ = __getitem__ = __call__ = __index__ = __int__ = __float__ = _refuse
    __str__ = __repr__ = __format__ = __enter__ = __round__ = __await__ = _refuse


class EventStandIn:
    """An event of one of these types."""

    def __init__(self, tracer: _Tracer, expression: Expression, events: tuple[type, ...]) -> None:
        self._ensue = (tracer, expression, events)

    def __getattr__(self, name: str) -> object:
        tracer, expression, events = self.__dict__["_ensue"]
        for event in events:
            fields: tuple[str, ...] = getattr(event, "__struct_fields__", ())
            if name in fields:
                continue
            if hasattr(event, name):  # a property, a method
                raise Untraceable
            if len(events) > 1 or tracer.narrowed:  # behind an isinstance, perhaps
                raise Untraceable
            tracer.missing(name, events, fields)
        field = Field(expression, name)
        hint = _hints(events[0]).get(name) if len(events) == 1 else None
        return _StandIn(tracer, field if isinstance(expression, Candidate) else tracer.made(field), hint)

    def __bool__(self) -> bool:
        tracer, expression, events = self._ensue
        if any(hasattr(event, word) for event in events for word in ("__bool__", "__len__")):
            raise Untraceable
        if isinstance(expression, Candidate):
            return True
        if not isinstance(expression, Bound) or expression.index is not None:
            raise Untraceable
        return tracer.decide(Present(expression.step))

    __hash__ = __eq__ = __ne__ = _refuse
    __str__ = __repr__ = __format__ = _refuse


class SequenceStandIn:
    """The events that a step has taken so far."""

    def __init__(self, tracer: _Tracer, step: StepSeen) -> None:
        self._ensue = (tracer, step)

    def __getitem__(self, index: object) -> EventStandIn:
        tracer, step = self._ensue
        if type(index) is not int:
            raise Untraceable
        return EventStandIn(tracer, Bound(step.name, index), step.events)

    def __bool__(self) -> bool:
        tracer, step = self._ensue
        return tracer.decide(Present(step.name))

    __len__ = __iter__ = __contains__ = __hash__ = __eq__ = __ne__ = __str__ = __repr__ = _refuse


class MatchStandIn:
    """The match so far: `self` in a condition."""

    def __init__(self, tracer: _Tracer, steps: Mapping[str, StepSeen], all_steps: Sequence[str]) -> None:
        self._ensue = (tracer, steps, all_steps)

    def __getattr__(self, name: str) -> object:
        tracer, steps, all_steps = self.__dict__["_ensue"]
        step = steps.get(name)
        if step is None:
            if name in all_steps:
                raise DefinitionError(
                    f"{tracer.what}: it reads {name!r}, which comes later; a condition sees the steps before its own, and of its own "
                    f"what was taken before: {', '.join(steps) or 'none'}"
                )
            raise Untraceable
        if not step.events:
            raise Untraceable
        return SequenceStandIn(tracer, step) if step.several else EventStandIn(tracer, Bound(step.name), step.events)

    __hash__ = __eq__ = __ne__ = __bool__ = __str__ = __repr__ = _refuse


def _kinds(kinds: AnyValue) -> tuple[type, ...]:
    given: tuple[AnyValue, ...] = kinds if isinstance(kinds, tuple) else getattr(kinds, "__args__", (kinds,))
    if not all(isinstance(kind, type) for kind in given):
        raise Untraceable
    return given


def _is_a(tracer: _Tracer, expression: Expression, events: tuple[type, ...], kind: type) -> bool:
    if isinstance(expression, Bound) and expression.index is None and not tracer.decide(Present(expression.step)):
        return False
    if all(issubclass(event, kind) for event in events):
        return True
    if all(disjoint(event, kind) for event in events):
        return False
    return tracer.decide(IsA(expression, kind))


class _Members:
    """The members of a set that is written in the function."""

    def __init__(self, tracer: _Tracer, of: frozenset[AnyValue]) -> None:
        self._tracer, self._of = tracer, of

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, _StandIn):
            return value in self._of
        one_order = sorted(self._of, key=lambda member: (type(member).__name__, repr(member)))  # in every process
        return any(value == member for member in one_order)

    def __iter__(self) -> Iterator[object]:
        return iter(self._of)


def _hints(kind: object) -> Mapping[str, object]:
    try:
        return {one.name: one.type for one in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    except Exception:  # an annotation that cannot be resolved yet: only nested fields are then not followed
        return {}


def aggregated(kind: AnyValue, events: object, value: Callable[[AnyValue], object] | None) -> object:
    """What an aggregate function makes of the events of a stand-in; `events` is a `SequenceStandIn`."""
    assert isinstance(events, SequenceStandIn)
    tracer, step = events._ensue
    of: Expression | None = None
    if value is not None:
        of = trace(value, step.events, truth=False, what=tracer.what)
        if of is None:
            raise Untraceable
    return _StandIn(tracer, tracer.made(Aggregated(kind, step.name, of)))


def _builtins(tracer: _Tracer) -> dict[str, object]:
    """Of the functions that Python has everywhere, those that an expression has as well."""

    def traced_len(of: object) -> object:
        if isinstance(of, SequenceStandIn):
            return aggregated("count", of, None)
        if (
            isinstance(of, _StandIn)
            and isinstance(of._ensue_expression, Aggregated)
            and of._ensue_expression.kind == "distinct"
        ):
            return of
        return len(of)  # type: ignore[arg-type]

    def traced_isinstance(of: object, kinds: AnyValue) -> object:
        if not isinstance(of, EventStandIn):
            if isinstance(of, _StandIn | SequenceStandIn | MatchStandIn):
                raise Untraceable
            return isinstance(of, kinds)
        _, expression, events = of._ensue
        tracer.narrowed = True
        return any(_is_a(tracer, expression, events, kind) for kind in _kinds(kinds))

    def extreme(name: Operator, function: Callable[..., AnyValue]) -> Callable[..., object]:
        def traced(*of: object, **named: object) -> object:
            if named or len(of) < 2 or not any(isinstance(one, _StandIn) for one in of):
                return function(*of, **named)
            return _StandIn(tracer, tracer.made(Operation(name, tuple(_expression(one) for one in of))))

        return traced

    def traced_getattr(of: object, name: str) -> object:  # with another value for what is missing: opaque
        if not isinstance(of, EventStandIn | MatchStandIn | _StandIn):
            raise Untraceable
        return getattr(of, name)

    return {
        "len": traced_len,
        "isinstance": traced_isinstance,
        "min": extreme("min", min),
        "max": extreme("max", max),
        "getattr": traced_getattr,
    }
