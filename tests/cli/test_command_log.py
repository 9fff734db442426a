"""`ensue log` shows what happened: as text, as JSON, filtered, from anywhere, as long as it goes on."""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.cli.conftest import Ensue, Sql, Start
from tests.cli.shop import OrderPlaced, shop


def lines(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split("\t") for line in result.stdout.splitlines()]


def objects(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def positions(result: Result) -> list[int]:
    return [int(cells[0]) for cells in lines(result)]


def test_every_event_is_a_line_of_tab_separated_cells_in_a_pipe(log_file: Path, ensue_: Ensue) -> None:
    shown = lines(ensue_("log"))
    assert [int(cells[0]) for cells in shown] == list(range(1, 16))
    position, time, name, key, cause, payload = shown[0]
    assert (position, name, key, cause) == ("1", "OrderPlaced", "order_id=o1", "")
    assert time.endswith("Z")
    assert json.loads(payload) == {"order_id": "o1", "customer": "anna", "total": "9.50"}


def test_no_escape_code_goes_into_a_pipe(log_file: Path, ensue_: Ensue) -> None:
    assert "\x1b" not in ensue_("log").output


def test_each_json_line_holds_the_event_and_what_is_known_about_it(log_file: Path, ensue_: Ensue) -> None:
    first = objects(ensue_("log", "--json"))[0]
    assert first["event"] == {"order_id": "o1", "customer": "anna", "total": "9.50"}
    assert first["tags"] == ["customer=anna"]
    assert first["stream_version"] == 1
    assert first["correlation"] == first["id"]
    assert first["maker"] is None


def test_an_effect_names_its_cause_its_root_and_its_maker(log_file: Path, ensue_: Ensue) -> None:
    effects = objects(ensue_("log", "--json", "--type", "OrderShipped", "--key", "order_id=o1"))
    (payment,) = objects(ensue_("log", "--json", "--type", "PaymentProcessed", "--key", "order_id=o1"))
    assert [(one["cause"], one["root"], one["maker"]) for one in effects] == [(payment["position"], 1, "ship")]


def test_a_type_selects_events_of_that_type_and_several_any_of_them(log_file: Path, ensue_: Ensue) -> None:
    chosen = lines(ensue_("log", "--type", "OrderPlaced", "--type", "OrderShipped"))
    assert sorted(cells[2] for cells in chosen) == ["OrderPlaced"] * 6 + ["OrderShipped"] * 3


def test_tags_and_keys_select_events_that_carry_all_of_them(log_file: Path, ensue_: Ensue) -> None:
    assert positions(ensue_("log", "--tag", "customer=anna")) == [1, 3, 15]
    assert positions(ensue_("log", "--tag", "customer=anna", "--key", "order_id=o3")) == [3]


def test_a_correlation_selects_what_belongs_to_one_write(log_file: Path, ensue_: Ensue) -> None:
    assert positions(ensue_("log", "--correlation", objects(ensue_("log", "--json"))[0]["id"])) == list(range(1, 15))


def test_a_correlation_is_found_by_the_id_of_any_event_of_it(log_file: Path, ensue_: Ensue) -> None:
    effect = objects(ensue_("log", "--json", "--type", "OrderShipped"))[0]
    assert positions(ensue_("log", "--correlation", effect["id"]))[0] == 1


def test_reading_begins_at_a_position(log_file: Path, ensue_: Ensue) -> None:
    assert positions(ensue_("log", "--from", 13)) == [13, 14, 15]


def test_reading_begins_at_a_time(log_file: Path, ensue_: Ensue) -> None:
    time = objects(ensue_("log", "--json", "--from", 15))[0]["recorded_at"]
    assert positions(ensue_("log", "--from", time)) == [15]


def test_a_time_may_be_said_as_how_long_ago(log_file: Path, ensue_: Ensue) -> None:
    assert len(lines(ensue_("log", "--from", "1h"))) == 15


def test_the_last_ones_are_shown_oldest_first(log_file: Path, ensue_: Ensue) -> None:
    assert positions(ensue_("log", "--last", 2)) == [14, 15]


def test_the_last_ones_of_a_filter_are_counted_after_it(log_file: Path, ensue_: Ensue) -> None:
    assert positions(ensue_("log", "--last", 2, "--type", "OrderPlaced")) == [5, 15]


def test_backwards_shows_the_newest_first(log_file: Path, ensue_: Ensue) -> None:
    assert positions(ensue_("log", "--backwards")) == list(range(15, 0, -1))
    assert positions(ensue_("log", "--backwards", "--last", 2)) == [15, 14]
    assert positions(ensue_("log", "--backwards", "--from", 14)) == [15, 14]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--type", "OrderPlacd"), "no event type of this log is called 'OrderPlacd'; there are: CustomerNotified, "),
        (("--tag", "anna"), "'anna' is not a key or tag; write it as name=value"),
        (("--from", "yesterday"), "'yesterday' is neither a position nor a time"),
        (("--correlation", "xyz"), "'xyz' is no correlation id"),
        (("--follow", "--backwards"), "leave one of them out"),
    ],
)
def test_a_filter_that_means_nothing_is_wrong_usage(
    log_file: Path, ensue_: Ensue, arguments: tuple[str, ...], said: str
) -> None:
    result = ensue_("log", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_correlation_of_no_event_is_a_no(log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("log", "--correlation", "00000000-0000-7000-8000-000000000000")
    assert result.exit_code == 1
    assert "has the id or the correlation" in result.stderr


def test_an_event_that_cannot_be_read_is_shown_as_such_and_hides_no_other(
    log_file: Path, sql: Sql, ensue_: Ensue
) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position = 2", b"{broken")
    shown = objects(ensue_("log", "--json"))
    assert len(shown) == 15
    assert shown[1]["event"] is None
    assert "payload cannot be read" in shown[1]["unreadable"]
    assert "<its payload cannot be read" in lines(ensue_("log"))[1][5]


def test_control_characters_of_an_event_do_not_reach_the_screen(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position = 2", '{"text":"\x9b31m"}'.encode())
    assert "\x9b" not in ensue_("log").stdout


def test_with_the_application_events_are_shown_as_its_code_reads_them(log_file: Path, sql: Sql, ensue_: Ensue) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position = 1", b'{"order_id":"o1","customer":"anna","total":"x"}')
    first = objects(ensue_("log", "--json", "--app", "tests.cli.shop:app"))[0]
    assert first["event"]["total"] == "x"
    assert "the application cannot read it" in first["unreadable"]


def test_the_log_of_a_running_application_is_followed_without_gap_or_repeat(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ensue.cli",
        "log",
        "--follow",
        "--type",
        "OrderPlaced",
        "--url",
        "sqlite:///shop.db",
    ]

    async def follow() -> list[bytes]:
        async with shop("sqlite:///shop.db") as app:
            await app.publish(OrderPlaced(order_id="o0", customer="anna", total=Decimal(1)))
            following = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert following.stdout is not None
            try:
                async with asyncio.timeout(20):
                    shown = [await following.stdout.readline()]
                    for number in range(1, 20):
                        await app.publish(OrderPlaced(order_id=f"o{number}", customer="anna", total=Decimal(1)))
                    shown += [await following.stdout.readline() for _ in range(19)]
            finally:
                following.terminate()
                await following.wait()
        return shown

    keys = [line.split(b"\t")[3].decode() for line in asyncio.run(follow())]
    assert keys == [f"order_id=o{number}" for number in range(20)]


def test_whoever_reads_only_the_first_line_ends_it_quietly(log_file: Path, sql: Sql, start: Start) -> None:
    sql("UPDATE ensue_event SET data = ? WHERE position > 1", b'"' + b"x" * 100_000 + b'"')
    reading = start("log")
    assert reading.stdout is not None
    assert reading.stderr is not None
    assert reading.stdout.readline().startswith("1\t")
    reading.stdout.close()
    assert reading.stderr.read() == ""
    assert reading.wait(timeout=20) == 0
