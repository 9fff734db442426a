"""Worked cases as data, in `cases/*.json`: a pattern, a stream, and what is found in it, step by step.

The streams are of one type of event, told apart by a letter: `a1@3:5` is an event whose letter is a, at 3 microseconds, with the number 5
(without: one microsecond behind the one before, with 0). `flink` is what Flink CEP answers, where that is something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import new_class
from typing import Any

import pytest

from ensue.patterns import Pattern, absent, all_of, either, group, one, optional, several, to_first, to_last
from ensue.patterns.compiled.compiler import NoPlaces, compiled
from ensue.patterns.definition import Definition
from ensue.patterns.operator import Operator
from ensue.patterns.operators import operator_of
from ensue.patterns.searching.engine import Engine
from tests.patterns.comparing import BEHIND, at_once, expected, given, one_by_one
from tests.patterns.oracle import Answer, Match, Timed
from tests.patterns.shapes import SEES, A

CASES = {
    f"{file.stem}: {case['name']}": case
    for file in sorted((Path(__file__).parent / "cases").glob("*.json"))
    for case in json.loads(file.read_text())
}
_EVENT = re.compile(r"(?P<name>(?P<letter>[a-z])\d*)(@(?P<time>\d+))?(:(?P<n>\d+))?$")


def step(said: list[Any]) -> Any:
    kind, of, options = said[0], said[1], dict(said[2] if len(said) > 2 else {})
    sees = options.pop("sees", ())
    if "within" in options:
        options["within"] = timedelta(microseconds=options["within"])
    if isinstance(options.get("times"), list):
        options["times"] = tuple(options["times"])
    if "until" in options:
        options["until"] = letter(options["until"])
    if kind == "group":
        return group(pattern(of, None, "next", "Part"), **options)
    if kind in ("either", "all_of"):
        of_parts: Any = either if kind == "either" else all_of
        return of_parts(*map(step, of), **options)
    takes: Mapping[str, Any] = {"one": one, "several": several, "optional": optional, "absent": absent}
    made = takes[kind](A, *([] if of == "any" else [letter(of)]), **options)
    for seen, text, name in sees:
        made.where(SEES[seen][text](name))
    return made


def letter(wanted: str) -> Callable[[A], bool]:
    return lambda event: event.s in tuple(wanted)


def pattern(
    steps: Mapping[str, Any], within: int | None, skip: str, name: str = "Case", semantics: str = "ensue"
) -> type[Pattern]:
    way, _, of = skip.partition(" ")
    options: dict[str, Any] = {
        "semantics": semantics,
        "skip": {"first": to_first, "last": to_last}[way](of) if of else way,
    }
    options.update({"unbounded": True} if within is None else {"within": timedelta(microseconds=within)})
    namespace = {name: step(said) for name, said in steps.items()}
    return new_class(name, (Pattern,), options, lambda own: own.update(namespace))


def stream(text: str) -> tuple[list[Timed], list[str]]:
    events: list[Timed] = []
    names: list[str] = []
    for word in text.split():
        found = _EVENT.match(word)
        assert found, word
        time = int(found["time"]) if found["time"] else (events[-1].time + 1 if events else 0)
        events.append(Timed(time, len(events), A(n=int(found["n"] or 0), s=found["letter"])))
        names.append(found["name"])
    return events, names


def taken(steps: Any, names: list[str]) -> list[str]:
    if isinstance(steps, int):
        return [names[steps]]
    inside = steps.values() if isinstance(steps, dict) else steps or ()
    return [name for one in inside for name in taken(one, names)]


def shown(answer: Answer, names: list[str]) -> tuple[list[str], list[str]]:
    def text(match: Match) -> str:
        events = sorted(taken(match.steps, names), key=names.index)
        return f"{' '.join(events)} @{match.ended}"

    return list(map(text, answer.matches)), sorted(map(text, answer.expired))


@pytest.mark.parametrize("name", CASES)
def test_what_is_found_is_what_the_case_says(name: str) -> None:
    case = CASES[name]
    definition = pattern(case["steps"], case.get("within"), case.get("skip", "next")).__ensue_pattern__
    events, names = stream(case["stream"])
    over = events[-1].time + BEHIND
    wanted = case["matches"], sorted(case.get("expired", []))
    nothing = Answer([], [])
    assert shown(expected(definition, events, over).get("k", nothing), names) == wanted, "the oracle"
    for make in (_engine, _compiled):
        for feed in (at_once, one_by_one):
            outputs = feed(partial(make, definition), events, over)
            assert shown(given(outputs).get("k", nothing), names) == wanted, make.__name__


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "flink" in case])
def test_where_flink_answers_otherwise_its_semantics_do_as_well(name: str) -> None:
    case = CASES[name]
    assert case["flink"] != case["matches"]  # also where only the time is another one
    flink = pattern(case["steps"], case.get("within"), case.get("skip", "next"), semantics="flink").__ensue_pattern__
    events, names = stream(case["stream"])
    outputs = one_by_one(partial(operator_of, flink), events, events[-1].time + BEHIND)
    found, _ = shown(given(outputs).get("k", Answer([], [])), names)
    assert sorted(found) == sorted(case["flink"])


def _engine(definition: Definition) -> Operator:
    return Engine(definition, timeouts=True)


def _compiled(definition: Definition) -> Operator:
    try:
        return compiled(definition, timeouts=True)
    except NoPlaces:
        return _engine(definition)
