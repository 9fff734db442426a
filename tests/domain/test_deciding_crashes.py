"""A crash at every step of a decision, lost answers, and bugs planted to see that these tests would find them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from ensue.domain import commands as commands_module
from ensue.domain import together as together_module
from ensue.domain.commands import Commands
from ensue.domain.outcome import Keyed
from ensue.domain.states import Kept, Loaded, States
from ensue.errors import EnsueError, OutcomeUnknown, Refusal, TryAgain
from ensue.store.base import Condition, Request
from ensue.testing import AppSimulation, simulate
from tests.domain.school import (
    Account,
    Balance,
    CourseDefined,
    Deposit,
    Deposited,
    Enrol,
    Full,
    Overdrawn,
    StudentEnrolled,
    Transfer,
    Withdraw,
    Withdrawn,
    application,
)
from tests.domain.test_deciding import recorded

school = application("memory:")


async def keyed_decisions(sim: AppSimulation) -> None:
    """Each is sent until it is answered, under a key of its own: it happens once, whatever dies meanwhile."""

    async def send(command: Any, key: str) -> Any:
        while True:
            try:
                return (await sim.app.send(command, idempotency_key=key)).result
            except (Overdrawn, Full) as refusal:
                return refusal
            except TryAgain:
                continue

    await send(Deposit(account_id="a", amount=10), "one")
    assert (await send(Withdraw(account_id="a", amount=4), "two")).amount == 4
    refused = await send(Withdraw(account_id="a", amount=7), "three")
    assert refused.available == 6
    assert await send(Balance(account_id="a", amount=5), "four") == 11
    refused = await send(Withdraw(account_id="a", amount=7), "three")
    assert refused.available == 6, "the first answer is the answer"
    assert len(await send(Transfer(source="a", target="b", amount=3), "five")) == 2
    assert [event.amount for event in await sim.events(Deposited)] == [10, 5, 3]
    assert [event.amount for event in await sim.events(Withdrawn)] == [4, 3]


@simulate(school, crashes="pairs", pairs=80, runs=60)
async def test_a_decision_under_a_key_happens_once_and_has_one_answer_whatever_dies(sim: AppSimulation) -> None:
    await keyed_decisions(sim)


@simulate(school, crashes="everywhere", runs=60)
async def test_without_a_key_a_decision_may_happen_again_and_never_against_its_state(sim: AppSimulation) -> None:
    await sim.app.publish(Deposited(account_id="a", amount=5), CourseDefined(course_id="c", places=2))
    for _ in range(4):
        try:
            await sim.app.send(Withdraw(account_id="a", amount=2))
            await sim.app.send(Enrol(course_id="c", student_id="s"))
        except (Overdrawn, Full, EnsueError):
            continue
    given = sum(event.amount for event in await sim.events(Deposited))
    taken = sum(event.amount for event in await sim.events(Withdrawn))
    assert 0 < taken <= given
    assert len(await sim.events(StudentEnrolled)) <= 2


def test_a_lost_answer_is_had_again_by_the_key(url: str) -> None:
    async def run() -> None:
        async with application(url).connected() as app:
            await app.send(Deposit(account_id="a", amount=10))
            store = app.open_store()
            write = store.write

            def losing(request: Request) -> asyncio.Future[Any]:
                lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

                def answered(future: asyncio.Future[Any]) -> None:
                    future.exception()
                    lost.set_exception(OutcomeUnknown("the answer was lost"))

                write(request).add_done_callback(answered)
                return lost

            store.write = losing  # type: ignore[method-assign]
            with pytest.raises(OutcomeUnknown):
                await app.send(Withdraw(account_id="a", amount=10), idempotency_key="k")
            store.write = write  # type: ignore[method-assign]
            receipt = await app.send(Withdraw(account_id="a", amount=10), idempotency_key="k")
            assert receipt.replayed
            assert receipt.result == Withdrawn(account_id="a", amount=10)
            # What this process remembered is behind the log now, and it knows.
            with pytest.raises(Overdrawn):
                await app.send(Withdraw(account_id="a", amount=1))
            assert len(await recorded(app, Withdrawn)) == 1

    asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------- planted bugs


@contextmanager
def planted(owner: Any, name: str, bug: Any) -> Generator[None, None, None]:
    right = vars(owner)[name]
    setattr(owner, name, bug)
    try:
        yield
    finally:
        setattr(owner, name, right)


async def race(url: str) -> None:
    """Two applications, one account, and events of each between reading and appending of the other."""
    async with application(url).connected() as one, application(url).connected() as two:
        await one.publish(Deposited(account_id="a", amount=12), CourseDefined(course_id="c", places=3))
        sent = [
            app.send(command)
            for number in range(9)
            for app in (one, two)
            for command in (
                Withdraw(account_id="a", amount=1),
                Enrol(course_id="c", student_id=f"s{number}"),
                Transfer(source="a", target="b", amount=1),
            )
        ]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        wrong = [answer for answer in answers if isinstance(answer, EnsueError)]
        assert not wrong, wrong[0]
        taken = sum(event.amount for event in await recorded(one, Withdrawn) if isinstance(event, Withdrawn))
        assert taken == 12, f"{taken} taken of 12"
        assert len(await recorded(one, StudentEnrolled)) == 3
        account = await one.state(Account, "a")
        assert (account.balance, account.events) == (0, 13)
        assert sum(isinstance(answer, Overdrawn) for answer in answers) == 24
        await two.send(Deposit(account_id="a", amount=1))
        assert (await one.send(Withdraw(account_id="a", amount=1))).result.amount == 1


async def races(folder: str) -> None:
    for number in range(3):
        await race(f"sqlite:///{folder}/{number}.db")


def _condition_at_the_head(self: Loaded[Any]) -> Condition:
    return Condition(self.boundary.selection, 1 << 40)


def _no_events_of_its_own(self: States, loaded: Loaded[Any], events: Any, drafts: Any) -> Kept | None:
    return loaded.kept


async def _no_on_old_states(self: Commands, error: Exception, loaded: Any, keyed: Any) -> Any:
    raise error


def _stands_still(self: Any, decision: Any, own: Any) -> None:
    return None


BUGS: dict[str, tuple[Any, str, Any]] = {
    "those who decide together all see the same": (together_module._States, "follow", _stands_still),
    "the fence is taken after the events": (Loaded, "condition", property(_condition_at_the_head)),
    "own events are not folded": (States, "next", _no_events_of_its_own),
    "a no is said from what is remembered": (Commands, "_raised", _no_on_old_states),
}


def test_the_race_ends_right(tmp_path: Any) -> None:
    asyncio.run(races(str(tmp_path)))


@pytest.mark.parametrize("bug", BUGS)
def test_the_race_finds_a_planted_bug(tmp_path: Any, bug: str) -> None:
    with planted(*BUGS[bug]), pytest.raises((AssertionError, Refusal, EnsueError)):
        asyncio.run(races(str(tmp_path)))


def test_the_simulation_finds_that_a_key_is_not_stored() -> None:
    class NoKey(Keyed):
        def __init__(self, command: Any, key: str) -> None:
            super().__init__(command, f"{key}{id(self)}")

    story: Callable[[], None] = simulate(school, crashes="everywhere", runs=0)(keyed_decisions)
    with planted(commands_module, "Keyed", NoKey), pytest.raises(AssertionError):
        story()
