"""What a condition sees of a match that grows, as columns of the variables of MATCH_RECOGNIZE; or of one row that was joined to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ensue.events.message import Event
from ensue.patterns.flink.columns import Column, refused
from ensue.patterns.flink.conditions import Scope, Sql
from ensue.patterns.flink.slots import Slot

__all__ = ["MatchScope", "flag_of", "row_flag", "taken_of"]


def flag_of(slot: Slot) -> str:
    """The column that says of a row whether a merged slot can take it."""
    return f"ensue_takes_{slot.number}"


def row_flag(row: str, slot: Slot) -> str:
    """That column of a row."""
    return f"{row}.{flag_of(slot)}"


def taken_of(slot: Slot, column: str) -> str:
    """A column of the rows that a slot took, and NULL of those between them."""
    if slot.kind == "merged":
        return f"CASE WHEN {row_flag(slot.variable, slot)} = 1 THEN {slot.variable}.{column} END"
    return f"{slot.variable}.{column}"


class MatchScope:
    """`row` is the variable of the row at hand. `slots` are those before it, whose steps can be seen; `types` is what each step of the
    pattern takes. `member`: the row at hand is also
    one of the loop that is the last of these, and not its first; the loop is seen without it."""

    def __init__(
        self,
        row: str,
        events: Sequence[type[Event]],
        slots: Sequence[Slot],
        types: Mapping[str, Sequence[type[Event]]],
        *,
        member: bool = False,
    ) -> None:
        self.row = row
        self.events = events
        self._types = types
        self._slots = slots
        self._member = slots[-1] if member and slots else None

    def candidate(self, column: Column) -> str:
        """See `Scope`."""
        return f"{self.row}.`{column.name}`"

    def type_column(self, step: str | None, index: int | None) -> str:
        """See `Scope`."""
        if step is None:
            return f"{self.row}.ensue_type"
        return self._bound(step, index, "ensue_type", sure=False, nullable=False)

    def taken(self, step: str) -> Sequence[type[Event]]:
        """See `Scope`."""
        return self._types[step]

    def bound(self, step: str, index: int | None, column: Column, *, sure: bool) -> str:
        """See `Scope`."""
        if sure and not self._of(step):
            return f"CAST(NULL AS {column.sql_type})"
        return self._bound(step, index, f"`{column.name}`", sure=sure, nullable=column.nullable)

    def _of(self, step: str) -> list[Slot]:
        return [slot for slot in self._slots if slot.step == step]

    def _bound(self, step: str, index: int | None, column: str, *, sure: bool, nullable: bool) -> str:
        slots = self._of(step)
        if slots and slots[-1].kind != "one":
            return self._bound_of_loop(slots[-1], index, column, nullable=nullable)
        certain = [slot for slot in slots if not slot.optional]
        if index is None or index >= 0:
            at = index or 0
            if at < len(certain):
                return f"{slots[at].variable}.{column}"
            if at == 0 and sure and slots:
                return f"{slots[0].variable}.{column}"
        elif len(certain) == len(slots) and -index <= len(slots):
            return f"{slots[index].variable}.{column}"
        elif index == -1 and slots and (certain or sure):
            if len(slots) == 1:
                return f"{slots[0].variable}.{column}"
            asked = " ".join(
                f"WHEN COUNT({slot.variable}.ensue_order) > 0 THEN {slot.variable}.{column}"
                for slot in reversed(slots[1:])
            )
            return f"CASE {asked} ELSE {slots[0].variable}.{column} END"
        shown = step if index is None else f"{step}[{index}]"
        raise refused(f"{shown} may not be there, where Python raises and SQL says nothing", f"ask first: {step} and …")

    def _bound_of_loop(self, slot: Slot, index: int | None, column: str, *, nullable: bool) -> str:
        name = f"{slot.step}[{index}]"
        member = slot is self._member
        if index == 0:
            return f"FIRST({slot.variable}.{column})"
        if index == -1 and slot.kind == "strict":
            return f"LAST({slot.variable}.{column}, 1)" if member else f"LAST({slot.variable}.{column})"
        if index == -1 and not nullable and not member:
            return f"LAST_VALUE({taken_of(slot, column)})"
        raise refused(f"{name}, of a step that takes any number", "its first or last, or an exact number")

    def present(self, step: str) -> str:
        """See `Scope`."""
        slots = self._of(step)
        if not slots:
            return "FALSE"
        return f"COUNT({slots[0].variable}.ensue_order) > 0" if slots[0].optional else "TRUE"

    def aggregated(self, kind: str, step: str, value: Callable[[Scope], Sql] | None, *, sure: bool) -> Sql:
        """See `Scope`."""
        slots = self._of(step)
        if slots and slots[-1].kind != "one":
            return self._over_loop(kind, slots[-1], value)
        certain = sum(not slot.optional for slot in slots)
        optional = [f"COUNT({slot.variable}.ensue_order)" for slot in slots if slot.optional]
        if kind == "count":
            return Sql(f"({' + '.join([f'CAST({certain} AS BIGINT)', *optional])})", "int")
        assert value is not None, "only a count has no value"
        if not slots:
            if kind == "total":
                return Sql("CAST(0 AS BIGINT)", "int")
            raise refused(f"{kind}({step}) of nothing", f"ask first: {step} and …")
        values = [value(MatchScope(slot.variable, self.taken(step), (), self._types)) for slot in slots]
        texts = [one.text for one in values]
        _number(values[0], f"{kind}({step})")
        if kind == "total":
            said = texts[0] if not slots[0].optional else f"COALESCE({texts[0]}, {_zero(values[0])})"
            for slot, text in zip(slots[1:], texts[1:], strict=True):
                said = f"({said} + {text})" if not slot.optional else f"({said} + COALESCE({text}, {_zero(values[0])}))"
            return Sql(said, values[0].kind)
        if not certain and not sure:
            raise refused(f"{kind}({step}) may be of nothing, where Python raises", f"ask first: {step} and …")
        if kind == "distinct":
            if optional:
                raise refused(f"distinct({step}), of a varying number", "an exact number")
            news = [
                f"CASE WHEN {' OR '.join(f'{text} = {other}' for other in texts[:at])} THEN 0 ELSE 1 END"
                for at, text in enumerate(texts)
                if at
            ]
            return Sql(f"({' + '.join(['CAST(1 AS BIGINT)', *news])})", "int")
        function = "LEAST" if kind == "smallest" else "GREATEST"
        return Sql(f"{function}({', '.join(f'COALESCE({text}, {texts[0]})' for text in texts)})", values[0].kind)

    def _over_loop(self, kind: str, slot: Slot, value: Callable[[Scope], Sql] | None) -> Sql:
        what = f"{kind}({slot.step})"
        member = slot is self._member
        variable = slot.variable
        flag = row_flag(variable, slot)
        if kind == "count":
            if slot.kind == "merged":
                said = f"COALESCE(SUM({flag}), 0)" + (f" - {row_flag(self.row, slot)}" if member else "")
            else:
                said = f"COUNT({variable}.ensue_order)" + (" - 1" if member else "")
            return Sql(f"({said})", "int")
        if kind == "distinct":
            raise refused(f"{what}: MATCH_RECOGNIZE counts no different values of any number", "an exact number")
        assert value is not None, "only a count has no value"
        one = value(MatchScope(variable, self.taken(slot.step), (), self._types))
        _number(one, what)
        counted = f"CASE WHEN {flag} = 1 THEN {one.text} END" if slot.kind == "merged" else one.text
        if kind == "total":
            if not member:
                return Sql(f"COALESCE(SUM({counted}), {_zero(one)})", one.kind)
            if one.kind == "float":
                raise refused(f"{what}, of floats before the event at hand", "Decimal, or whole numbers")
            own = value(MatchScope(self.row, self.taken(slot.step), (), self._types)).text
            own = (
                f"CASE WHEN {row_flag(self.row, slot)} = 1 THEN {own} ELSE {_zero(one)} END"
                if slot.kind == "merged"
                else own
            )
            return Sql(f"(SUM({counted}) - {own})", one.kind)
        if member:
            raise refused(f"{what}, of those before the event at hand", "compare with the last one")
        return Sql(f"{'MIN' if kind == 'smallest' else 'MAX'}({counted})", one.kind)


def _zero(value: Sql) -> str:
    return {"int": "CAST(0 AS BIGINT)", "float": "CAST(0 AS DOUBLE)"}.get(value.kind or "", "0")


def _number(value: Sql, what: str) -> None:
    if value.kind not in ("int", "float", "decimal"):
        raise refused(f"{what} is of values that are no numbers", "numbers")
    if value.nullable:
        raise refused(
            f"{what}: a value may be None, where Python raises and SQL leaves it out", "a field that is never None"
        )
