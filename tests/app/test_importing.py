"""`import ensue` is quick because it loads little; what runs an application is loaded when one opens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "apsw",
    "asyncio",
    "click",
    "concurrent.futures",
    "hypothesis",
    "http",
    "logging",
    "multiprocessing",
    "pytest",
    "rich",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tomllib",
    "unittest",
    "ensue.app.domain",
    "ensue.app.engine",
    "ensue.app.traffic",
    "ensue.channels.connection",
    "ensue.cli",
    "ensue.consumers.runner",
    "ensue.examples",
    "ensue.store.memory",
    "ensue.store.sqlite",
    "ensue.testing",
    "ensue.world",
}


def loaded_by(program: str) -> set[str]:
    """The modules that a fresh interpreter has after running this."""
    code = f"import sys; before = set(sys.modules)\n{program}\nimport json; print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return set(json.loads(done.stdout))


def test_importing_ensue_loads_nothing_heavy() -> None:
    assert not HEAVY & loaded_by("import ensue")


def test_declaring_an_application_loads_nothing_heavy() -> None:
    program = """
from ensue import App, Event, Retry, Service
class OrderPlaced(Event, key="order_id"):
    order_id: str
app, billing = App("shop", url="sqlite:///shop.db"), Service("billing", retry=Retry(attempts=2))
@billing.on
async def charge(order: OrderPlaced) -> None: ...
@app.provide
def number() -> int: return 7
app.include(billing)
app.handlers, app.settings
"""
    assert not HEAVY & loaded_by(program)


@pytest.mark.parametrize(
    ("url", "loads"),
    [("memory:", {"ensue.store.memory"}), ("sqlite:///shop.db", {"ensue.store.sqlite", "apsw"})],
)
def test_a_url_loads_its_own_adapter_only(url: str, loads: set[str]) -> None:
    adapters = {"apsw", "ensue.store.memory", "ensue.store.sqlite"}
    found = loaded_by(f"from ensue.app import open_store; open_store({url!r})")
    assert adapters & found == loads
