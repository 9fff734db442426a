"""`semantics="flink"` gives what Flink CEP's own automaton gave for hundreds of random patterns, in the same order."""

from __future__ import annotations

from random import Random

import pytest

from tests.patterns.flink_cep.asking import answers_of_ours, drawn
from tests.patterns.flink_cep.making import SEEDS, asked, digest, kept_answers


def test_answers_are_those_of_flink_to_the_order() -> None:
    kept = kept_answers()
    for seed, (of, answer) in kept.items():
        asking = drawn(Random(seed))
        assert digest(asking) == of, "what is drawn has changed: python -m tests.patterns.flink_cep.making"
        assert answers_of_ours(asking) == answer, (seed, asking)
    words = {step.word for seed in kept for step in drawn(Random(seed)).steps}
    assert words == {"step", "group", "absent"}
    assert len(kept) > 250


@pytest.mark.usefixtures("flink_installed")
def test_the_answers_that_are_kept_are_those_of_the_installed_flink() -> None:
    answers = asked()
    assert len(answers) == len(SEEDS)
    for seed, (_, answer) in kept_answers().items():
        assert answers[seed] == answer, seed
