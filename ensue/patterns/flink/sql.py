"""A pattern as Flink SQL whose matches are the pattern's own, or a refusal that says what is in the way.

The pattern becomes one MATCH_RECOGNIZE: a variable for each event that is taken, and a variable between two of them for what is passed
over, whose conditions exclude what may be taken there. So Flink has one way through the events for each beginning. Times are
compared in microseconds, since Flink's own are milliseconds; WITHIN only bounds the state. An absence at the end is an outer join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from ensue.errors import NotPortable
from ensue.events.message import Event, declaration
from ensue.patterns.definition import AllOf, Definition, Element, Take
from ensue.patterns.expressions import reads
from ensue.patterns.flink.columns import META, Column, Columns, Gathering, Refused, refused, type_is, with_subclasses
from ensue.patterns.flink.conditions import Scope, Sql, Writer
from ensue.patterns.flink.scopes import MatchScope, flag_of, row_flag, taken_of
from ensue.patterns.flink.slots import Slot, after, excluded, expression_of, slots_of
from ensue.patterns.language import Pattern

__all__ = ["FlinkQuery", "interval", "to_flink"]

_MILLISECOND = 1000
_MOST_DAYS = 999


class FlinkQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A pattern as a query over a table of events.

    The table has the columns of `META` and those of `columns`. Rows of the answer are matches: `key`, `started` and `ended` in
    microseconds since 1970, and for each step the ids of the events it took, with commas between them, NULL where it took none.
    """

    name: str
    columns: tuple[Column, ...]
    steps: tuple[str, ...]
    assumptions: tuple[str, ...]
    """What must be so for the matches to be the same, beside the events being the same."""
    disorder: int
    """How far events may be out of the order of their times, in microseconds."""
    idle: int
    """How long a source may be silent until the others go on without it, in microseconds; 0: for ever."""
    body: str
    """The query, with `{source}` where the name of the table stands."""

    def select(self, source: str) -> str:
        """The query over this table."""
        return self.body.replace("{source}", source)


def to_flink(pattern: type[Pattern]) -> FlinkQuery:
    """The pattern as Flink SQL, whose matches are the pattern's own on every stream of events that keeps the query's `assumptions`.

    Errors: `NotPortable`, with reasons and the nearest form of each that can be compiled: all that is in the way of the pattern's options and
    of its steps one by one; if no step is in the way by itself, all that is of steps together; if nothing is, all conditions.
    """
    definition = pattern.__ensue_pattern__
    reasons = list(_refusals(definition))
    try:
        _Compiled(definition).check()
        query = _Compiled(definition).query()
    except Refused as found:
        reasons += found.reasons
    else:
        if not reasons:
            return query
    said = "; ".join(reasons)
    raise NotPortable(
        f"{definition.name} has no form in Flink SQL that provably finds the same: {said}", reasons=tuple(reasons)
    )


def _refusals(definition: Definition) -> Iterator[str]:
    """What of the whole pattern is in the way."""
    if definition.semantics == "flink":
        yield 'semantics="flink" answers as Flink\'s library does, not as its SQL. Instead: leave it out'
    if definition.time == "processing":
        yield 'time="processing" finds other matches in every run. Instead: time="event"'
    if definition.lateness:
        yield "lateness= corrects matches, and a match of MATCH_RECOGNIZE is final. Instead: a longer disorder="
    if definition.watermark == "key":
        yield 'watermark="key": Flink has one for each source. Instead: watermark="source"'
    if definition.horizon is None:
        yield "nothing bounds how long it waits, and Flink's state would grow without end. Instead: within="


