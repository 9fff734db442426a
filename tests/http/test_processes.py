"""Several processes behind HTTP, real ones: reading one's own writes, kills, and stopping while somebody watches."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.http.serving import process
from tests.servers.processes import die_with_parent, until
from tests.typing.checkers import ROOT

pytestmark = pytest.mark.slow

USES = ROOT / "docs" / "uses"


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log that several processes can open."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    found: str = request.getfixturevalue("postgresql_url")
    return found


def test_what_one_process_wrote_is_seen_by_another_that_is_given_its_position(shared_url: str, tmp_path: Path) -> None:
    command, money = ["-m", "tests.http.bank"], {"account_id": "a1", "amount": "10"}
    with (
        process(command, tmp_path, BANK_URL=shared_url) as one,
        process(command, tmp_path, BANK_URL=shared_url) as other,
    ):
        for number in range(1, 21):
            position = one.post("/deposit", json=money).headers["Ensue-Position"]
            answer = other.get("/balance-of?account_id=a1", headers={"Ensue-After": position})
            assert answer.json() == str(10 * number)
            one, other = other, one


def test_rows_of_a_view_are_seen_likewise_whichever_process_keeps_them(shared_url: str, tmp_path: Path) -> None:
    command = ["-m", "uvicorn", "web:web", "--app-dir", str(USES), "--port", "0"]
    with (
        process(command, tmp_path, ENSUE_URL=shared_url) as one,
        process(command, tmp_path, ENSUE_URL=shared_url) as other,
    ):
        for number in range(1, 31):
            order = {"order_id": f"o{number}", "customer_id": "c1", "total": "1"}
            position = one.post("/place-order", json=order).headers["Ensue-Position"]
            rows = other.get("/orders-of?customer_id=c1", headers={"Ensue-After": position})
            assert rows.status_code == 200, rows.text
            assert len(rows.json()) == number
            one, other = other, one


def test_a_watch_in_one_process_hears_of_what_another_did(shared_url: str, tmp_path: Path) -> None:
    command = ["-m", "uvicorn", "web:web", "--app-dir", str(USES), "--port", "0"]
    with (
        process(command, tmp_path, ENSUE_URL=shared_url) as one,
        process(command, tmp_path, ENSUE_URL=shared_url) as other,
    ):
        asked = {"Accept": "text/event-stream"}
        with other.stream("GET", "/orders-of?customer_id=c1", headers=asked) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            assert next(lines) == "data: []"
            one.post("/place-order", json={"order_id": "o1", "customer_id": "c1", "total": "1"})
            assert '"order_id":"o1"' in next(lines)


class Killed:
    """The bank at a port of its own, killed and started again."""

    def __init__(self, url: str, folder: Path) -> None:
        self._environment = os.environ | {"BANK_URL": url, "PYTHONPATH": str(ROOT)}
        self._log = folder / "killed.log"
        self.start()

    def start(self) -> None:
        with self._log.open("w") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.http.bank"],
                cwd=ROOT,
                env=self._environment,
                stdout=told,
                stderr=told,
                preexec_fn=lambda: die_with_parent(signal.SIGKILL),
            )
        until(lambda: "running on http" in self._log.read_text() or self.process.poll() is not None, "it is served")
        (self.where,) = re.findall(r"running on (http://\S+)", self._log.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_command_that_is_sent_until_it_is_answered_is_done_once_through_kills(
    shared_url: str, tmp_path: Path
) -> None:
    bank = Killed(shared_url, tmp_path)
    answered: list[int] = []
    stop = threading.Event()

    def customer(name: int) -> None:
        with httpx.Client(timeout=10) as client:
            number, unanswered = 0, False
            while unanswered or not stop.is_set():
                unanswered = True
                key, body = f'"{name}-{number}"', {"account_id": "a1", "amount": "1"}
                with contextlib.suppress(httpx.TransportError):
                    answer = client.post(f"{bank.where}/deposit", json=body, headers={"Idempotency-Key": key})
                    assert answer.status_code in (200, 409, 503), answer.text
                    if answer.status_code == 200:
                        answered.append(1)
                        number, unanswered = number + 1, False

    customers = [threading.Thread(target=customer, args=(name,)) for name in range(4)]
    for one in customers:
        one.start()
    try:
        goal = 0
        for _ in range(3):
            goal = len(answered) + 50
            until(lambda: len(answered) > goal, "customers are served")  # noqa: B023
            bank.kill()
            bank.start()
        until(lambda: len(answered) > goal + 50, "customers are served")
    finally:
        stop.set()
        for one in customers:
            one.join(60)
    with httpx.Client(base_url=bank.where) as client:
        assert client.get("/balance-of?account_id=a1").json() == str(len(answered))
    bank.kill()


def test_a_server_that_is_told_to_stop_stops_though_somebody_watches(tmp_path: Path) -> None:
    command = ["-m", "uvicorn", "web:web", "--app-dir", str(USES), "--port", "0", "--timeout-graceful-shutdown", "1"]
    with process(command, tmp_path) as client:
        watching = client.send(
            client.build_request("GET", "/orders-of?customer_id=c1", headers={"Accept": "text/event-stream"}),
            stream=True,
        )
        next(watching.iter_lines())
        began = time.monotonic()
        held = watching  # open until the server has ended
    assert time.monotonic() - began < 20
    assert "Application shutdown complete" in (tmp_path / "served-0.log").read_text()
    held.close()
