"""Which processes are known to be alive, and where their numbers mean anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from ensue.store.base import Node
from ensue.store.nodes import LONGEST_LEASE, here, host_name, is_gone, is_living, living

NOW = 1_000_000_000


def node(number: int = 1, *, host: str | None = None, pid: int | None = None, lives: int = 5_000_000) -> Node:
    return Node(
        id=number.to_bytes(16, "big"), host=host or here(), pid=pid or os.getpid(), started_at=0, expires_at=NOW + lives
    )


def dead_pid() -> int:
    """The number of a process that has ended a moment ago."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_of_this_place_that_has_ended_is_gone_before_its_lease_ends() -> None:
    ended = node(pid=dead_pid())
    assert is_gone(ended)
    assert not is_living(ended, NOW)


def test_a_process_that_has_ended_and_that_nobody_has_asked_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.read() == b"", "it has ended, or is about to"
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(node(pid=process.pid))
    finally:
        process.communicate()


def test_a_process_that_works_or_stands_still_is_not_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_gone(node(pid=process.pid))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert not is_gone(node(pid=process.pid))
        process.kill()


def test_a_number_of_another_place_says_nothing_even_under_the_same_host_name() -> None:
    elsewhere = node(pid=dead_pid(), host=f"{host_name(node())}#00000000")
    assert not is_gone(elsewhere)
    assert is_living(elsewhere, NOW)


def test_people_see_the_name_of_the_host_alone() -> None:
    assert host_name(node(host="shop-1#1f2e3d4c")) == "shop-1"
    assert host_name(node(host="shop-1")) == "shop-1"


def test_a_place_is_the_same_for_all_processes_that_see_each_other() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from ensue.store.nodes import here; print(here())"], capture_output=True, text=True
    )
    assert told.stdout.strip() == here()


def test_a_lease_is_alive_until_it_ends_unless_it_reaches_into_a_time_before_the_clock_went_back() -> None:
    ends = (node(1, lives=0), node(2, lives=1), node(3, lives=LONGEST_LEASE - 1), node(4, lives=LONGEST_LEASE))
    assert [one.id[-1] for one in living(ends, NOW)] == [2, 3]