class _Compiled:
    """One pattern while it is compiled."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._columns = Columns()
        self._writer = Writer(self._columns)
        self._slots, self._ending = slots_of(definition)
        self._types = {
            slot.step: tuple(dict.fromkeys(event for part in slot.parts for event in part.take.events))
            for slot in self._slots
        }
        self._first, self._last = self._slots[0], self._slots[-1]
        self._measured: dict[str, str] = {}
        reasons = Gathering()
        for found in self._out_of_order():
            reasons.add(found)
        reasons.tell()

    def check(self) -> None:
        """Errors: `Refused`, for all that cannot be written: each condition is, by itself."""
        reasons = Gathering()
        with reasons.each():
            self._key()
        for slot in self._slots:
            row = slot.variable
            for part in slot.parts:
                scope = self._scope(row, part.take.events, self._slots[: slot.number])
                for one in part.expressions:
                    with reasons.each():
                        self._writer.truth(one, scope)
            if slot.element.until is not None:
                with reasons.each():
                    self._until_holds(slot, row)
            for absence in slot.absences:
                with reasons.each():
                    self._absent(absence, row)
        for absence in self._ending:
            with reasons.each():
                self._absent_of(absence)
        if self._definition.where is not None:
            with reasons.each():
                expression = expression_of(self._definition.where, "where(self)")
                self._writer.truth(expression, self._scope(self._last.variable, (), self._slots))
        reasons.tell()

    def _scope(
        self, row: str, events: Sequence[type[Event]], slots: Sequence[Slot], *, member: bool = False
    ) -> MatchScope:
        return MatchScope(row, events, slots, self._types, member=member)

    def query(self) -> FlinkQuery:
        core = self._core()
        body = self._with_absences(core) if self._ending else core
        body = body.replace("{base}", self._base())  # last, since it has the columns that all the others read
        return FlinkQuery(
            name=self._definition.name,
            columns=tuple(self._columns.found.values()),
            steps=tuple(self._step_names()),
            assumptions=tuple(self._assumptions()),
            disorder=self._definition.disorder,
            idle=self._definition.idle,
            body=body,
        )

    # ------------------------------------------------------------------------------------------------------- the rows

    def _base(self) -> str:
        """The rows that matter, with their key."""
        events = self._definition.events
        columns = [
            f"`{column.name}`"
            if column.default is None
            else f"COALESCE(`{column.name}`, {column.default}) AS `{column.name}`"
            for column in self._columns.found.values()
        ]
        for slot in self._slots:
            if slot.kind == "merged":
                columns.append(f"CASE WHEN {self._unary(slot)} THEN 1 ELSE 0 END AS {flag_of(slot)}")
        return (
            f"(SELECT {', '.join(META)}, {self._key()} AS ensue_key{''.join(f', {one}' for one in columns)} "
            f"FROM {{source}} WHERE {type_is(events, 'ensue_type')}{self._relevant()})"
        )

    def _relevant(self) -> str:
        """Rows that no step could take need not be looked at, where nothing must follow directly."""
        elements = [slot.element for slot in self._slots] + [one for slot in self._slots for one in slot.absences]
        elements += self._ending
        if any(slot.strict or slot.kind == "strict" or slot.element.until for slot in self._slots):
            return ""
        if any(one.absent and one.contiguity == "strict" for one in elements):
            return ""
        takes = [part.take for slot in self._slots for part in slot.parts]
        takes += [one.node for one in elements if one.absent and isinstance(one.node, Take)]
        said: dict[str, None] = {}
        for take in takes:
            known = [type_is(take.events, "ensue_type")]
            for condition in take.conditions:
                expression = expression_of(condition, "a condition")
                if not reads(expression):
                    known.append(f"({self._writer.truth(expression, _RowScope(take.events))})")
            said[" AND ".join(known)] = None
        return f" AND ({' OR '.join(f'({one})' for one in said)})"

    def _unary(self, slot: Slot) -> str:
        said: list[str] = []
        for part in slot.parts:
            scope = _RowScope(part.take.events)
            conditions = [self._writer.truth(one, scope) for one in part.expressions]
            said.append(" AND ".join([type_is(part.take.events, "ensue_type"), *(f"({one})" for one in conditions)]))
        return " OR ".join(f"({one})" for one in said)

    def _key(self) -> str:
        tag = self._definition.key_tag
        if tag == "":
            return "CAST('' AS STRING)"
        fields: dict[str, list[type[Event]]] = {}
        for event in self._definition.events:
            field = _key_field(event, tag)
            for one in with_subclasses((event,)):
                if _key_field(one, tag) != field:
                    raise refused(f"{one.__name__}, a {event.__name__}, has its key in another field", "the same field")
            column = self._columns.of((event,), field)
            if column.kind not in ("str", "int"):
                raise refused(
                    f"{event.__name__}.{field}, the key, is {column.kind}", "a text or a whole number as the key"
                )
            fields.setdefault(column.name, []).append(event)
        if len(fields) == 1:
            return f"CAST(`{next(iter(fields))}` AS STRING)"
        cases = " ".join(
            f"WHEN {type_is(events, 'ensue_type')} THEN CAST(`{field}` AS STRING)" for field, events in fields.items()
        )
        return f"CASE {cases} END"

    # ------------------------------------------------------------------------------------------------ what is taken when

    def _taking(self, slot: Slot, row: str, *, of: Slot | None = None, beside: Slot | None = None) -> str:
        """Whether this slot takes the row at hand, named by the variable. `of`: the row is looked at as one of that loop, or of the gap
        behind that slot. `beside`: the row is looked at as one that slot, before this one, could take, and has not taken yet."""
        before = self._slots[: (beside or slot).number]
        member = of is not None and of.kind != "one" and row == of.variable and not excluded(slot, of)
        parts: list[str] = []
        for number, part in enumerate(slot.parts):
            conditions = [type_is(part.take.events, f"{row}.ensue_type")]
            scope = self._scope(row, part.take.events, before, member=member)
            conditions += [f"({self._writer.truth(one, scope)})" for one in part.expressions]
            for sibling in self._slots[slot.number - slot.siblings : slot.number]:
                conditions.append(f"({self._part_taken(sibling, number)}) IS NOT TRUE")
            parts.append(" AND ".join(conditions))
        said = [f"({' OR '.join(f'({one})' for one in parts)})"]
        said += self._placed(slot, row, of, before)
        return " AND ".join(said)

    def _part_taken(self, slot: Slot, number: int) -> str:
        """Whether a slot took what this part of it takes."""
        part = slot.parts[number]
        before = self._slots[: slot.number - slot.siblings]
        scope = self._scope(slot.variable, part.take.events, before)
        conditions = [f"({self._writer.truth(one, scope)})" for one in part.expressions]
        return " AND ".join([type_is(part.take.events, f"{slot.variable}.ensue_type"), *conditions])

    def _placed(self, slot: Slot, row: str, of: Slot | None, slots: Sequence[Slot]) -> list[str]:
        """What is asked of where the row is, beside what it is."""
        said: list[str] = []
        before = [one for one in slots if slot in after(self._slots, one)]
        if slot.repeats and slot.optional and before[-1].optional:
            said.append(f"COUNT({before[-1].variable}.ensue_order) > 0")
        for one in before:
            if one.kind != "one" and one.low > 1:
                count = self._scope(row, (), slots, member=one is of and row == one.variable)
                said.append(f"{count.aggregated('count', one.step, None, sure=True).text} >= {one.low}")
        if slot.strict and before:
            said.append(f"({self._directly(before, row)})")
        if slot.within is not None and before:
            said.append(f"{row}.ensue_micros - {self._time_before(before, row)} < {slot.within}")
        return said + (self._in_time(row) if slot.number else [])

    def _in_time(self, row: str) -> list[str]:
        """That the pattern's time is not over. All that lives on is asked, so that a run ends at the first event behind its time, and does
        not hold back later matches until Flink, which counts milliseconds, notices."""
        within = self._definition.within
        return [] if within is None else [f"{row}.ensue_micros - {self._started()} < {within}"]

    def _directly(self, before: Sequence[Slot], row: str) -> str:
        """Whether the row comes right behind what was taken last."""
        cases = [(one, self._directly_behind(one, row)) for one in before]
        return _cases(cases)

    def _directly_behind(self, slot: Slot, row: str) -> str:
        if slot.kind == "merged":
            steps = ", 1" if row == slot.variable else ""
            return f"LAST({row_flag(slot.variable, slot)}{steps}) = 1"
        if not self._has_gap(slot):
            return "TRUE"
        return f"COUNT({slot.gap}.ensue_order) = {1 if row == slot.gap else 0}"

    def _time_before(self, before: Sequence[Slot], row: str) -> str:
        """The time of what was taken last."""
        return _cases([(one, self._time_of(one, row)) for one in before])

    def _time_of(self, slot: Slot, row: str) -> str:
        if slot.kind == "strict":
            return f"LAST({slot.variable}.ensue_micros{', 1' if row == slot.variable else ''})"
        if slot.kind == "merged":
            return f"MAX({taken_of(slot, 'ensue_micros')})"
        return f"{slot.variable}.ensue_micros"

    def _started(self) -> str:
        first = self._first
        return f"{first.variable}.ensue_micros" if first.kind == "one" else f"FIRST({first.variable}.ensue_micros)"

    # ----------------------------------------------------------------------------------------------------- the variables

    def _define(self, slot: Slot) -> str:
        """When a row is taken by this slot."""
        row = slot.variable
        said = [self._taking(slot, row), *self._not_absent(slot, row)]
        if slot.number == self._last.number:
            if self._definition.where is not None:
                expression = expression_of(self._definition.where, "where(self)")
                said.append(f"({self._writer.truth(expression, self._scope(row, (), self._slots))})")
        else:
            said += [self._not_last(slot, row)] if self._may_be_last(slot) else []
        until = self._until(slot, row)
        if slot.kind == "one":
            return " AND ".join([*said, *([until] if until and slot.at > 0 else [])])
        ways = after(self._slots, slot)
        more = [f"({self._taking(one, row, of=slot)}) IS NOT TRUE" for one in ways]
        if slot.kind == "strict":
            more = [f"({self._again(slot, row)})", *more]
        if until:
            more.append(until)
        more += self._in_time(row)
        return f"CASE WHEN COUNT({row}.ensue_order) = 1 THEN {' AND '.join(said)} ELSE {' AND '.join(more)} END"

    def _again(self, slot: Slot, row: str) -> str:
        """Whether a loop could take the row as one more."""
        parts: list[str] = []
        member = row == slot.variable
        for part in slot.parts:
            scope = self._scope(row, part.take.events, self._slots[: slot.number + 1], member=member)
            conditions = [f"({self._writer.truth(one, scope)})" for one in part.expressions]
            parts.append(" AND ".join([type_is(part.take.events, f"{row}.ensue_type"), *conditions]))
        said = " OR ".join(f"({one})" for one in parts)
        if slot.element.within is None:
            return said
        return f"({said}) AND {row}.ensue_micros - {self._time_of(slot, row)} < {slot.element.within}"

    def _may_be_last(self, slot: Slot) -> bool:
        """Whether the last slot could take the row in this one's place."""
        beside = [one for one in self._slots[: slot.number] if slot in after(self._slots, one)]
        return any(self._last in after(self._slots, one) for one in beside) and not excluded(slot, self._last)

    def _not_last(self, slot: Slot, row: str) -> str:
        """Whoever completes a match comes first."""
        return f"({self._taking(self._last, row, beside=slot)}) IS NOT TRUE"

    def _gap(self, slot: Slot) -> str:
        """When a row is passed over behind this slot."""
        row = slot.gap
        ways = after(self._slots, slot)
        said = [f"({self._taking(one, row, of=slot)}) IS NOT TRUE" for one in ways] + self._in_time(row)
        if slot.optional:
            said.append(f"COUNT({slot.variable}.ensue_order) > 0")
        for one in ways:
            said += self._not_absent(one, row)
        if slot.kind == "one":
            until = self._until(slot, row)
            said += [until] if until and ways and ways[0].step == slot.step else []
        else:
            ended = f"({self._again(slot, row)}) IS NOT TRUE"
            said.append(f"(COUNT({row}.ensue_order) > 1 OR {self._ended(slot, row, ended)})")
        if len(ways) == 1 and ways[0].within is not None:
            said.append(f"{row}.ensue_micros - {self._time_of(slot, row)} < {ways[0].within}")
        return " AND ".join(said)

    def _ended(self, slot: Slot, row: str, otherwise: str) -> str:
        until = slot.element.until
        if until is None:
            return otherwise
        asked = self._until_holds(slot, row)
        return f"({asked})" if slot.kind == "merged" else f"({asked} OR {otherwise})"

    def _until(self, slot: Slot, row: str) -> str:
        return f"({self._until_holds(slot, row)}) IS NOT TRUE" if slot.element.until is not None else ""

    def _until_holds(self, slot: Slot, row: str) -> str:
        assert slot.element.until is not None
        expression = expression_of(slot.element.until, f"{slot.step}, until")
        events = tuple(event for part in slot.parts for event in part.take.events)
        asked = self._writer.truth(expression, self._scope(row, events, ()))
        return f"({type_is(events, f'{row}.ensue_type')} AND ({asked}))"

    def _not_absent(self, slot: Slot, row: str) -> list[str]:
        """That none of the absences before this slot is there: of a strict one, right behind what was taken."""
        said: list[str] = []
        before = self._slots[slot.number - 1]
        for absence in slot.absences:
            there = self._absent(absence, row)
            if absence.within is not None:  # so long it lasts, behind what was taken before
                there = f"{there} AND {row}.ensue_micros - {self._time_of(before, row)} < {absence.within}"
            if absence.contiguity == "strict":
                said.append(f"({self._directly_behind(before, row)} AND {there}) IS NOT TRUE")
            elif row == before.gap:
                said.append(f"({there}) IS NOT TRUE")
        return said

    def _absent(self, absence: Element, row: str) -> str:
        assert isinstance(absence.node, Take)
        scope = self._scope(row, absence.node.events, self._slots)
        conditions = [
            f"({self._writer.truth(expression_of(one, absence.name), scope)})" for one in absence.node.conditions
        ]
        return " AND ".join([type_is(absence.node.events, f"{row}.ensue_type"), *conditions])

    # ---------------------------------------------------------------------------------------------------------- the query

    def _core(self) -> str:
        measures = [
            ("key", None),
            ("started", self._started()),
            ("ended", f"{self._last.variable}.ensue_micros"),
            *((name, self._ids(name)) for name in self._step_names()),
        ]
        if self._ending:
            measures += [("ensue_order", f"{self._last.variable}.ensue_order")]
            measures += [(f"{name}", text) for name, text in self._read_by_absences()]
        if len(self._slots) == 1 and self._last.kind == "one":
            said = ", ".join(f"{text or 'E0.ensue_key'} AS `{name}`" for name, text in measures)
            time = ", E0.ensue_time AS ensue_time" if self._ending else ""
            return f"SELECT {said}{time} FROM {{base}} AS E0 WHERE {self._define(self._last)}"
        said = ", ".join(f"{text} AS `{name}`" for name, text in measures if text is not None)
        if self._ending:
            said += ", MATCH_ROWTIME(ensue_time) AS ensue_time"
        pattern, defines = self._pattern()
        names = ["ensue_key AS `key`", *(f"`{name}`" for name, text in measures if text is not None)]
        if self._ending:
            names.append("ensue_time")
        horizon = self._definition.horizon or 0
        return (
            f"SELECT {', '.join(names)}\nFROM {{base}} MATCH_RECOGNIZE (\n  PARTITION BY ensue_key\n"
            f"  ORDER BY ensue_time, ensue_micros, ensue_order\n  MEASURES {said}\n  ONE ROW PER MATCH\n"
            f"  AFTER MATCH {self._skip()}\n  PATTERN ({pattern}) WITHIN {interval(horizon)}\n  DEFINE\n    {defines})"
        )

    def _pattern(self) -> tuple[str, str]:
        pattern: list[str] = []
        defines: list[str] = []
        for slot in self._slots:
            mark = {"one": "?" if slot.optional else "", "merged": "+?", "strict": "+?"}[slot.kind]
            pattern.append(f"{slot.variable}{mark}")
            defines.append(f"{slot.variable} AS {self._define(slot)}")
            if slot is not self._last and self._has_gap(slot):
                pattern.append(f"{slot.gap}*?")
                defines.append(f"{slot.gap} AS {self._gap(slot)}")
        return " ".join(pattern), ",\n    ".join(defines)

    def _has_gap(self, slot: Slot) -> bool:
        if slot.kind == "merged":
            return slot.element.until is not None
        return not all(one.strict for one in after(self._slots, slot))

    def _step_names(self) -> Iterator[str]:
        for step in dict.fromkeys(slot.step for slot in self._slots):
            slot = next(slot for slot in self._slots if slot.step == step)
            yield from (part.name for part in slot.parts) if isinstance(slot.element.node, AllOf) else (step,)

    def _ids(self, name: str) -> str:
        """The ids of what a step took."""
        slots = [slot for slot in self._slots if slot.step == name]
        if not slots:
            return self._id_of_part(name)
        if slots[0].kind != "one":
            return f"LISTAGG({taken_of(slots[0], 'ensue_id')})"
        texts = [f"{slot.variable}.ensue_id" for slot in slots]
        return texts[0] if len(texts) == 1 else f"NULLIF(CONCAT_WS(',', {', '.join(texts)}), '')"

    def _id_of_part(self, name: str) -> str:
        """Of any order: whichever of its variables took this part."""
        cases: list[str] = []
        for slot in self._slots:
            for number, part in enumerate(slot.parts):
                if part.name == name:
                    cases.append(f"WHEN {self._part_taken(slot, number)} THEN {slot.variable}.ensue_id")
        return f"CASE {' '.join(cases)} END"

    def _skip(self) -> str:
        skip = self._definition.skip
        match skip.to:
            case "next" | "none":
                return "SKIP TO NEXT ROW"
            case "past_last":
                return "SKIP PAST LAST ROW"
            case _:
                slots = [slot for slot in self._slots if slot.step == skip.step]
                chosen = slots[0] if skip.to == "first" else slots[-1]
                if chosen is self._first:  # nothing begins before it that is not complete before; Flink would fail
                    return "SKIP TO NEXT ROW"
                return f"SKIP TO {skip.to.upper()} {chosen.variable}"

    def _out_of_order(self) -> Iterator[Refused]:
        """What is in the way of this: where it matters, that a match is never complete before one that begins earlier and is still possible: Flink would hold it
        back."""
        skip = self._definition.skip
        if len(self._slots) == 1 or (skip.to in ("next", "none") and not self._ending):
            return
        shown = (
            f"skip to {skip.to}"
            if skip.to not in ("next", "none")
            else f"{self._ending[0].name}, an absence at the end"
        )
        if self._ending and skip.to not in ("next", "none"):
            yield refused(f"{shown}, with an absence at the end: Flink would skip before it knows", 'skip="next"')
        conditions = [one for slot in self._slots for part in slot.parts for one in part.expressions]
        if any(reads(one) for one in conditions) or any(slot.absences for slot in self._slots):
            yield refused(
                f"{shown}, behind conditions that look at earlier events, or absences: a later beginning may complete first, and Flink "
                "would hold it back until the earlier one is done",
                'conditions on each event alone, or skip="next" without an absence at the end',
            )
        if any(
            slot.kind == "merged" or slot.within is not None or slot.element.until is not None for slot in self._slots
        ):
            yield refused(
                f"{shown}, with a step of any number or within= between steps",
                "an exact number, and within= of the whole",
            )
        if skip.step is not None:
            slots = [slot for slot in self._slots if slot.step == skip.step]
            if any(slot.optional or slot.kind != "one" or len(slot.parts) > 1 for slot in slots):
                yield refused(
                    f"{shown} of {skip.step}, which takes a varying number: Flink fails where it took none",
                    'skip="next"',
                )

    # ------------------------------------------------------------------------------------------------- absences at the end

    def _read_by_absences(self) -> list[tuple[str, str]]:
        """The columns of the match that the absences' conditions look at, each under the name by which the join reads it."""
        for absence in self._ending:
            self._absent_of(absence)
        return list(self._measured.items())

    def _absent_of(self, absence: Element) -> str:
        assert isinstance(absence.node, Take)
        scope = _JoinScope(absence.node.events, self._slots, self._types, self._measured)
        conditions = [
            f"({self._writer.truth(expression_of(one, absence.name), scope)})" for one in absence.node.conditions
        ]
        return " AND ".join([type_is(absence.node.events, "n.ensue_type"), *conditions])

    def _with_absences(self, core: str) -> str:
        deadlines: list[str] = []
        spans: list[int] = []
        within = self._ending[0].within
        if within is not None:
            deadlines.append(f"m.ended + {within}")
            spans.append(within)
        if self._definition.within is not None:
            deadlines.append(f"m.started + {self._definition.within}")
            spans.append(self._definition.within)
        deadline = deadlines[0] if len(deadlines) == 1 else f"LEAST({', '.join(deadlines)})"
        absent = " OR ".join(f"({self._absent_of(one)})" for one in self._ending)
        steps = "".join(f", m.`{name}`" for name in self._step_names())
        return (
            f"SELECT m.`key`, m.started, {deadline} AS ended{steps} FROM ({core}) AS m\nLEFT JOIN {{base}} AS n\n"
            f"  ON m.`key` = n.ensue_key AND n.ensue_time BETWEEN m.ensue_time AND m.ensue_time + {interval(min(spans))} "
            f"AND (n.ensue_micros > m.ended OR (n.ensue_micros = m.ended AND n.ensue_order > m.ensue_order)) "
            f"AND n.ensue_micros < {deadline} AND ({absent})\nWHERE n.ensue_key IS NULL"
        )

    def _assumptions(self) -> Iterator[str]:
        yield "every event comes before the watermark has passed its time; Flink drops later ones without a word"
        yield f"never more than {self._definition.runs} beginnings of one key wait at the same time"
        yield "all events of one key are in one partition, or no two of them have the same time"
        yield "the table holds each event once, of the current version of its type"
        if self._definition.time == "log":
            yield 'times in the table are those at which the log stored the events; messages have their own, as with time="event"'
        kinds = {column.kind for column in self._columns.found.values()}
        if "int" in kinds:
            yield "whole numbers, and what is computed from them, fit into 64 bits, and into 53 where floats are beside them"
        if "decimal" in kinds:
            yield "decimals have at most 19 digits before the point and 9 behind it"
        if "float" in kinds:
            yield "no float is NaN"


