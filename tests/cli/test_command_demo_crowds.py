"""`ensue demo bank` and `ensue demo enrolment`: what is checked is printed, for people and for programs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Ensue, Start

SHORT = ("--seconds", "1.5", "--clients", "8", "--kills", "1")


@pytest.mark.slow
@pytest.mark.parametrize("demo", ["bank", "enrolment"])
def test_a_demo_prints_one_object_for_programs(demo: str, folder: Path, ensue_: Ensue) -> None:
    events = 0
    for _ in range(2):  # the second time on the log of the first
        result = ensue_("demo", demo, *SHORT, "--url", "sqlite:///demo.db", "--json")
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        assert report["problems"] == []
        assert report["clients"] == 8
        assert report["rows_compared"] > 0
        assert report["events_in_log"] >= events
        events = report["events_in_log"]
    assert (folder / "demo.db").exists()


@pytest.mark.slow
def test_an_interrupt_ends_a_demo_in_order_and_all_is_checked(folder: Path, start: Start) -> None:
    process = start("demo", "bank", "--seconds", "60", "--clients", "8", "--url", "sqlite:///demo.db")
    assert process.stdout is not None
    assert "0 problems" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=50)
    assert "problems                     none" in rest
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--url", "memory:"), "is of one process"),
        (("--processes", "3", "--clients", "2"), "a process has at least one"),
        (("--kills", "-1"), "-1 is not in the range"),
        (("--url", "http://host"), "no store for the URL http://host"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_started(
    options: tuple[str, ...], said: str, folder: Path, ensue_: Ensue
) -> None:
    result = ensue_("demo", "bank", *options)
    assert result.exit_code == 2
    assert said in result.stderr
