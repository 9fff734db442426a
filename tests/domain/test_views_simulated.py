"""Views through crashes at every step of being created, built, followed, built anew and shown; and whatever else chance does."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest

from ensue import App, View
from ensue.domain.views import building, parts, registry
from ensue.domain.views.registry import Database, Version
from ensue.errors import OutcomeUnknown
from ensue.store.base import SqlTransaction
from ensue.testing import AppSimulation, simulate
from tests.domain.accounts import Balance, Profile, expected, some_events

bank = App("bank")
bank.view(Balance)
bank.view(Profile)
one_view = App("bank")
one_view.view(Balance)
NAMES: dict[str, type[View]] = {"balance": Balance, "profile": Profile}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PAGE", 4), ("EVENTS_AT_ONCE", 8), ("ROWS_AT_ONCE", 4), ("ROWS_KEPT", 4)):
        monkeypatch.setattr(building, name, value)


async def versions(app: App) -> list[Version]:
    return await registry.versions(cast(Database, app.open_store()))


async def rebuild(app: App) -> None:
    """What `ensue views rebuild` does, unless it was done by a life before this one."""
    store = cast(Database, app.open_store())
    for name in NAMES:
        own = [one for one in await registry.versions(store) if one.name == name]
        if len(own) != 1:
            continue

        def anew(sql: SqlTransaction, version: Version = own[0]) -> None:
            if len(registry.of_name(sql, version.name)) == 1:
                registry.rebuild(sql, version, used=version.number, now=0)

        try:
            await registry.write(store, anew)
        except OutcomeUnknown:
            await rebuild(app)


async def check(sim: AppSimulation, count: int, *, current: int) -> None:
    shown: dict[str, int] = {}
    for _ in range(40):
        await sim.run_until_quiet()
        shown = {one.name: one.number for one in await sim.inside(versions) if one.current}
        if shown == dict.fromkeys(NAMES, current):
            break
        await sim.advance(timedelta(seconds=2))
    else:
        raise AssertionError(f"readers see {shown}, not version {current}: {await sim.inside(versions)}")
    await sim.run_until_quiet()
    assert not await sim.dead_letters()
    events = some_events(3, count, accounts=4)
    for name, view in NAMES.items():
        read = getattr(view, "__ensue_row__")  # noqa: B009
        for table in (name, registry.table_name(name, current)):
            found = [read(line) for line in await sim.rows(f"SELECT * FROM {table} ORDER BY account_id")]
            assert found == expected(view, events), f"{table} has {found}"


async def rows_follow(sim: AppSimulation) -> None:
    events = some_events(3, 12, accounts=4)
    for first in range(0, 12, 4):
        await sim.app.publish(*events[first : first + 4])
    await check(sim, 12, current=1)


async def rows_are_built_anew(sim: AppSimulation) -> None:
    events = some_events(3, 12, accounts=4)
    await sim.app.publish(*events[:8])
    await sim.run_until_quiet()
    while len(await sim.inside(versions)) < len(NAMES):
        await sim.advance(timedelta(seconds=1))
    await sim.inside(rebuild)
    await sim.app.publish(*events[8:10])
    await sim.app.publish(*events[10:])
    await check(sim, 12, current=2)


def test_rows_follow_the_log_through_a_crash_at_every_step() -> None:
    checked = simulate(bank, crashes="everywhere", runs=10)(rows_follow)
    checked()
    assert checked.report is not None
    assert {"view.created", "view.begun", "view.built", "view.consumer defined"} <= checked.report.failpoints.keys()


@pytest.mark.slow
def test_a_view_is_built_anew_through_a_crash_at_every_step() -> None:
    checked = simulate(bank, crashes="everywhere", runs=10)(rows_are_built_anew)
    checked()
    assert checked.report is not None
    assert {"view.begun", "view.flushed", "view.indexed", "view.built"} <= checked.report.failpoints.keys()


async def two_processes_build_it_anew(sim: AppSimulation) -> None:
    sim.start_another()
    await rows_are_built_anew(sim)


@pytest.mark.slow
def test_two_processes_build_a_view_anew_whatever_chance_does() -> None:
    simulate(bank, crashes="none", runs=20)(two_processes_build_it_anew)()


@pytest.mark.slow
def test_a_view_is_built_in_parts_through_a_crash_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The view whose events are of rows in two parts, alone: what two views do beside each other is tested above and below."""
    monkeypatch.setattr(parts, "worth_dividing", lambda _store, _processes: 3)
    monkeypatch.delitem(NAMES, "profile")
    checked = simulate(one_view, crashes="everywhere", runs=0)(rows_are_built_anew)
    checked()
    assert checked.report is not None
    assert {"view.divided", "view.part begun", "view.merged"} <= checked.report.failpoints.keys()


@pytest.mark.slow
def test_two_processes_build_the_parts_of_a_view_whatever_chance_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "worth_dividing", lambda _store, _processes: 3)
    simulate(bank, crashes="none", runs=20)(two_processes_build_it_anew)()
