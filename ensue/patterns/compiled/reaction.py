"""Writes what the program of a pattern does with one event. First everything is asked, then everything is done: where a condition
raises, nothing has changed."""

from __future__ import annotations

from heapq import heappush
from typing import TypeAlias

import msgspec

from ensue.events.message import Event, declaration
from ensue.patterns.compiled.asking import Asking
from ensue.patterns.compiled.layout import Beginning, Completing, Running
from ensue.patterns.compiled.places import Place, Way
from ensue.patterns.compiled.relevance import parts_of, seen_alone
from ensue.patterns.compiled.source import Lines, Steps, Writer
from ensue.patterns.definition import Definition, Take
from ensue.patterns.expressions import Aggregated
from ensue.patterns.operator import Taken

__all__ = ["Reaction", "react", "write_key"]

Stay, Dead, Ended = "stay", "dead", "ended"
Leaf: TypeAlias = str | int | Way
"""What becomes of a run at an event: one of the three, the number of the place it moves to, or the way that takes the event."""


class _Choice(msgspec.Struct, frozen=True):
    """`if pure and run: leaf`. `pure` is about the event alone."""

    pure: tuple[str, ...]
    run: tuple[str, ...]
    leaf: Leaf

    @property
    def source(self) -> str:
        return " and ".join((*self.pure, *self.run))


def react(asking: Asking, lines: Lines) -> None:
    """Write what is done with an event of which is known what it answered."""
    Reaction(asking, lines).write()


