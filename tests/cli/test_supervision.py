"""What a supervisor decides, without a process."""

from __future__ import annotations

import signal

import pytest

from ensue.cli import supervision
from ensue.cli.supervision import Action, End, Kill, Say, Start, Stop, Supervision

KILLED, TERMINATED = -signal.SIGKILL, -signal.SIGTERM
WHOLE = 1.0
"""The chance that draws the longest delay."""


def begun(workers: int) -> Supervision:
    machine = Supervision(workers)
    assert machine.begin(0.0) == [Start(1)]
    return machine


def opened(workers: int) -> Supervision:
    """All of them ready, at time 0."""
    machine = begun(workers)
    for worker in range(1, workers + 1):
        machine.ready(worker, 0.0, drain_seconds=30.0)
    return machine


def done(actions: list[Action]) -> list[Action]:
    """Without what is only said."""
    return [action for action in actions if not isinstance(action, Say)]


def said(actions: list[Action]) -> str:
    return "\n".join(action.text for action in actions if isinstance(action, Say))


# ------------------------------------------------------------------------------------------------------- the start


def test_the_first_worker_starts_alone_and_the_others_when_it_is_ready() -> None:
    machine = begun(3)
    assert machine.ready(1, 0.5, drain_seconds=30.0) == [Start(2), Start(3)]
    assert machine.ready(2, 1.0, drain_seconds=30.0) == []


@pytest.mark.parametrize("code", [2, 3])
def test_what_no_restart_mends_ends_everything_with_its_code(code: int) -> None:
    assert begun(4).ended(1, code, 0.5, WHOLE) == [End(code)]


@pytest.mark.parametrize("code", [1, KILLED, -signal.SIGSEGV])
def test_a_first_worker_that_crashes_is_started_again_alone(code: int) -> None:
    machine = begun(4)
    assert done(machine.ended(1, code, 0.5, WHOLE)) == []
    assert machine.passed(1.0) == [Start(1)]
    assert machine.ready(1, 1.5, drain_seconds=30.0) == [Start(2), Start(3), Start(4)]


@pytest.mark.parametrize("code", [2, 3])
def test_once_a_worker_was_ready_nothing_that_one_ends_by_ends_the_others(code: int) -> None:
    machine = opened(2)
    assert done(machine.ended(2, code, 1.0, WHOLE)) == []
    assert machine.runs(1)
    assert machine.next_due() == 1.5


# --------------------------------------------------------------------------------------------------------- restarts


def test_a_worker_that_ends_is_started_again_after_a_delay_that_is_said() -> None:
    machine = opened(2)
    words = said(machine.ended(2, KILLED, 10.0, WHOLE))
    assert words == "worker 2 was ended by SIGKILL; it is started again in 500 ms"
    assert machine.passed(10.4) == []
    assert machine.passed(10.5) == [Start(2)]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (0, "has ended"),
        (1, "has ended with code 1"),
        (TERMINATED, "was ended by SIGTERM"),
        (-99, "was ended by signal 99"),
    ],
)
def test_it_is_said_how_it_ended(code: int, how: str) -> None:
    assert said(opened(1).ended(1, code, 1.0, WHOLE)).startswith(f"worker 1 {how}; ")


def test_delays_double_up_to_a_bound() -> None:
    machine, now, delays = opened(1), 0.0, list[float]()
    for _ in range(40):
        machine.ended(1, KILLED, now, WHOLE)
        due = machine.next_due()
        assert due is not None
        delays.append(due - now)
        now = due
        assert machine.passed(now) == [Start(1)]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == supervision.LONGEST_DELAY_SECONDS


def test_chance_draws_a_delay_from_its_upper_half() -> None:
    machine = opened(2)
    machine.ended(1, KILLED, 0.0, 0.0)
    assert machine.next_due() == 0.25


def test_a_worker_that_fails_again_says_for_the_how_manyth_time() -> None:
    machine = opened(1)
    for number in range(1, 24):
        words = said(machine.ended(1, KILLED, number * 100.0, WHOLE))
        machine.passed(number * 100.0 + 50.0)
        if number in (2, 3, 11, 12, 21, 22):
            ordinal = {2: "2nd", 3: "3rd", 11: "11th", 12: "12th", 21: "21st", 22: "22nd"}[number]
            assert f", for the {ordinal} time in a row; " in words


def test_one_that_has_been_ready_for_a_while_begins_anew_and_that_is_said() -> None:
    machine = opened(1)
    for now in (0.0, 10.0):
        machine.ended(1, KILLED, now, WHOLE)
        machine.passed(now + 5.0)
    machine.ready(1, 20.0, drain_seconds=30.0)
    assert machine.next_due() == 50.0
    assert said(machine.passed(50.0)) == "worker 1 has run for 30 s again"
    assert machine.next_due() is None
    machine.ended(1, KILLED, 60.0, WHOLE)
    assert machine.next_due() == 60.5


