"""The programs in docs/uses and in the README do what is said of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from ensue import App, Event, Flow, Of, State
from ensue.errors import NotYetAvailable
from tests.http.serving import process
from tests.typing.checkers import ROOT, programs_of_papers

USES = ROOT / "docs" / "uses"
BUILT = ["shop.py", "apart.py", "fraud.py", "bank.py", "decider.py", "sensors.py", "web.py"]
DECLARED = sorted(file.name for file in USES.glob("*.py") if file.name not in BUILT)


def run(arguments: list[str], folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_program_of_the_readme_runs(tmp_path: Path) -> None:
    program = next(file for file in programs_of_papers(tmp_path) if file.name == "readme.py")
    program.write_text(program.read_text() + "\n\nimport asyncio\n\nasyncio.run(main())\n")
    result = run([str(program)], tmp_path)
    assert "OrderShipped(order_id='o1')" in result.stdout, result.stdout + result.stderr


def test_the_tests_of_the_readme_pass(tmp_path: Path) -> None:
    program = next(file for file in programs_of_papers(tmp_path) if file.name == "readme.py")
    program.rename(tmp_path / "test_readme.py")
    result = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_readme.py"], tmp_path)
    assert "2 passed" in result.stdout, result.stdout + result.stderr


def test_the_shop_reserves_charges_and_ships_and_refuses_what_is_sold_out(tmp_path: Path) -> None:
    result = run([str(USES / "shop.py")], tmp_path)
    lines = result.stdout.splitlines()
    assert lines == ["charged 9.50", "OrderShipped(order_id='o1')", "StockMissing(order_id='o2')"], result.stderr


def test_the_shop_does_the_same_on_a_server(tmp_path: Path, postgresql_url: str) -> None:
    result = run([str(USES / "shop.py")], tmp_path, ENSUE_URL=postgresql_url)
    lines = result.stdout.splitlines()
    assert lines == ["charged 9.50", "OrderShipped(order_id='o1')", "StockMissing(order_id='o2')"], result.stderr


def test_the_decider_grants_and_refuses(tmp_path: Path) -> None:
    result = run([str(USES / "decider.py")], tmp_path)
    lines = result.stdout.splitlines()
    assert lines == ["Withdrawn(account_id='a1', amount=Decimal('40'))", "no: 60 is there"], result.stderr


def test_fraud_is_suspected_after_a_small_payment_and_three_large_ones_abroad(tmp_path: Path) -> None:
    result = run([str(USES / "fraud.py")], tmp_path)
    assert result.stdout == "c1 tested in DE 1000\n", result.stderr


def test_a_hot_sensor_is_found_in_readings_that_come_in_any_order(tmp_path: Path) -> None:
    result = run([str(USES / "sensors.py")], tmp_path, ENSUE_CHANNELS="memory:")
    assert result.stdout == "Overheating(sensor='s1', celsius=97.5)\n", result.stderr


@pytest.mark.parametrize("place", ["file", "server"])
def test_the_bank_refuses_what_is_not_there(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    where = {} if place == "file" else {"ENSUE_URL": request.getfixturevalue("postgresql_url")}
    result = run([str(USES / "bank.py")], tmp_path, **where)
    assert result.stdout == "no: 100 is there\n40 Statement(account_id='a1', balance=Decimal('60'), movements=2)\n", (
        result.stderr
    )


@pytest.mark.parametrize("place", ["file", "server"])
def test_the_web_application_shows_everybody_their_own_writes(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = {} if place == "file" else {"ENSUE_URL": request.getfixturevalue("postgresql_url")}
    order = {"order_id": "o1", "customer_id": "c1", "total": "9.50"}
    with process(["-m", "uvicorn", "web:web", "--app-dir", str(USES), "--port", "0"], tmp_path, **where) as client:
        placed = client.post("/place-order", json=order)
        assert (placed.status_code, placed.json()) == (200, order)
        seen = {"Ensue-After": placed.headers["Ensue-Position"]}
        assert client.get("/orders-of?customer_id=c1", headers=seen).json() == [{**order, "status": "placed"}]
        empty = client.post("/place-order", json={**order, "total": "0"})
        assert (empty.status_code, empty.json()["refusal"], empty.json()["fields"]) == (
            422,
            "EmptyOrder",
            {"total": "0"},
        )


@pytest.mark.parametrize("broker", ["memory", "nats"])
def test_the_shop_taken_apart_does_the_same_over_a_channel(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    channels = {} if broker == "memory" else {"ENSUE_CHANNELS": request.getfixturevalue(broker).url(prefix="uses-")}
    result = run([str(USES / "apart.py")], tmp_path, **channels)
    lines = sorted(result.stdout.splitlines())  # by which way news travels fastest is not said
    assert lines == ["OrderShipped(order_id='o1')", "StockMissing(order_id='o2')", "charged 9.50"], result.stderr


def test_a_use_is_built_or_says_at_its_first_registration_that_it_is_not(tmp_path: Path) -> None:
    table = (USES / "README.md").read_text()
    for name in BUILT:
        assert f"[{name}]({name})" in table
        assert any(f"[{name}]" in line and line.endswith("| runs |") for line in table.splitlines())
    for name in DECLARED:
        assert any(f"[{name}]" in line and line.endswith("| declared |") for line in table.splitlines()), name
        assert "NotYetAvailable" in (USES / name).read_text().partition('"""\n\n')[0], name


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_declared_and_not_built_refuses_to_be_registered(name: str, tmp_path: Path) -> None:
    result = run([str(USES / name)], tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ensue.errors.NotYetAvailable: "), result.stderr


class Paid(Event, key="order_id"):
    order_id: str


class Account(State, key="account_id"):
    balance: int = 0


def with_a_state(event: Paid, account: Account) -> None: ...
def with_a_named_state(event: Paid, account: Annotated[Account, Of("order_id")]) -> None: ...
def with_a_state_or_none(event: Paid, account: Account | None = None) -> None: ...
async def with_a_flow(event: Paid, flow: Flow) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        with_a_state,
        with_a_named_state,
        with_a_state_or_none,
        with_a_flow,
    ],
)
def test_an_event_handler_that_names_what_is_not_built_is_refused(handler: Callable[..., Any]) -> None:
    with pytest.raises(NotYetAvailable, match=f"{handler.__name__}: .* declared, but this version cannot run them yet"):
        App("shop").on(handler)
