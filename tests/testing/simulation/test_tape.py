"""The tape answers the same from a seed, from a list, and from the line it was written down as."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ensue.testing.simulation import Choice, Diverged, Tape

LABELS = ("schedule", "crash/app/committed", "fault/the network drops a packet", "delay")


def draws(tape: Tape, labels: tuple[str, ...] = LABELS) -> list[int]:
    return [tape.draw(label, 4) for _ in range(200) for label in labels]


def lively() -> Iterator[int]:
    """Seeds under which something goes wrong at all."""
    return (seed for seed in range(1, 50) if any(draws(Tape.record(seed))))


def test_the_same_seed_draws_the_same() -> None:
    assert all(draws(Tape.record(seed)) == draws(Tape.record(seed)) for seed in range(20))


def test_seeds_differ() -> None:
    assert len({tuple(draws(Tape.record(seed))) for seed in range(40)}) > 10


def test_draws_under_one_label_do_not_shift_those_under_another() -> None:
    alone = draws(Tape.record(next(lively())), ("schedule",))
    tape = Tape.record(next(lively()))
    among_others = draws(tape)[:: len(LABELS)]
    assert among_others == alone


def test_a_boring_tape_answers_nothing_but_zero() -> None:
    assert set(draws(Tape.boring())) == {0}


def test_a_tape_that_is_calmed_answers_zero_from_then_on_and_so_does_its_recording() -> None:
    tape = Tape.record(next(lively()))
    before = draws(tape)
    tape.calm = True
    assert set(draws(tape)) == {0}
    again = Tape.replay(tape.seed, tape.choices, exact=True)
    assert draws(again) == before
    assert set(draws(again)) == {0}


def test_a_recording_plays_back_exactly() -> None:
    recorded = Tape.record(next(lively()))
    answers = draws(recorded)
    assert draws(Tape.replay(recorded.seed, recorded.choices, exact=True)) == answers


def test_a_tape_plays_back_from_its_line() -> None:
    recorded = Tape.record(next(lively()))
    answers = draws(recorded)
    played = Tape.replay(recorded.seed, recorded.choices)
    draws(played)
    assert draws(Tape.from_text(played.to_text())) == answers
    assert draws(Tape.from_text(recorded.to_text())) == answers


def test_a_bare_number_is_a_seed() -> None:
    seed = next(lively())
    assert draws(Tape.from_text(f" {seed} ")) == draws(Tape.record(seed))


def test_a_choice_that_does_not_fit_becomes_boring_and_is_noted() -> None:
    tape = Tape.replay(1, [Choice("schedule", 0, 3), Choice("crash/app/gone", 0, 1)])
    assert tape.draw("schedule", 2) == 0
    tape.finish()
    assert tape.diverged == ["schedule#0 answered 3, of 2 now", "crash/app/gone#0=1 was never asked for"]


def test_an_exact_replay_refuses_to_diverge() -> None:
    tape = Tape.replay(1, [Choice("schedule", 0, 3)], exact=True)
    with pytest.raises(Diverged, match="answered 3, of 2 now"):
        tape.draw("schedule", 2)
    with pytest.raises(Diverged, match="never asked for"):
        Tape.replay(1, [Choice("schedule", 0, 3)], exact=True).finish()


def test_a_line_from_another_environment_says_so() -> None:
    tape = Tape.from_text("simulation=1 python=3.9.1 ensue=0.0 seed=7 crash/app/committed#2=1")
    assert tape.diverged[0].startswith("recorded with python=3.9.1 ensue=0.0, running with python=3.")
    assert tape.seed == 7


@pytest.mark.parametrize("text", ["", "soon", "simulation=9 a b seed=1", "simulation=1 a b seed=x", "1 2"])
def test_another_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a simulation tape"):
        Tape.from_text(text)


def test_a_garbled_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="expected LABEL#NTH=VALUE, found 'crash'"):
        Tape.from_text("simulation=1 python=3.11 ensue=1 seed=7 crash")