class Reaction:
    """What is done with an event of which is known what the tests answered. `a1` are the runs of which element 1 takes it, `q2` those
    that waited at place 2, `s2` those of them that stay, `m3` those that move to place 3 without it."""

    def __init__(self, of: Asking, lines: Lines) -> None:
        self.of, self.lines = of, lines
        self.context, self.layout, self.names = of.context, of.layout, of.names
        self.places, self.elements = of.places, of.elements
        self.emits, self.lazy = of.context.emits, of.context.lazy
        self.skip = of.context.definition.skip.to
        self.begins = of.answer(of.takes[0]) != "False"
        self.choices = {number: self._choices(place) for number, place in enumerate(self.places.all)}
        self.choices = {number: chosen for number, chosen in self.choices.items() if self._matters(chosen)}
        self.takers: dict[tuple[int, bool], int] = {}
        for chosen in self.choices.values():
            for one in chosen:
                if isinstance(one.leaf, Way):
                    way = (one.leaf.element, one.leaf.again)
                    self.takers[way] = self.takers.get(way, 0) + 1
        self.settles = self.skip in ("first", "last") or (
            self.skip == "past_last" and any(place.ends for place in self.places.all)
        )

    # ------------------------------------------------------------------------------------------- what can happen

    def _choices(self, place: Place) -> list[_Choice]:
        found: list[_Choice] = []
        ways = sorted(place.ways, key=lambda way: way.element not in self.places.completing)
        for way in ways:
            self._choose(found, self._takes(way), way)
        closers: list[tuple[tuple[tuple[str, ...], tuple[str, ...]], frozenset[Way]]] = []
        for number in dict.fromkeys(one for way in place.ways for one in way.absences) or place.absences:
            forbids = self._forbids(number)
            if forbids is not None:
                closers.append((forbids, frozenset(way for way in place.ways if number in way.absences)))
        for way in place.ways:
            until = self.of.untils[way.element] if way.again else None
            if until is not None and (answer := self.of.answer(until)) != "False":
                closers.append((((self._marked(way.element, answer),), ()), frozenset((way,))))
        strict = frozenset(way for way in place.ways if way.strict)
        pending = bool(place.absences)
        for chosen in reversed(range(2 ** len(closers))):
            some = [one for at, one in enumerate(closers) if chosen >> at & 1]
            gone = strict.union(*(ways for _, ways in some))
            left = tuple(way for way in place.ways if way not in gone)
            conditions = (
                tuple(text for (pure, _), _ in some for text in pure),
                tuple(text for (_, run), _ in some for text in run),
            )
            self._choose(found, conditions, self._left(place, left, ended=pending and bool(some)))
        return found

    def _left(self, place: Place, left: tuple[Way, ...], *, ended: bool) -> Leaf:
        if ended:
            return Dead
        if left == place.ways:
            return Stay
        closed = self.places.closed(self.places.all.index(place), left)
        return closed if closed is not None else (Ended if place.ends else Dead)

    @staticmethod
    def _choose(found: list[_Choice], conditions: tuple[tuple[str, ...], tuple[str, ...]] | None, leaf: Leaf) -> None:
        if conditions is None or "False" in (*conditions[0], *conditions[1]) or (found and not found[-1].source):
            return
        pure = tuple(dict.fromkeys(one for one in conditions[0] if one != "True"))
        found.append(_Choice(pure, tuple(one for one in conditions[1] if one != "True"), leaf))

    def _takes(self, way: Way) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        known = {one.name: True for one in self.elements[: way.element] if one.low > 0}
        known[self.elements[way.element].name] = way.again
        conditions = self._conditions(way.element, Running(self.layout, self.names, known=known))
        until = self.of.untils[way.element] if way.again else None
        if conditions is None or until is None or until == "False":
            return conditions
        ended = self._marked(way.element, self.of.answer(until))
        if ended in ("True", "False"):
            return None if ended == "True" else conditions
        return (*conditions[0], f"not {ended}"), conditions[1]

    def _marked(self, number: int, answer: str) -> str:
        """A careful program notes whose condition it asks."""
        if not self.lazy or answer in ("True", "False"):
            return answer
        return f"((step := {self.names.of(self.elements[number].name)}) and {answer})"

    def _forbids(self, number: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        return self._conditions(number, Running(self.layout, self.names))

    def _conditions(self, number: int, steps: Steps) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """What must hold of the event alone, and of the event and the run. A careful program asks all of it in its order."""
        element = self.elements[number]
        assert isinstance(element.node, Take)
        answer = self.of.answer(self.of.takes[number])
        if answer == "False":
            return None
        within = element.within if not isinstance(steps, Beginning) else None
        run = [f"t - r[{self.layout.last}] < {self.names.of(within)}"] if within is not None else []
        if self.lazy and element.node.conditions:
            run.append(f"(step := {self.names.of(element.name)})")
        writer = Writer(self.names, "e", steps, self.of.fields)
        for condition in element.node.conditions:
            for part in parts_of(condition):
                if self.lazy or not seen_alone(part, condition):
                    run.append(self.of.asked_part(part, writer))
        return () if self.lazy else (answer,), tuple(run)

    def _matters(self, chosen: list[_Choice]) -> bool:
        return any(one.leaf != Stay for one in chosen)

    # ---------------------------------------------------------------------------------------------- the program

    def write(self) -> None:
        lines, involved = self.lines, list(self.choices)
        if not involved and not self.begins:
            return
        if self.emits or self.begins:
            self._time()
        write_key(self.of, lines)
        for number in involved:
            lines(f"q{number} = w{number}.get(k)")
        if involved and not self.begins:
            with lines.block(f"if {' and '.join(f'q{number} is None' for number in involved)}:"):
                lines("continue")
        if not (self.emits or self.begins):
            self._time()
        each = [number for number in involved if self._one_by_one(number)]
        lists = [*map(_list, self.takers), *self._moved()]
        if lists:
            lines(f"{' = '.join(lists)} = ()")
        for number in each:
            self._ask_each(number)
        if self.begins:
            self._ask_beginning()
        self._ask_values()
        self._ask_whole_match()
        self._do(involved, each)

    def _time(self) -> None:
        self.lines("t = times[i]")
        if self.emits:
            with self.lines.block("if queue and queue[0][0] <= t:"):
                self.lines("operator.fire(t, out)")

    def _one_by_one(self, number: int) -> bool:
        """Whether each run of the place has its own answer, or something must be asked before runs are changed."""
        where = self.context.definition.where is not None
        asks = any(
            isinstance(one.leaf, Way)
            and (bool(self._registers(one.leaf.element)) or (where and one.leaf.element in self.places.completing))
            for one in self.choices[number]
        )
        return self.lazy or asks or any(one.run for one in self.choices[number])

    def _over(self) -> str | None:
        """The source of whether a run is over, where nothing else ends it."""
        whole = self.layout.whole
        return None if self.emits or whole is None else f"t - r[0] >= {self.names.of(whole)}"

    def _ask_each(self, number: int) -> None:
        lines, chosen = self.lines, self.choices[number]
        stays = any(one.leaf == Stay for one in chosen)
        if stays:
            lines(f"s{number} = q{number}")
        guard = [f"q{number} is not None"]
        pure = [" and ".join(one.pure) for one in chosen if one.leaf != Stay]
        if all(pure) and not self.lazy:
            guard.append(f"({' or '.join(dict.fromkeys(pure))})")
        with lines.block(f"if {' and '.join(guard)}:"):
            if stays:
                lines(f"s{number} = []")
            for name, alone in self._filled(chosen).items():
                lines(f"{name} = []" if alone else f"{name} = {name} or []")
            with lines.block(f"for r in q{number}:"):
                over = self._over()
                if over is not None:
                    with lines.block(f"if {over}:"):
                        lines("continue")
                word = "if"
                for one in chosen:
                    with lines.block(_if(word, one.source)):
                        self._append(number, one.leaf)
                    word = "elif"

    def _append(self, number: int, leaf: Leaf) -> None:
        if leaf == Stay:
            self.lines(f"s{number}.append(r)")
        elif leaf != Dead or self.emits:
            self.lines(f"{_list(leaf)}.append(r)")

    def _filled(self, chosen: list[_Choice]) -> dict[str, bool]:
        """The lists that a place fills, and whether it is the only one."""
        return {
            _list(one.leaf): self._joined(one.leaf, "") == ""
            for one in chosen
            if one.leaf != Stay and (one.leaf != Dead or self.emits)
        }

    def _moved(self) -> list[str]:
        """The lists of runs that go on without taking the event."""
        leaves = {one.leaf for chosen in self.choices.values() for one in chosen if not isinstance(one.leaf, Way)}
        where = self.context.definition.where is not None
        dead = self.emits and (Dead in leaves or where)
        return sorted(_list(leaf) for leaf in leaves - {Stay, Dead}) + (["x"] if dead else [])

    def _ask_beginning(self) -> None:
        asked = self._conditions(0, Beginning(self.layout, self.names))
        assert asked is not None
        said = [one for one in (*asked[0], *asked[1]) if one != "True"]
        if 0 in self.places.completing and self.context.definition.where is not None:
            said += self._where(0)
        self.lines(f"new = {' and '.join(said) or 'True'}")

    def _where(self, at: int) -> list[str]:
        """The condition on the whole match, when this last element takes the event."""
        where = self.context.definition.where
        assert where is not None
        assert where.expression is not None
        steps = Completing(self.layout, self.names, self.elements[at])
        mark = [f"(step := {self.names.of('where')})"] if self.lazy else []
        return [*mark, Writer(self.names, "e", steps, self.of.fields).write(where.expression)]

    def _ask_values(self) -> None:
        """What aggregates need of the event, before anything is done."""
        for at in self.layout.slots:
            registers = self._registers(at)
            lists = [_list(way) for way in self.takers if way[0] == at] + (["new"] if at == 0 and self.begins else [])
            if not registers or not lists:
                continue
            with self.lines.block(f"if {' or '.join(lists)}:"):
                self._write_values(registers)

    def _write_values(self, registers: dict[Aggregated, int]) -> None:
        for aggregated, register in registers.items():
            assert aggregated.value is not None
            value = Writer(self.names, "e", Steps(), self.of.fields).write(aggregated.value)
            self.lines(f"v{register} = {value}")
            if aggregated.kind == "distinct":
                self.lines(f"{self.names.of(hash, 'f')}(v{register})")

    def _registers(self, at: int) -> dict[Aggregated, int]:
        name = self.elements[at].name
        return {one: register for one, register in self.layout.registers.items() if one.step == name}

    def _ask_whole_match(self) -> None:
        """Of what would be a match now, keep what `where(self)` says is one."""
        if self.context.definition.where is None:
            return
        for way in self.takers:
            if way[0] in self.places.completing:
                self.lines("kept = []")
                with self.lines.block(f"for r in {_list(way)}:"):
                    with self.lines.block(f"if {' and '.join(self._where(way[0]))}:"):
                        self.lines("kept.append(r)")
                    if self.emits:
                        with self.lines.block("else:"):
                            self.lines("x = [*x, r]")
                self.lines(f"{_list(way)} = kept")

    # ------------------------------------------------------------------------------- from here on nothing raises

    def _do(self, involved: list[int], each: list[int]) -> None:
        for number in involved:
            self._leave(number, one_by_one=number in each)
        lines = self.lines
        takes = bool(self.takers) or self.begins
        if takes:
            asked = [*map(_list, self.takers), *(["new"] if self.begins else [])]
            with lines.block(f"if {' or '.join(asked)}:"):
                made = f"{self.names.of(Taken, 't')}(t, positions[i], e"
                lines(f"taken = {made}) if rows is None else {made}, rows[i])")
        self._completes = self._sources_of_matches()
        if self._completes:
            lines("done = ()")
        for way in self.takers:
            self._take(*way)
        for name in self._moved():
            self._move(name)
        if self._completes and self._completes != ["new"]:
            self._give()
        if self.begins:
            self._begin()

    def _sources_of_matches(self) -> list[str]:
        found = [_list(way) for way in self.takers if self.places.after[way[0]].full is None]
        found += [name for name in self._moved() if name == "d"]
        if self.begins and self._after_one(0) is None:
            found.append("new")
        return found

    def _after_one(self, at: int) -> int | None:
        """The place of a run of which this element has just taken its first."""
        after, element = self.places.after[at], self.elements[at]
        if element.low > 1:
            return after.fewer
        return after.full if element.high == 1 else after.free

    def _touch(self) -> None:
        with self.lines.block("if touched is not None:"):
            self.lines("touched.add(k)")

    def _leave(self, number: int, *, one_by_one: bool) -> None:
        lines = self.lines
        if one_by_one and all(one.leaf != Stay for one in self.choices[number]):
            with lines.block(f"if q{number} is not None:"):
                lines(f"del w{number}[k]")
                self._touch()
            return
        if one_by_one:
            with lines.block(f"if s{number} is not q{number} and len(s{number}) < len(q{number}):"):
                with lines.block(f"if s{number}:"):
                    lines(f"w{number}[k] = s{number}")
                with lines.block("else:"):
                    lines(f"del w{number}[k]")
                self._touch()
            return
        with lines.block(f"if q{number} is not None:"):
            over = self._over()
            if over is not None and number in self.context.sorted:
                with lines.block(f"if {over.replace('r[0]', f'q{number}[0][0]')}:"):
                    lines(f"q{number} = [r for r in q{number} if not {over}]")
            elif over is not None:
                lines(f"q{number} = [r for r in q{number} if not {over}]")
            word = "if"
            for one in self.choices[number]:
                with lines.block(_if(word, one.source)):
                    if one.leaf != Stay:
                        lines(f"del w{number}[k]")
                        if one.leaf != Dead or self.emits:
                            lines(f"{_list(one.leaf)} = {self._joined(one.leaf, f'q{number}')}")
                        self._touch()
                word = "elif"

    def _joined(self, leaf: Leaf, more: str) -> str:
        """What a list is with these runs. Most are filled from one place only."""
        if isinstance(leaf, Way):
            alone = self.takers[leaf.element, leaf.again] == 1
        else:
            alone = sum(one.leaf == leaf for chosen in self.choices.values() for one in chosen) == 1
            alone = alone and not (leaf == Dead and self.context.definition.where is not None)
        return more if alone else f"[*{_list(leaf)}, *{more}]"

    def _take(self, at: int, again: bool) -> None:
        lines, element = self.lines, self.elements[at]
        name, slot = _list((at, again)), self.layout.slots[at]
        single, targets = self._targets(at, again)
        with lines.block(f"if {name}:"):
            for order in range(len(targets)):
                lines(f"y{order} = []")
            with lines.block(f"for r in {name}:"):
                if again:
                    lines(f"r[{slot}].append(taken)")
                else:
                    lines(f"r[{slot}] = {'[taken]' if element.several else 'taken'}")
                self._update(at)
                if self.layout.last is not None:
                    lines(f"r[{self.layout.last}] = t")
                if targets:
                    lines(f"n = len(r[{slot}])")
                word = "if"
                for order, condition in enumerate(targets):
                    with lines.block(_if(word, condition)):
                        lines(f"y{order}.append(r)")
                    word = "elif"
            if not targets:
                self._arrive(name, single)
            for order, target in enumerate(targets.values()):
                self._arrive(f"y{order}", target, maybe=True)

    def _targets(self, at: int, again: bool) -> tuple[int | None, dict[str, int | None]]:
        """Where a run goes that has taken an event: to one place, or (then they are not empty) to one of several by how many it has."""
        element, after = self.elements[at], self.places.after[at]
        low, high = max(element.low, 1), element.high
        targets: dict[str, int | None] = {}
        if not again:
            return self._after_one(at), targets
        # it has taken two, or more
        if low > 2:
            targets[f"n < {self.names.of(low)}"] = after.fewer
        if high is None or high > max(low, 2):
            targets[f"n < {self.names.of(high)}" if high is not None else ""] = after.free
        if high is not None:
            targets[""] = after.full
        return (targets[""], {}) if len(targets) == 1 else (None, targets)

    def _update(self, at: int) -> None:
        for one, register in self._registers(at).items():
            value, kept = f"v{register}", f"r[{register}]"
            match one.kind:
                case "total":
                    self.lines(f"{kept} = {kept} + {value}")
                case "distinct":
                    self.lines(f"{kept} = {{*{kept}, {value}}}")
                case kind:
                    word = "<" if kind == "smallest" else ">"
                    self.lines(f"{kept} = {value} if {kept} == () or {value} {word} {kept} else {kept}")

    def _arrive(self, name: str, target: int | None, *, maybe: bool = False) -> None:
        """Runs that took the event, or lost a way on, wait at another place, or are complete."""
        lines = self.lines
        if target is None:
            lines(f"done = [*done, *{name}]")
            return
        if self.emits:
            with lines.block(f"for r in {name}:"):
                self._set_deadline(target, "t" if name != f"m{target}" else f"r[{self.layout.last}]")
        with lines.block(f"if {name}:" if maybe else "if 1:"):
            lines(f"z = w{target}.get(k)")
            with lines.block("if z is None:"):
                lines(f"w{target}[k] = {name}")
            with lines.block("else:"):
                lines(f"z += {name}")

    def _set_deadline(self, target: int, time: str) -> None:
        self.lines(f"r[{self.layout.place}] = {target}")
        if self.layout.due is None:
            return
        due = self.layout.deadline(self.places.all[target], time, "r[0]", self.names)
        if due is None:
            self.lines(f"r[{self.layout.due}] = None")
            return
        self.lines(f"due = {due}")
        with self.lines.block(f"if due != r[{self.layout.due}]:"):
            self.lines(f"r[{self.layout.due}] = due")
            self.lines(f"{self.names.of(heappush, 'f')}(queue, (due, r[0], r[1], k, r))")

    def _move(self, name: str) -> None:
        with self.lines.block(f"if {name}:"):
            if name == "x":
                with self.lines.block("for r in x:"):
                    self.lines(f"r[{self.layout.place}] = -1")
            elif name == "d":
                self.lines("done = [*done, *d]")
            else:
                self._arrive(name, int(name[1:]))

    def _give(self) -> None:
        """Give the matches, and rule out what they rule out."""
        lines = self.lines
        if self.settles:
            lines("ruled = operator.settle(k, done, t, out) if done else None")
            return
        with lines.block("if done:"):
            with lines.block("if len(done) > 1:"):
                lines("done.sort()")
                if self.skip == "past_last":
                    if self.emits:
                        with lines.block("for r in done[1:]:"):
                            lines(f"r[{self.layout.place}] = -1")
                    lines("del done[1:]")
            with lines.block("for r in done:"):
                lines("out.append(found(r, k, t))")
                if self.emits:
                    lines(f"r[{self.layout.place}] = -1")
            if self.skip == "past_last":
                for number in range(len(self.places.all)):
                    gone = f"w{number}.pop(k, None)"
                    if not self.emits:
                        lines(gone)
                        continue
                    with lines.block(f"for r in {gone} or ():"):
                        lines(f"r[{self.layout.place}] = -1")

    def _begin(self) -> None:
        lines, target = self.lines, self._after_one(0)
        condition = "new"
        if self._completes and self._completes != ["new"]:
            if self.settles and self.skip == "past_last":
                condition = "new and (ruled is None or (t, positions[i]) > ruled)"
            elif self.skip == "past_last":
                condition = "new and not done"
        run = [self._literal(number, value) for number, value in enumerate(self.layout.blank)]
        if target is not None and self.layout.due is not None:
            run[self.layout.due] = "None"
        with lines.block(f"if {condition}:"):
            lines(f"r = [{', '.join(run)}]")
            self._update(0)
            if target is None:
                lines("out.append(found(r, k, t))")
                return
            if self.layout.deadlines == "fifo":
                due = self.layout.deadline(self.places.all[target], "t", "t", self.names)
                if due is not None:
                    lines(f"queue.append(({due}, k, r))")
            if self.emits:
                self._set_deadline(target, "t")
            lines(f"z = w{target}.get(k)")
            with lines.block("if z is None:"):
                lines(f"w{target}[k] = [r]")
            with lines.block("else:"):
                lines("z.append(r)")
                runs = self.context.definition.runs
                with lines.block(f"if len(z) > {self.names.of(max(runs // len(self.places.all), 1) - 1)}:"):
                    lines("operator.bound(k)")
            self._touch()

    def _literal(self, number: int, value: object) -> str:
        if number < 2:
            return ("t", "positions[i]")[number]
        if number == self.layout.last:
            return "t"
        if number == self.layout.slots[0]:
            return "[taken]" if self.elements[0].several else "taken"
        assert value in (0, -1, None, ())
        return repr(value)


def write_key(of: Asking, lines: Lines) -> None:
    """`k` becomes the event's key."""
    definition = of.context.definition
    field = _plain_key(definition, of.kind)
    if definition.key_tag == "":
        lines("k = '' if keys is None else keys[i]")
    elif field is None:
        lines("k = operator.key_of(e) if keys is None else keys[i]")
    else:
        with lines.block("if keys is None:"):
            lines(f"k = e.{field}")
            with lines.block(f"if k.__class__ is not {of.names.of(str, 't')} or not k:"):
                lines("k = operator.key_of(e)")
        with lines.block("else:"):
            lines("k = keys[i]")


def _list(of: Leaf | tuple[int, bool]) -> str:
    """The name of the list of runs to which this happens."""
    if isinstance(of, Way):
        of = (of.element, of.again)
    if isinstance(of, tuple):
        return f"{'b' if of[1] else 'a'}{of[0]}"
    return {Dead: "x", Ended: "d"}[of] if isinstance(of, str) else f"m{of}"


def _if(word: str, condition: str) -> str:
    if condition:
        return f"{word} {condition}:"
    return "else:" if word == "elif" else "if 1:"


def _plain_key(definition: Definition, kind: type[Event]) -> str | None:
    """The field that is the key, where it is a text for sure; None: it must be made one."""
    declared = declaration(kind)
    pairs = declared.tags if definition.key_tag is not None else ()
    found = [
        field for field, tag in ((declared.key,) if declared.key else ()) + pairs if definition.key_tag in (None, tag)
    ]
    if not found:
        return None
    hints = {one.name: one.type for one in msgspec.structs.fields(kind)}
    return found[0] if hints.get(found[0]) is str else None
