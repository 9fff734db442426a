"""A parked key waits in order; a person retries, edits or discards; bugs and outages stop a consumer instead of parking all."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ensue import App, Context, Event, Retry
from ensue.errors import Conflict, InvalidEvent
from ensue.testing import AppSimulation, simulate
from ensue.testing.simulation.process import PROCESS, Crashed
from tests.consumers.clocks import Rang, Ticked, rung, said, tick

refused: set[int] = set()
"""The numbers that the world outside refuses at the moment."""
keys: dict[int, list[str]] = {}

app = App("parking")


@app.on(retry=Retry.never)
async def ring(event: Ticked, ctx: Context) -> Rang:
    keys.setdefault(ctx.position, []).append(ctx.idempotency_key)
    if event.number in refused:
        raise ValueError(f"{event.number} is refused")
    return Rang(clock_id=event.clock_id, number=event.number)


class Struck(Event):
    """It has no key."""

    number: int


class Heard(Event):
    number: int


keyless = App("keyless")


@keyless.on(retry=Retry.never)
async def hear(event: Struck) -> Heard:
    if event.number in refused:
        raise ValueError(f"{event.number} is refused")
    return Heard(number=event.number)


async def parked(sim: AppSimulation, *numbers: int) -> None:
    """Ticks 1 to 5 of clock a and tick 9 of clock b are published, and these are refused."""
    keys.clear()
    refused.clear()
    refused.update(numbers)
    await sim.app.publish(*(tick(number) for number in range(1, 6)), tick(9, "b"))
    await sim.run_until_quiet()


async def retry(sim: AppSimulation, letter: int, **options: object) -> None:
    async def call(app: App) -> None:
        await app.dead_letters.retry(letter, **options)  # type: ignore[arg-type]

    await sim.inside(call)


async def discard(sim: AppSimulation, letter: int, note: str) -> None:
    async def call(app: App) -> None:
        await app.dead_letters.discard(letter, note=note, by="the test")

    await sim.inside(call)


@simulate(app, crashes="none", runs=0)
async def test_a_dead_letter_parks_its_key_only(sim: AppSimulation) -> None:
    await parked(sim, 3)
    assert await rung(sim, "a") == [1, 2]
    assert await rung(sim, "b") == [9]
    (letter,) = await sim.dead_letters()
    assert (letter.key_text, letter.position, letter.attempts) == ("clock_id=a", 3, 1)
    assert letter.reason == "ValueError: 3 is refused"
    assert 'raise ValueError(f"{event.number} is refused")' in letter.traceback


@simulate(app, crashes="none", runs=0)
async def test_a_retried_event_is_handled_before_those_that_waited_behind_it(sim: AppSimulation) -> None:
    await parked(sim, 3)
    refused.clear()
    (letter,) = await sim.dead_letters()
    await retry(sim, letter.id)
    await sim.run_until_quiet()
    assert await rung(sim, "a") == [1, 2, 3, 4, 5]
    assert await sim.dead_letters() == []
    assert len(set(keys[3])) == 1, "a retry asks the outside with the same idempotency key"


@simulate(keyless, crashes="none", runs=0)
async def test_an_event_without_a_key_that_is_retried_after_a_crash_brings_no_later_one_with_it(
    sim: AppSimulation,
) -> None:
    refused.clear()
    refused.add(1)
    await sim.app.publish(*(Struck(number=number) for number in range(5)))
    await sim.run_until_quiet()
    await sim.crash()
    refused.clear()
    (letter,) = await sim.dead_letters()
    await retry(sim, letter.id)
    await sim.run_until_quiet()
    assert sorted(event.number for event in await sim.events(Heard)) == [0, 1, 2, 3, 4]


@simulate(app, crashes="none", runs=0)
async def test_what_fails_again_behind_it_parks_the_key_again(sim: AppSimulation) -> None:
    await parked(sim, 3)
    refused.clear()
    refused.add(5)
    (letter,) = await sim.dead_letters()
    await retry(sim, letter.id)
    await sim.run_until_quiet()
    assert await rung(sim, "a") == [1, 2, 3, 4]
    (letter,) = await sim.dead_letters()
    assert letter.position == 5


@simulate(app, crashes="none", runs=0)
async def test_an_edited_event_replaces_the_payload_for_this_delivery_and_asks_with_a_new_key(
    sim: AppSimulation,
) -> None:
    await parked(sim, 3)
    (letter,) = await sim.dead_letters()
    await retry(sim, letter.id, event=tick(33))
    await sim.run_until_quiet()
    assert await rung(sim, "a") == [1, 2, 33, 4, 5]
    assert [event.number for event in await sim.events(Ticked)] == [1, 2, 3, 4, 5, 9], "the log is as it was"
    assert len(set(keys[3])) == 2


@simulate(app, crashes="none", runs=0)
async def test_a_discarded_event_is_passed_over_and_its_note_kept(sim: AppSimulation) -> None:
    await parked(sim, 3)
    (letter,) = await sim.dead_letters()
    await discard(sim, letter.id, "the customer asked for it")
    await sim.run_until_quiet()
    assert await rung(sim, "a") == [1, 2, 4, 5]

    async def history(app: App) -> list[tuple[str | None, str | None, str | None]]:
        letters = await app.open_store().dead_letters(open_only=False)
        return [(letter.resolution, letter.note, letter.by) for letter in letters]

    assert await sim.inside(history) == [("discarded", "the customer asked for it", "the test")]


@simulate(app, crashes="none", runs=0)
async def test_all_that_are_open_can_be_retried_one_after_another(sim: AppSimulation) -> None:
    await parked(sim, 3, 9)
    refused.clear()
    for letter in await sim.dead_letters():
        await retry(sim, letter.id)
    await sim.run_until_quiet()
    assert await rung(sim, "a") == [1, 2, 3, 4, 5]
    assert await rung(sim, "b") == [9]


@simulate(app, crashes="none", runs=0)
async def test_only_the_first_of_two_operators_changes_it_and_a_note_is_needed_to_discard(sim: AppSimulation) -> None:
    await parked(sim, 3)
    (letter,) = await sim.dead_letters()
    with pytest.raises(InvalidEvent, match="a note that says why"):
        await discard(sim, letter.id, " ")
    await retry(sim, letter.id)
    with pytest.raises(Conflict):
        await discard(sim, letter.id, "too late")


# ------------------------------------------------------------------------------------------------------- outages

outage: list[bool] = [False]
fragile = App("fragile")


@fragile.on(retry=Retry.never)
async def call_the_outside(event: Ticked) -> Rang:
    if outage[0]:
        raise ConnectionError("the outside is away")
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(fragile, crashes="none", runs=0)
async def test_an_outage_trips_the_consumer_instead_of_parking_everything_and_it_resumes_by_itself(
    sim: AppSimulation,
) -> None:
    outage[0] = True
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in range(100)))
    await sim.advance(timedelta(seconds=30))
    assert said(sim, "ConsumerTripped: consumer=call_the_outside, reason=20 keys in a row failed without a success")
    assert len(await sim.dead_letters()) < 100
    outage[0] = False
    await sim.advance(timedelta(minutes=20))
    for letter in await sim.dead_letters():
        await retry(sim, letter.id)
    await sim.run_until_quiet()
    assert sorted(await rung(sim)) == list(range(100))

    async def status(app: App) -> str:
        (consumer,) = await app.open_store().consumers()
        return consumer.status

    assert await sim.inside(status) == "active"


poisoned: list[AppSimulation] = []
poison = App("poison")


@poison.on(retry=Retry(attempts=3, first=timedelta(seconds=1)))
async def die(event: Ticked) -> Rang:
    if event.number == 13:
        process = PROCESS.get()
        assert process is not None
        poisoned[0].surroundings.kill(process, "killed by the event it handles")
        raise Crashed
    return Rang(clock_id=event.clock_id, number=event.number)


@simulate(poison, crashes="none", runs=0)
async def test_an_event_that_kills_its_process_is_parked_and_the_others_are_handled(sim: AppSimulation) -> None:
    poisoned[:] = [sim]
    await sim.app.publish(tick(1), tick(13, "b"), tick(2), tick(3, "c"))
    await sim.run_until_quiet(within=timedelta(hours=1))
    assert sorted(await rung(sim)) == [1, 2, 3]
    (letter,) = await sim.dead_letters()
    assert letter.position == 2
    assert letter.reason == "the process died while handling it"


half = App("half")


@half.on(retry=Retry.never)
async def refuse_odd_ones(event: Ticked) -> None:
    if event.number % 2:
        raise ValueError("odd")


@simulate(half, crashes="none", runs=0)
async def test_more_than_a_thousand_parked_keys_are_a_bug_and_no_more_are_parked(sim: AppSimulation) -> None:
    await sim.app.publish(*(tick(number, f"clock-{number}") for number in range(2_400)))
    await sim.advance(timedelta(seconds=10))
    assert said(sim, "ConsumerTripped: consumer=refuse_odd_ones, reason=more than 1000 keys are parked")
    assert 1_000 < len(await sim.dead_letters()) < 1_200
