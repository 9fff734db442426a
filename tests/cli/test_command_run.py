"""`ensue run`: the real program, in a process of its own, told to stop by a real signal."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.bakery import APP, publish, says
from tests.cli.conftest import Ensue, Start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_it_runs_and_stops_with_a_word_and_zero(running: Start, number: signal.Signals) -> None:
    process = running()
    first, consumer = says(process, "sell")
    assert f"bakery runs 1 consumer on sqlite:///bakery.db, pid {process.pid}" in first
    assert "sell  ← Baked" in consumer
    process.send_signal(number)
    rest = says(process, "stopped, nothing is half done")
    assert "stopping; handlers have 30 s to finish" in rest[0]
    assert process.wait(timeout=20) == 0


def test_a_handler_that_works_when_it_is_told_to_stop_is_finished(running: Start, bakery: Path, ensue_: Ensue) -> None:
    process = running()
    says(process, "sell")
    publish(bakery, "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert ensue_("log", "--type", "Sold").stdout.count("\n") == 1


def test_a_retry_and_a_dead_letter_are_told_in_a_readable_line(running: Start, bakery: Path) -> None:
    process = running()
    says(process, "sell")
    publish(bakery, "burnt")
    again, given_up = says(process, "is given up")
    about = "sell: the event at position 1 (bread=burnt)"
    assert f"{about} failed at attempt 1 and is tried again: ValueError: nobody \\x1b[31mbuys it" in again
    assert f"{about} is given up after 2 attempts: ValueError: nobody" in given_up
    assert "see `ensue dead-letters`" in given_up


def test_an_application_with_logging_of_its_own_says_it_there(running: Start, bakery: Path) -> None:
    (bakery / "app.py").write_text("import logging\nlogging.basicConfig(format='own: %(message)s')\n" + APP)
    process = running()
    says(process, "sell")
    publish(bakery, "burnt")
    lines = says(process, "EventParked")
    assert all(line.startswith("own: ") for line in lines)


def test_a_second_interrupt_stops_at_once(running: Start, bakery: Path) -> None:
    (bakery / "app.py").write_text(APP.replace("0.5", "60"))
    process = running()
    says(process, "sell")
    publish(bakery, "slow")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    says(process, "stopping")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == -signal.SIGINT


def test_the_application_of_pyproject_toml_is_run_without_a_name(running: Start, bakery: Path) -> None:
    (bakery / "pyproject.toml").write_text('[tool.ensue]\napp = "app:app"\n')
    says(running("--"), "bakery runs 1 consumer")


def test_what_is_wrong_at_the_start_is_one_sentence(running: Start, bakery: Path) -> None:
    with (bakery / "app.py").open("a") as file:
        file.write("\nclass Oven: ...\n\n@app.on\nasync def bake(sold: Sold, oven: Oven) -> None: ...\n")
    process = running()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 2
    assert stderr.startswith("ensue: ")
    assert "Oven" in stderr
    assert "Traceback" not in stderr


def test_an_interrupt_of_a_command_that_looks_is_130(bakery: Path, running: Start, start: Start) -> None:
    process = running()
    says(process, "sell")
    publish(bakery, "rye")
    following = start("log", "--follow")
    assert following.stdout is not None
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    _, stderr = following.communicate(timeout=20)
    assert following.returncode == 130
    assert stderr.strip() == ""


def test_a_second_process_says_with_whom_it_shares_and_takes_over_when_the_first_stops(running: Start) -> None:
    first = running()
    says(first, "sell")
    second = running()
    assert f"sell  ← Baked; shared with process {first.pid}" in says(second, "sell")[-1]
    first.terminate()
    says(second, "sell is run here now")


def test_a_killed_process_owns_nothing_any_more(running: Start, ensue_: Ensue) -> None:
    process = running()
    says(process, "sell")
    assert ensue_("consumers").stdout.split("\t")[-1].strip() == str(process.pid)
    process.kill()
    process.wait(timeout=20)
    assert ensue_("consumers").stdout.split("\t")[-1].strip() == "nobody"


def test_a_paused_consumer_is_shown_as_such_when_the_application_starts(
    running: Start, bakery: Path, ensue_: Ensue
) -> None:
    publish(bakery, "rye")
    assert ensue_("consumers", "pause", "sell", "--reason", "stock-taking").exit_code == 0
    assert "sell  ← Baked; is paused: stock-taking" in says(running(), "sell")[-1]


def test_a_file_that_is_no_log_cannot_be_run_on(running: Start, bakery: Path) -> None:
    (bakery / "bakery.db").write_text("flour, water, salt" * 100)
    process = running()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 3
    assert stderr.startswith("ensue: ")
    assert stderr.count("\n") == 1


def test_what_the_application_raises_at_its_start_shows_its_own_traceback(running: Start, bakery: Path) -> None:
    with (bakery / "app.py").open("a") as file:
        file.write("\nclass Oven: ...\n\n@app.provide\ndef oven() -> Oven:\n    raise OSError('no gas')\n")
        file.write("\n@app.on\nasync def bake(sold: Sold, oven: Oven) -> None: ...\n")
    process = running()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 2
    files = [line for line in stderr.splitlines() if line.startswith("  File")]
    assert files == [f'  File "{bakery}/app.py", line 27, in oven']
    assert stderr.splitlines()[-1] == "ensue: app:app raised OSError, see above."
