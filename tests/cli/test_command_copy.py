"""`ensue copy` as a user meets it: what it says, what it refuses, and what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from ensue.app.urls import open_store
from ensue.events.stored import Draft, Meta, encode_meta, tag_hash
from ensue.store.base import Node, Request
from ensue.store.sqlite.transfer import SqliteTransfer
from ensue.store.transfer import copy
from ensue.testing.contracts.transferring import Interrupted, InterruptedTransfer
from ensue.world import RealWorld
from tests.cli.conftest import Ensue, Start
from tests.servers.processes import until

WORLD = RealWorld()
KILLS, EVENTS = 10, 12_000
HERE, THERE = "sqlite:///shop.db", "sqlite:///there.db"


def test_it_moves_a_log_and_says_where_it_is_now(log_file: Path, ensue_: Ensue) -> None:
    shown = ensue_("log", "--json", "--url", HERE).stdout
    result = ensue_("copy", HERE, THERE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "equal: copied, and both sides compared: 4 event types, 15 events," in result.stdout
    assert f"From now on the log is {THERE}" in result.stdout
    assert f"Start nothing on {HERE} any more" in result.stdout
    assert ensue_("log", "--json", "--url", THERE).stdout == shown
    assert ensue_("verify", "--url", THERE).exit_code == 0


def test_in_a_pipe_it_says_what_it_is_at_in_plain_lines(log_file: Path, ensue_: Ensue) -> None:
    lines = ensue_("copy", HERE, THERE).stdout.splitlines()
    assert [line for line in lines if "\t" in line][:3] == ["copying\tevent types", "copying\tevents", "copying\ttags"]
    assert "comparing\tdead letters" in lines
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_it_shows_how_far_it_is(log_file: Path) -> None:
    terminal, side = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "ensue.cli", "copy", HERE, THERE], cwd=log_file.parent, stdout=side, stderr=side
    )
    os.close(side)
    told = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert "copying " in told and "comparing " in told and "100 %" in told


def test_json_has_the_counts_and_whether_both_sides_are_equal(log_file: Path, ensue_: Ensue) -> None:
    first, again = (json.loads(ensue_("copy", HERE, THERE, "--json").stdout) for _ in range(2))
    rows = first["rows"]
    assert (rows["events"], rows["consumers"], rows["dead letters"], rows["lanes"]) == (15, 2, 1, 1)
    assert (first["from"], first["to"], first["position"]) == (HERE, THERE, 15)
    assert (first["received"], first["not_copied"]) == (sum(rows.values()), [])
    assert (first["equal"], first["difference"], first["was_whole"]) == (True, None, False)
    assert (again["equal"], again["received"], again["was_whole"]) == (True, 0, True)
    assert set(first) == {
        "from", "to", "log_id", "position", "rows", "unfilled", "received", "not_copied", "was_whole", "equal", "difference", "seconds",
    }  # fmt: skip


def test_two_logs_that_went_their_own_ways_are_told_apart(log_file: Path, ensue_: Ensue) -> None:
    ensue_("copy", HERE, THERE)
    ensue_("consumers", "pause", "ship", "--reason", "moved", "--url", THERE)
    result = ensue_("copy", HERE, THERE)
    assert result.exit_code == 1
    assert (
        "the two differ, first at: consumers, 2: status is 'active' in the source and 'paused' in the target"
        in result.stderr
    )


def test_what_cannot_move_is_told_on_stderr(log_file: Path, ensue_: Ensue) -> None:
    import apsw

    connection = apsw.Connection(str(log_file))
    connection.execute("CREATE TABLE heap (a)")
    connection.close()
    result = ensue_("copy", HERE, THERE)
    assert result.exit_code == 0
    assert result.stderr == "not copied: the table heap, which has no primary key; move it yourself before you start\n"


def test_a_password_is_never_shown(log_file: Path, ensue_: Ensue, postgresql_url: str) -> None:
    with_password = postgresql_url.replace("@", ":sesame@", 1)
    for result in (
        ensue_("copy", HERE, with_password),
        ensue_("copy", HERE, with_password, "--json"),
        ensue_("copy", with_password, THERE),
        ensue_("copy", THERE, with_password.replace("5", "6")),
        ensue_("copy", HERE, "postgresql://ann:sesame@127.0.0.1:1/nowhere"),
    ):
        assert "sesame" not in result.output
    assert ensue_("copy", THERE, with_password, "--json").exit_code == 0


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_log_that_is_not_there_leaves_no_file_behind(folder: Path, ensue_: Ensue) -> None:
    result = ensue_("copy", HERE, THERE)
    assert result.exit_code == 3
    assert "there is no such file" in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (HERE, HERE, "to itself"),
        ("memory:", THERE, "gone with its process"),
        (HERE, "memory:", "gone with its process"),
        (HERE, "there.db", "no store for the URL there.db"),
    ],
)
def test_wrong_usage_is_told(source: str, target: str, said: str, log_file: Path, ensue_: Ensue) -> None:
    result = ensue_("copy", source, target)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert said in result.stderr


def test_a_log_that_runs_is_not_copied(log_file: Path, ensue_: Ensue) -> None:
    async def runs() -> None:
        store = open_store(HERE)
        await store.open(WORLD)
        now = WORLD.now()
        await store.beat(Node(id=b"n" * 16, host="elsewhere", pid=77, started_at=now, expires_at=now + 50_000_000))
        await store.close()

    asyncio.run(runs())
    result = ensue_("copy", HERE, THERE)
    assert result.exit_code == 3
    assert "it is run by process 77 on elsewhere. Stop what runs it" in result.stderr
    assert not Path("there.db").exists()


def test_another_log_is_not_overwritten(log_file: Path, ensue_: Ensue) -> None:
    _many(Path("there.db"), 3)
    result = ensue_("copy", HERE, THERE)
    assert result.exit_code == 2
    assert "it holds another log" in result.stderr


def test_whoever_opens_half_a_copy_is_told_the_command_that_finishes_it(log_file: Path, ensue_: Ensue) -> None:
    target = InterruptedTransfer(SqliteTransfer("there.db"), 3)
    with pytest.raises(Interrupted):
        asyncio.run(copy(SqliteTransfer("shop.db"), target, WORLD))
    for command in (("log",), ("consumers",), ("verify",), ("dead-letters", "retry", "1")):
        result = ensue_(*command, "--url", THERE)
        assert result.exit_code == 3
        assert "`ensue copy FROM TO` was not finished. Run the same command again" in result.stderr
    assert ensue_("copy", HERE, THERE).exit_code == 0
    assert ensue_("verify", "--url", THERE).exit_code == 0


# --------------------------------------------------------------------------------------------------------------- kills


def _many(path: Path, count: int) -> None:
    """A log of so many events, each with a tag and an idempotency key."""

    def draft(number: int) -> Draft:
        id, key, tag = WORLD.new_id(), f"order={number // 4}", f"customer={number % 100}"
        meta = encode_meta(Meta(WORLD.now(), id, key=key, tags=(tag,)))
        data = b'{"text":"%200d"}' % number
        return Draft(id, f"T{number % 7}", 1, tag_hash(key), (tag_hash(tag),), meta, data)

    async def story() -> None:
        store = open_store(f"sqlite:///{path}")
        await store.open(WORLD)
        for first in range(0, count, 1_000):
            numbers = range(first, min(count, first + 1_000))
            requests: Sequence[Request] = [
                Request(events=[draft(number)], idempotency_key=tag_hash(f"key={number}"), fingerprint=b"f" * 16)
                for number in numbers
            ]
            await asyncio.gather(*map(store.write, requests))
        await store.close()

    asyncio.run(story())


def _grown(target: Path, size: int, process: subprocess.Popen[str]) -> bool:
    return _size(target) >= size or process.poll() is not None


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in (path, path.with_name(f"{path.name}-wal")) if each.exists())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_ten_kills_change_nothing(seed: int, folder: Path, start: Start, ensue_: Ensue) -> None:
    chance = random.Random(seed)
    _many(folder / "shop.db", EVENTS)
    whole, target = _size(folder / "shop.db"), folder / "there.db"
    shown = ensue_("log", "--last", "1000", "--json", "--url", HERE).stdout
    for kill in range(KILLS):
        process = start("copy", HERE, THERE)
        if kill == KILLS - 1:
            assert process.stdout is not None
            assert any(line == "comparing\ttags\n" for line in process.stdout)
        else:  # somewhere on what is left of the way
            at = _size(target) + int(chance.random() * (whole - _size(target)) * 0.4)
            until(partial(_grown, target, at, process), "the target was to grow")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, f"copy {kill} came to its end: {process.communicate()}"
    result = json.loads(ensue_("copy", HERE, THERE, "--json").stdout)
    assert (result["equal"], result["was_whole"], result["position"]) == (True, False, EVENTS)
    assert result["received"] < sum(result["rows"].values())
    assert ensue_("log", "--last", "1000", "--json", "--url", THERE).stdout == shown
    assert ensue_("verify", "--url", THERE).exit_code == 0


def test_ctrl_c_says_that_the_same_command_goes_on(folder: Path, start: Start, ensue_: Ensue) -> None:
    _many(folder / "shop.db", EVENTS)
    process = start("copy", HERE, THERE)
    assert process.stdout is not None
    assert process.stdout.readline() == "copying\tevent types\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "run the same command again, it goes on from here" in said
    assert ensue_("log", "--url", THERE).exit_code == 3
    result = json.loads(ensue_("copy", HERE, THERE, "--json").stdout)
    assert (result["equal"], result["was_whole"]) == (True, False)


@pytest.mark.slow
def test_kills_on_the_way_to_a_server_change_nothing(
    folder: Path, start: Start, ensue_: Ensue, postgresql_url: str
) -> None:
    _many(folder / "shop.db", EVENTS)
    for said in ("copying\tevent types\n", "copying\ttags\n", "comparing\tevents\n", "comparing\tidempotency keys\n"):
        process = start("copy", HERE, postgresql_url)
        assert process.stdout is not None
        assert any(line == said for line in process.stdout), process.communicate()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert ensue_("log", "--url", postgresql_url).exit_code == 3
    result = json.loads(ensue_("copy", HERE, postgresql_url, "--json").stdout)
    assert (result["equal"], result["was_whole"], result["position"]) == (True, False, EVENTS)
    assert result["received"] < sum(result["rows"].values())
