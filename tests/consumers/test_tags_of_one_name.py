"""An event that is tagged with two keys of one name, as a transfer is with both accounts, is handled by its own key alone."""

from __future__ import annotations

from ensue import App, Event
from ensue.errors import OutcomeUnknown
from ensue.testing import AppSimulation, simulate


class Booked(Event):
    account: str
    amount: int


class Transferred(Event, key={"source": "account_id"}, tags={"target": "account_id"}):
    source: str
    target: str
    amount: int


booking = App("booking")


@booking.on(start="beginning")
async def book(event: Transferred) -> list[Booked]:
    return [
        Booked(account=event.source, amount=-event.amount),
        Booked(account=event.target, amount=event.amount),
    ]


@simulate(booking, crashes="everywhere", runs=40)
async def test_a_key_that_fell_behind_takes_no_events_that_only_mention_it(sim: AppSimulation) -> None:
    async def transfer(app: App) -> None:
        events = [Transferred(source="ab"[n % 2], target="ba"[n % 2], amount=n + 1) for n in range(4)]
        while True:
            try:
                await app.publish(*events, idempotency_key="once")
                return
            except OutcomeUnknown:
                continue

    await sim.inside(transfer)
    await sim.run_until_quiet()
    booked = sorted((event.account, event.amount) for event in await sim.events(Booked))
    expected = [pair for n in range(4) for pair in (("ab"[n % 2], -n - 1), ("ba"[n % 2], n + 1))]
    assert booked == sorted(expected)