def test_time_that_a_worker_needs_to_get_ready_does_not_count_as_having_lived() -> None:
    machine = opened(1)
    for now in (0.0, 100.0, 200.0):  # it never says that it is ready
        machine.ended(1, KILLED, now, WHOLE)
        machine.passed(now + 50.0)
    machine.ended(1, KILLED, 300.0, WHOLE)
    assert machine.next_due() == 304.0


def test_nothing_is_due_while_all_is_well() -> None:
    assert opened(3).next_due() is None


# ------------------------------------------------------------------------------------------------------------ a stop


def test_a_stop_tells_all_that_run_and_ends_when_the_last_is_gone() -> None:
    machine = opened(2)
    assert done(machine.stop(10.0)) == [Stop(1), Stop(2)]
    assert machine.ended(1, 0, 11.0, WHOLE) == []
    last = machine.ended(2, 0, 12.0, WHOLE)
    assert last == [Say("green", "stopped, nothing is half done"), End(0)]


def test_a_worker_that_waits_for_its_restart_is_not_started_any_more() -> None:
    machine = opened(2)
    machine.ended(2, KILLED, 1.0, WHOLE)
    assert done(machine.stop(1.1)) == [Stop(1)]
    assert machine.passed(5.0) == []
    assert done(machine.ended(1, 0, 6.0, WHOLE)) == [End(0)]


def test_a_stop_while_no_worker_runs_is_the_end() -> None:
    machine = begun(2)
    machine.ended(1, KILLED, 1.0, WHOLE)
    assert done(machine.stop(1.1)) == [End(0)]


def test_a_stop_while_the_first_worker_begins_is_clean_though_it_ends_by_the_signal() -> None:
    machine = begun(2)
    assert done(machine.stop(0.1)) == [Stop(1)]
    assert done(machine.ended(1, TERMINATED, 0.2, WHOLE)) == [End(0)]


def test_a_worker_that_becomes_ready_after_the_stop_starts_no_other() -> None:
    machine = begun(2)
    machine.stop(0.1)
    assert machine.ready(1, 0.2, drain_seconds=30.0) == []


def test_a_second_stop_kills_what_still_runs() -> None:
    machine = opened(3)
    machine.stop(1.0)
    machine.ended(1, 0, 2.0, WHOLE)
    assert machine.stop(3.0) == [Kill(2), Kill(3)]


def test_a_stop_that_comes_twice_at_once_is_one() -> None:
    machine = opened(2)
    machine.stop(1.0)
    assert machine.stop(1.1) == []
    assert not machine.is_killing


@pytest.mark.parametrize(("code", "exit_code"), [(3, 3), (KILLED, 1), (-signal.SIGSEGV, 1)])
def test_a_worker_that_could_not_stop_cleanly_is_seen_in_the_exit_code(code: int, exit_code: int) -> None:
    machine = opened(2)
    machine.stop(1.0)
    machine.ended(1, code, 2.0, WHOLE)
    assert machine.ended(2, 0, 2.0, WHOLE) == [End(exit_code)]


def test_of_several_that_could_not_stop_cleanly_the_first_is_the_exit_code() -> None:
    machine = opened(3)
    machine.stop(1.0)
    machine.ended(1, 3, 2.0, WHOLE)
    machine.ended(2, KILLED, 2.0, WHOLE)
    assert machine.ended(3, 0, 2.0, WHOLE) == [End(3)]


def test_a_worker_that_was_killed_is_given_time_to_end() -> None:
    machine = opened(1)
    machine.stop(0.0)
    due = machine.next_due()
    assert due is not None
    assert Kill(1) in machine.passed(due)
    assert machine.passed(due + 1.0) == []


def test_a_worker_that_does_not_stop_is_killed_after_its_drain_and_a_grace() -> None:
    machine = begun(1)
    machine.ready(1, 0.0, drain_seconds=5.0)
    machine.stop(10.0)
    due = 10.0 + 5.0 + supervision.GRACE_SECONDS
    assert machine.next_due() == due
    assert machine.passed(due - 1) == []
    assert machine.passed(due) == [Say("red", "worker 1 does not stop; it is killed"), Kill(1)]


def test_how_long_handlers_may_take_is_said_as_the_application_is_set_to() -> None:
    machine = begun(1)
    machine.ready(1, 0.0, drain_seconds=5.0)
    assert "handlers have 5 s to finish" in said(machine.stop(1.0))


def test_why_a_worker_does_not_run_can_be_asked() -> None:
    machine = begun(2)
    assert machine.absence(2, 0.0) == "waits until the first one is ready"
    machine.ready(1, 0.0, drain_seconds=30.0)
    machine.ended(1, KILLED, 1.0, WHOLE)
    assert machine.absence(1, 1.1) == "is started again in 400 ms"
    machine.stop(1.2)
    assert machine.absence(1, 1.3) == "is stopped"
