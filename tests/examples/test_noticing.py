"""What the examples notice: in cards of which the answer is known, in loans that are counted twice, in a machine with known failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from ensue.cli.program import ensue
from ensue.examples.noticing.cards import payments
from ensue.examples.noticing.loans import Done, find_all, recount
from ensue.examples.noticing.machine import Alarm, Reading, Span, alarms, watch
from tests.real_data import DATA

LOANS = DATA / "loan-applications.csv.gz"
MACHINE = DATA / "nab" / "machine_temperature_system_failure.csv"
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


def said(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(ensue, ["demo", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    facts: dict[str, object] = json.loads(result.output)
    return facts


def test_every_stolen_card_is_suspected_once_and_no_other_though_the_application_was_stopped_meanwhile(
    tmp_path: Path,
) -> None:
    facts = said("cards", "--cards", "400", "--url", f"sqlite:///{tmp_path / 'cards.db'}")
    assert (facts["missed"], facts["wrong"]) == ([], [])
    assert facts["suspected"] == facts["stolen"] == len(payments(400).stolen) > 3


def step(application: str, activity: str, at: str, lifecycle: str = "COMPLETE") -> Done:
    return Done(application=application, activity=activity, lifecycle=lifecycle, at=datetime.fromisoformat(at))


ROWS = [
    step("1", "A_SUBMITTED", "2011-10-25T12:00:00+02:00"),
    step("1", "W_Call", "2011-10-25T12:00:00+02:00", "SCHEDULE"),
    step("2", "W_Call", "2011-10-25T12:00:00+02:00", "SCHEDULE"),
    step("1", "A_ACCEPTED", "2011-10-26T12:00:00+02:00"),
    step("1", "O_SENT", "2011-10-27T12:00:00+02:00"),
    step("1", "O_SENT", "2011-10-28T12:00:00+02:00"),
    step("1", "W_Call", "2011-11-01T10:59:59+01:00", "START"),  # seven days less a second: summer time ended between
    step("2", "W_Call", "2011-11-01T11:00:00+01:00", "START"),  # seven days
    step("1", "O_SENT_BACK", "2011-11-03T10:00:00+01:00"),
]


def test_waiting_is_measured_in_time_that_passed_also_across_a_change_of_summer_time() -> None:
    report, late = find_all(ROWS, timedelta(days=7))
    assert [(one.application, one.step) for one in late] == [("2", "W_Call")]
    assert report.problems == []


def test_the_stuck_step_is_named_and_an_offer_sent_twice_is_noticed() -> None:
    report, _ = find_all(ROWS, timedelta(days=7))
    assert report.stuck_before == {"approved": 1}
    assert report.offers_sent_twice == 1


def test_a_second_count_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.examples.noticing.loans.recount", lambda rows, patience: recount(rows[:-1], patience))
    report, _ = find_all([*ROWS, step("3", "A_SUBMITTED", "2011-11-04T10:00:00+01:00")], timedelta(days=7))
    assert len(report.problems) == 1
    assert report.problems[0].startswith("stuck:")


@pytest.mark.skipif(not LOANS.exists(), reason="the real loan applications are not here")
def test_both_counts_of_the_real_loans_say_the_same() -> None:
    facts = said("loans", str(LOANS), "--days", "5")
    assert facts["problems"] == []
    assert facts["rows"] == 262_200


def readings(celsius: Sequence[float], *, minutes: int = 5) -> list[Reading]:
    return [
        Reading(machine="m", at=BEGIN + timedelta(minutes=minutes * nth), celsius=value)
        for nth, value in enumerate(celsius)
    ]


@pytest.mark.parametrize(
    ("kind", "celsius"),
    [("jump", [80.0, 80.0, 60.0]), ("cold", [80.0, *[79.0 - 7 * n for n in range(4)], *[49.0] * 6])],
)
def test_a_sudden_and_a_lasting_cold_are_noticed(kind: str, celsius: list[float]) -> None:
    assert kind in [alarm.kind for alarm in alarms(readings(celsius))]


def test_silence_is_noticed_half_an_hour_after_the_last_reading() -> None:
    first, second = readings([80.0, 80.0], minutes=45)
    assert [alarm for alarm in alarms([first, second]) if alarm.kind == "silence"] == [
        Alarm("silence", at + timedelta(minutes=30)) for at in (first.at, second.at)
    ]


def test_half_a_day_of_coolness_is_noticed_as_drift_and_an_hour_less_is_not() -> None:
    assert "drift" in [alarm.kind for alarm in alarms(readings([65.0] * 12 * 13))]
    assert "drift" not in [alarm.kind for alarm in alarms(readings([65.0] * 12 * 11 + [80.0] * 12))]


def test_what_is_noticed_in_a_known_failure_counts_for_it_and_what_is_not_counts_against() -> None:
    jumps = readings([80.0, 60.0, *[60.0] * 600, 80.0])
    report, found = watch(
        jumps, [Span(BEGIN, BEGIN + timedelta(hours=1)), Span(BEGIN + timedelta(days=9), BEGIN + timedelta(days=10))]
    )
    assert [alarm.kind for alarm in found if alarm.kind == "jump"] == ["jump", "jump"]
    assert (report.failures_noticed, report.episodes_in_failures, report.episodes["jump"]) == (1, 1, 2)


@pytest.mark.skipif(not MACHINE.exists(), reason="the real machine is not here")
def test_most_known_failures_of_the_real_machine_are_noticed(tmp_path: Path) -> None:
    picture = tmp_path / "machine.png"
    facts = said("machine", str(MACHINE), "--labels", str(MACHINE.parent / "labels.json"), "--plot", str(picture))
    assert facts["readings"] == 22_695
    assert facts["failures_noticed"] == 4
    assert picture.stat().st_size > 10_000
