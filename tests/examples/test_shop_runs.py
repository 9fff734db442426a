"""Whole runs of `ensue demo shop`, as a process of its own."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.examples.recount import recount, several_times
from tests.servers.postgresql import PostgresAddress, new_role

ORDERS = Path(__file__).parent / "data" / "orders.csv"
KEYS = [
    "lines", "orders_placed", "orders_cancelled", "lines_rejected", "amount_placed", "amount_cancelled",
    "amount_rejected", "payments", "shipments", "stock_balanced", "events_in_log", "duplicates_ignored", "dead_letters",
    "seconds", "events_per_second", "latency_ms",
]  # fmt: skip
OF_THE_RUN = ("duplicates_ignored", "seconds", "events_per_second", "latency_ms")
COMMAND = [sys.executable, "-c", "from ensue.cli import main; main()", "demo", "shop"]


def shop(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def report(*arguments: str | Path, folder: Path) -> dict[str, Any]:
    done = shop(*arguments, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of_the_log(found: dict[str, Any]) -> dict[str, object]:
    amounts = {key: Decimal(value) for key, value in found.items() if key.startswith("amount_")}
    return {key: value for key, value in {**found, **amounts}.items() if key not in OF_THE_RUN}


def test_a_run_comes_to_what_the_file_says(tmp_path: Path) -> None:
    found = report("--orders", ORDERS, folder=tmp_path)
    assert list(found) == KEYS
    assert of_the_log(found) == recount(ORDERS)


def test_the_same_run_again_adds_nothing(tmp_path: Path) -> None:
    first = report("--orders", ORDERS, "--db", "shop.db", folder=tmp_path)
    again = report("--orders", ORDERS, "--db", "shop.db", folder=tmp_path)
    assert of_the_log(again) == of_the_log(first)
    assert (first["duplicates_ignored"], again["duplicates_ignored"]) == (0, 75)


def test_a_copy_of_the_file_in_another_form_adds_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy.csv.gz"
    copy.write_bytes(gzip.compress(b"\xef\xbb\xbf" + ORDERS.read_bytes().replace(b"\r\n", b"\n")))
    first = report("--orders", ORDERS, "--db", "shop.db", folder=tmp_path)
    assert of_the_log(report("--orders", copy, "--url", "sqlite:///shop.db", folder=tmp_path)) == of_the_log(first)


def test_a_file_that_is_cut_off_adds_nothing_and_the_whole_one_everything(tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut.csv", ORDERS.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    failed = shop("--orders", cut, "--db", "shop.db", "--json", folder=tmp_path)
    assert failed.returncode == 1
    assert re.fullmatch(r"ensue: .*cut\.csv, line \d+: the file ends inside this line.*\n", failed.stderr)
    assert failed.stdout == ""
    cut.write_bytes(whole)
    assert of_the_log(report("--orders", cut, "--db", "shop.db", folder=tmp_path)) == recount(ORDERS)


def test_an_invoice_that_comes_again_with_other_lines_is_rejected(tmp_path: Path) -> None:
    changed = tmp_path / "changed.csv"
    head, first, *_ = ORDERS.read_text(encoding="utf-8").splitlines()
    changed.write_text(f"{head}\n{first}\n")
    report("--orders", ORDERS, "--db", "shop.db", folder=tmp_path)
    found = report("--orders", changed, "--db", "shop.db", folder=tmp_path)
    expected = recount(ORDERS)
    assert (found["orders_placed"], found["lines"]) == (expected["orders_placed"], 368)
    assert found["lines_rejected"] == 36
    again = report("--orders", changed, "--db", "shop.db", folder=tmp_path)
    assert of_the_log(again) == of_the_log(found)


def test_without_a_database_two_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    other = tmp_path / "other" / "orders.csv"
    other.parent.mkdir()
    other.write_text("\n".join(ORDERS.read_text(encoding="utf-8").splitlines()[:2]) + "\n")
    report("--orders", ORDERS, folder=tmp_path)
    assert report("--orders", other, folder=tmp_path)["lines"] == 1


def test_the_name_of_a_file_may_be_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9 %41?#.csv")
    path.write_bytes(ORDERS.read_bytes())
    done = shop("--orders", path, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lines                367" in done.stdout


def test_a_file_with_a_header_only_comes_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(ORDERS.read_text(encoding="utf-8").splitlines()[0] + "\n")
    found = report("--orders", path, folder=tmp_path)
    assert (found["lines"], found["events_in_log"], found["amount_placed"]) == (0, 0, "0.00")
    assert found["stock_balanced"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--orders", "nowhere.csv"], 1, "nowhere.csv cannot be read: there is no such file"),
        (["--orders", "f.csv", "--seconds", "1"], 2, "--seconds is for simulated customers"),
        (["--db", "a.db", "--url", "sqlite:///b.db"], 2, "give one"),
        (["--url", "nosuch://x", "--seconds", "1"], 2, "nosuch"),
        (["--db", "nowhere/a.db", "--seconds", "1"], 3, "nowhere"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line_with_its_code(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    failed = shop(*arguments, folder=tmp_path)
    assert (failed.returncode, failed.stdout) == (code, "")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_simulated_customers_are_served_and_the_bank_is_asked_again(tmp_path: Path) -> None:
    found = report("--seconds", "1", "--seed", "4", "--db", "shop.db", folder=tmp_path)
    assert found["orders_placed"] == found["payments"] == found["shipments"] > 0
    assert found["stock_balanced"] is True
    assert found["dead_letters"] == 0
    assert found["latency_ms"]["p99"] >= found["latency_ms"]["p50"] > 0


def test_simulated_customers_go_on_where_they_stopped(tmp_path: Path) -> None:
    first = report("--seconds", "0.2", "--db", "shop.db", folder=tmp_path)
    second = report("--seconds", "0.2", "--db", "shop.db", folder=tmp_path)
    assert second["orders_placed"] > first["orders_placed"]
    assert second["stock_balanced"] is True


def test_in_a_pipe_the_run_is_told_in_plain_lines(tmp_path: Path) -> None:
    done = shop("--orders", ORDERS, "--db", "shop.db", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.match(r" +\d+\.\d s  0/367 lines  0 orders", done.stdout)
    assert "orders placed        58   9240.104" in done.stdout
    assert "ensue log --url sqlite:///shop.db" in done.stdout


def test_on_a_terminal_the_run_is_drawn_and_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--db", "shop.db"], cwd=tmp_path, stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen = _until(leader, b"inventory.update_stock")
    assert b"events/s" in seen
    process.send_signal(signal.SIGINT)
    seen = _until(leader, b"ensue verify")
    assert b"stock balanced       yes" in seen
    assert process.wait(timeout=30) == 0
    os.close(leader)


def _until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([terminal], [], [], 30)[0], f"waited 30 s for {wanted!r}, saw {seen!r}"
        seen += os.read(terminal, 65536)
    return seen


def test_ctrl_c_stops_a_file_and_the_same_command_goes_on(tmp_path: Path) -> None:
    orders = several_times(ORDERS, tmp_path / "orders.csv", copies=30)
    command = [*COMMAND, "--orders", str(orders), "--db", "shop.db"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, ""), first + rest
    assert "The same command goes on where it stopped." in rest
    assert of_the_log(report("--orders", orders, "--db", "shop.db", folder=tmp_path)) == recount(orders)


def test_two_runs_of_one_file_at_once_add_nothing_twice(tmp_path: Path) -> None:
    orders = several_times(ORDERS, tmp_path / "orders.csv", copies=4)
    command = [*COMMAND, "--orders", str(orders), "--db", "shop.db", "--json"]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert of_the_log(found[0]) == of_the_log(found[1]) == recount(orders)
    assert sum(each["duplicates_ignored"] for each in found) == 4 * 75


def test_a_run_on_a_server_comes_to_the_same_and_shows_no_password(tmp_path: Path, postgresql: PostgresAddress) -> None:
    url = new_role(postgresql.url(), password="geheim-wort")
    done = shop("--orders", ORDERS, "--url", url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert of_the_log(report("--orders", ORDERS, "--url", url, folder=tmp_path)) == recount(ORDERS)
    assert "With ENSUE_URL set to it" in done.stdout
    assert "geheim" not in done.stdout + done.stderr