class _RowScope(MatchScope):
    """A row by itself, without a name."""

    def __init__(self, events: Sequence[type[Event]]) -> None:
        super().__init__("", events, (), {})

    def candidate(self, column: Column) -> str:
        """See `Scope`."""
        return f"`{column.name}`" if column.default is None else f"COALESCE(`{column.name}`, {column.default})"

    def type_column(self, step: str | None, index: int | None) -> str:
        """See `Scope`."""
        return "ensue_type" if step is None else super().type_column(step, index)


class _JoinScope(MatchScope):
    """A row that is joined to a match. What it looks at of the match is a measure of it."""

    def __init__(
        self,
        events: Sequence[type[Event]],
        slots: Sequence[Slot],
        types: Mapping[str, Sequence[type[Event]]],
        measured: dict[str, str],
    ) -> None:
        super().__init__("n", events, slots, types)
        self._measured = measured

    def bound(self, step: str, index: int | None, column: Column, *, sure: bool) -> str:
        """See `Scope`."""
        return self._measure(super().bound(step, index, column, sure=sure))

    def type_column(self, step: str | None, index: int | None) -> str:
        """See `Scope`."""
        text = super().type_column(step, index)
        return text if step is None else self._measure(text)

    def aggregated(self, kind: str, step: str, value: Callable[[Scope], Sql] | None, *, sure: bool) -> Sql:
        """See `Scope`."""
        found = super().aggregated(kind, step, value, sure=sure)
        return msgspec.structs.replace(found, text=self._measure(found.text))

    def _measure(self, text: str) -> str:
        for name, known in self._measured.items():
            if known == text:
                return f"m.{name}"
        name = f"ensue_m{len(self._measured)}"
        self._measured[name] = text
        return f"m.{name}"


def _key_field(event: type[Event], tag: str | None) -> str:
    declared = declaration(event)
    pairs = ((declared.key,) if declared.key else ()) + declared.tags
    return next((field for field, name in pairs if tag is None or name == tag), "")


def _cases(cases: Sequence[tuple[Slot, str]]) -> str:
    """What is so behind the last of these slots that took anything."""
    if len(cases) == 1:
        return cases[0][1]
    said = " ".join(f"WHEN COUNT({slot.variable}.ensue_order) > 0 THEN {text}" for slot, text in reversed(cases[1:]))
    return f"CASE {said} ELSE {cases[0][1]} END"


def interval(micros: int) -> str:
    """SQL for a span of at least so many microseconds, and a little more, since Flink counts milliseconds. Errors: `Refused`."""
    milliseconds = -(-micros // _MILLISECOND) + 1
    seconds, rest = divmod(milliseconds, 1000)
    days, seconds = divmod(seconds, 86_400)
    if days > _MOST_DAYS:
        raise refused(f"it waits {days} days, and Flink knows no longer span than {_MOST_DAYS}", "a shorter within=")
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    return f"INTERVAL '{days} {hours:02}:{minutes:02}:{seconds:02}.{rest:03}' DAY(3) TO SECOND(3)"
