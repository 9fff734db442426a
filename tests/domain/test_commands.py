"""Commands as they are sent: who asks, with what, and where that is recorded; deciding in the commit; what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

import ensue
from ensue import App, Call, Command, Decided, Event, Refusal, Service, Transaction
from ensue.errors import (
    DefinitionError,
    IdempotencyKeyReused,
    InsideHandler,
    InvalidEvent,
    MissingCapability,
    Unavailable,
    WiringError,
)
from ensue.observe.signals import CommandDecided, CommandRefused, Signal
from tests.domain.desk import Account, Deposit, Deposited, Overdrawn, Transfer, Withdraw, Withdrawn, desk

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Clerk(msgspec.Struct):
    """A principal of the application's own."""

    id: str
    limit: Decimal
    password: str = "secret"


async def recorded(app: App) -> list[Any]:
    return [row async for row in app.log.read(Event)]


# --------------------------------------------------------------------------------------------------- what a call tells


def test_a_handler_is_told_who_asks_with_what_key_and_when(url: str) -> None:
    app, calls = App("desk", url=url), list[Call[Any]]()

    @app.command
    def deposit(command: Deposit, call: Call[Deposit]) -> Deposited:
        calls.append(call)
        return Deposited(account_id=command.account_id, amount=command.amount)

    async def run() -> None:
        async with app.connected():
            clerk, before = Clerk("c1", Decimal(100)), datetime.now(UTC)
            command = Deposit(account_id="a1", amount=Decimal(5))
            await app.send(command, principal=clerk, idempotency_key="k1", headers={"desk": "3"}, traceparent=TRACE)
            (call,) = calls
            assert call.message == command
            assert call.principal is clerk
            assert call.principal_id == "c1"
            assert (call.handler, call.idempotency_key, call.attempt) == ("deposit", "k1", 1)
            assert (call.headers, call.traceparent) == ({"desk": "3"}, TRACE)
            assert before <= call.time <= call.now() <= datetime.now(UTC)
            assert call.new_id() != call.new_id()
            assert 0 <= call.random() < 1

    asyncio.run(run())


def test_what_a_command_led_to_records_who_sent_it_under_one_correlation(url: str) -> None:
    async def run() -> None:
        app = desk(url)
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)), principal="c1")
            await app.send(
                Transfer(source="a1", target="a2", amount=Decimal(2)),
                principal=Clerk("c2", Decimal(1)),
                headers={"desk": "3"},
                traceparent=TRACE,
            )
            deposited, withdrawn, arrived = await recorded(app)
            assert deposited.headers == {"principal": "c1"}
            assert withdrawn.headers == arrived.headers == {"desk": "3", "principal": "c2"}
            assert withdrawn.meta.traceparent == TRACE
            assert withdrawn.correlation_id == arrived.correlation_id != deposited.correlation_id
            assert "secret" not in str(withdrawn.meta)

    asyncio.run(run())


def test_of_many_who_send_at_once_each_event_records_its_own_sender(url: str) -> None:
    seen = ContextVar[str]("seen")
    app, contexts = App("desk", url=url), dict[str | None, str]()

    @app.command
    def deposit(command: Deposit, account: Account, call: Call[Deposit]) -> Deposited:
        contexts[call.principal_id] = seen.get()
        return Deposited(account_id=command.account_id, amount=command.amount)

    async def send(number: int) -> None:
        seen.set(f"c{number}")
        command = Deposit(account_id="a1", amount=Decimal(number))
        await app.send(command, principal=f"c{number}", headers={"number": str(number)})

    async def run() -> None:
        async with app.connected():
            await asyncio.gather(*(send(number) for number in range(50)))
            rows = await recorded(app)
            assert len(rows) == 50
            for row in rows:
                assert row.headers == {"principal": f"c{row.event.amount}", "number": str(row.event.amount)}
            assert len({row.correlation_id for row in rows}) == 50
            assert contexts == {f"c{number}": f"c{number}" for number in range(50)}

    asyncio.run(run())


@pytest.mark.parametrize("principal", [17, "", Clerk("", Decimal(0)), object()])
def test_a_principal_that_has_no_id_is_refused(principal: Any, file_url: str) -> None:
    async def run() -> None:
        app = desk(file_url)
        async with app.connected():
            with pytest.raises(InvalidEvent, match="a text that says who asks"):
                await app.send(Deposit(account_id="a1", amount=Decimal(5)), principal=principal)
            assert await recorded(app) == []

    asyncio.run(run())


def test_nobody_says_who_asks_by_a_header(file_url: str) -> None:
    async def run() -> None:
        app = desk(file_url)
        async with app.connected():
            with pytest.raises(InvalidEvent, match="give it as principal="):
                await app.send(Deposit(account_id="a1", amount=Decimal(5)), headers={"principal": "root"})

    asyncio.run(run())


def test_the_time_of_a_call_is_the_same_at_every_attempt_and_attempts_are_counted(shared_url: str) -> None:
    app, other = App("desk", url=shared_url), desk(shared_url)
    seen: list[tuple[int, datetime]] = []

    @app.command
    async def withdraw(command: Withdraw, account: Account, call: Call[Withdraw]) -> Withdrawn:
        seen.append((call.attempt, call.time))
        if call.attempt < 3:
            # As somebody else would, who is not inside this handler.
            sent = other.send(Deposit(account_id="a1", amount=Decimal(1)))
            await asyncio.get_running_loop().create_task(sent, context=Context())
        return Withdrawn(account_id="a1", amount=command.amount)

    async def run() -> None:
        async with app.connected(), other.connected():
            await asyncio.wait_for(app.send(Withdraw(account_id="a1", amount=Decimal(1))), 30)
            assert [attempt for attempt, _ in seen] == [1, 2, 3]
            assert len({time for _, time in seen}) == 1

    asyncio.run(run())


# --------------------------------------------------------------------------------------------------------- validation


def test_a_command_is_checked_when_it_is_made_and_when_it_is_read_from_data() -> None:
    with pytest.raises(ValueError, match="money has two places"):
        Deposit(account_id="a1", amount=Decimal("0.001"))
    for wrong, said in [
        ({"account_id": "a1", "amount": "0.001"}, "money has two places"),
        ({"account_id": "", "amount": "1"}, "length >= 1"),
        ({"account_id": 1, "amount": "1"}, "Expected `str`"),
        ({"account_id": "a1"}, "missing required field `amount`"),
    ]:
        with pytest.raises(msgspec.ValidationError, match=said):
            msgspec.json.decode(msgspec.json.encode(wrong), type=Deposit)


def test_a_command_that_nobody_decides_is_told_with_those_that_are_decided(file_url: str) -> None:
    class Close(Command[None]):
        account_id: str

    async def run() -> None:
        app = desk(file_url)
        async with app.connected():
            with pytest.raises(DefinitionError, match=r"nothing decides Close.*Deposit, Transfer, Withdraw"):
                await app.send(Close(account_id="a1"))

    asyncio.run(run())


def test_what_is_given_to_the_wrong_door_is_told_the_right_one(file_url: str) -> None:
    async def run() -> None:
        async with desk(file_url).connected() as app:
            wrong: Any = app
            command, event = Deposit(account_id="a1", amount=Decimal(1)), Deposited(account_id="a1", amount=Decimal(1))
            with pytest.raises(DefinitionError, match=r"Deposited is no command: .* events for publish\(\)"):
                await wrong.send(event)
            with pytest.raises(DefinitionError, match=r"Deposit is no query: .* Commands are for send\(\)"):
                await wrong.ask(command)
            with pytest.raises(DefinitionError, match=r"Deposited is no state: give a State class"):
                await wrong.state(Deposited, "a1")

    asyncio.run(run())


def test_two_handlers_of_one_command_are_refused_at_the_start(file_url: str) -> None:
    app, other = desk(file_url), Service("other")
    app.include(other)

    @other.command
    def deposit_too(command: Deposit) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount)

    async def run() -> None:
        with pytest.raises(DefinitionError, match="Deposit has two handlers, deposit and deposit_too"):
            async with app.connected():
                pass

    asyncio.run(run())


def test_a_closed_application_decides_nothing(file_url: str) -> None:
    async def run() -> None:
        app = desk(file_url)
        async with app.connected():
            pass
        with pytest.raises(Unavailable, match="is not open"):
            await app.send(Deposit(account_id="a1", amount=Decimal(5)))

    asyncio.run(run())


def test_a_bug_is_raised_as_it_is_and_is_no_answer_of_its_key(url: str) -> None:
    app, broken = App("desk", url=url), [True]

    @app.command
    def deposit(command: Deposit) -> Deposited:
        if broken[0]:
            raise ZeroDivisionError("a bug")
        return Deposited(account_id=command.account_id, amount=command.amount)

    async def run() -> None:
        async with app.connected():
            command = Deposit(account_id="a1", amount=Decimal(5))
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await app.send(command, idempotency_key="k")
            assert await recorded(app) == []
            broken[0] = False
            receipt = await app.send(command, idempotency_key="k")
            assert not receipt.replayed

    asyncio.run(run())


def test_a_result_that_is_no_data_cannot_be_kept_under_a_key_and_nothing_is_stored(url: str) -> None:
    class Ask(Command[object]):
        account_id: str

    app = App("desk", url=url)

    @app.command
    def ask(command: Ask) -> Decided[object]:
        return Decided(Deposited(account_id=command.account_id, amount=Decimal(1)), result=object())

    async def run() -> None:
        async with app.connected():
            with pytest.raises(InvalidEvent, match="cannot be kept for repetitions"):
                await app.send(Ask(account_id="a1"), idempotency_key="k")
            assert await recorded(app) == []
            assert (await app.send(Ask(account_id="a1"))).result is not None

    asyncio.run(run())


def test_a_huge_result_comes_again_as_it_was(url: str) -> None:
    class Print(Command[str]):
        account_id: str

    app, text = App("desk", url=url), "z" * 3_000_000

    @app.command
    def print_(command: Print) -> Decided[str]:
        return Decided((), result=text)

    async def run() -> None:
        async with app.connected():
            first = await app.send(Print(account_id="a1"), idempotency_key="k")
            again = await app.send(Print(account_id="a1"), idempotency_key="k")
            assert first.result == again.result == text
            assert again.replayed

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------ in the commit


class Count(Command[int]):
    """A deposit that answers which of the account's it is."""

    account_id: str
    amount: Decimal = Decimal(1)


def limited(url: str) -> App:
    """Deposits that are counted in a table, three to an account, in the commit."""
    app = App("desk", url=url)

    @app.command
    def count(command: Count, tx: Transaction, account: Account, call: Call[Any]) -> Decided[int]:
        tx.execute("CREATE TABLE IF NOT EXISTS counted (account TEXT PRIMARY KEY, number INTEGER NOT NULL)")
        tx.execute("INSERT INTO counted VALUES (?, 0) ON CONFLICT (account) DO NOTHING", command.account_id)
        tx.execute("UPDATE counted SET number = number + 1 WHERE account = ?", command.account_id)
        (number,) = tx.rows(int, "SELECT number FROM counted WHERE account = ?", command.account_id)
        if number > 3:
            raise Overdrawn(available=account.balance)
        if command.amount == 13:
            raise ZeroDivisionError("a bug")
        return Decided(Deposited(account_id=command.account_id, amount=command.amount), result=number)

    return app


def test_rows_and_events_of_a_decision_in_the_commit_are_stored_together(shared_url: str) -> None:
    async def run() -> None:
        app = limited(shared_url)
        async with app.connected():
            results = await asyncio.gather(
                *(app.send(Count(account_id="a1")) for _ in range(6)), return_exceptions=True
            )
            refused = [one for one in results if isinstance(one, Overdrawn)]
            assert len(refused) == 3
            assert {refusal.available for refusal in refused} == {Decimal(3)}
            assert app.sql("SELECT number FROM counted") == [(3,)]
            assert len(await recorded(app)) == 3

    asyncio.run(run())


def test_what_is_raised_in_the_commit_undoes_it_all_and_a_bug_is_raised_as_it_is(shared_url: str) -> None:
    async def run() -> None:
        app = limited(shared_url)
        async with app.connected():
            await app.send(Count(account_id="a1"))
            with pytest.raises(ZeroDivisionError, match="a bug") as caught:
                await app.send(Count(account_id="a1", amount=Decimal(13)), idempotency_key="k")
            assert caught.value.__cause__ is None
            assert app.sql("SELECT number FROM counted") == [(1,)]
            assert not (await app.send(Count(account_id="a1"), idempotency_key="other")).replayed

    asyncio.run(run())


def test_an_answer_of_the_commit_comes_again_for_its_key_a_refusal_too(shared_url: str) -> None:
    async def run() -> None:
        app = limited(shared_url)
        async with app.connected():
            command = Count(account_id="a1")
            first = await app.send(command, idempotency_key="k1")
            again = await app.send(command, idempotency_key="k1")
            assert (first.replayed, again.replayed) == (False, True)
            assert first.position == again.position
            await app.send(command)
            await app.send(command)
            for _ in range(2):
                with pytest.raises(Overdrawn):
                    await app.send(command, idempotency_key="k2")
            await app.transact(lambda tx: tx.execute("DELETE FROM counted"))
            with pytest.raises(Overdrawn):
                await app.send(command, idempotency_key="k2")
            assert app.sql("SELECT count(*) FROM counted") == [(0,)]
            with pytest.raises(IdempotencyKeyReused):
                await app.send(Count(account_id="a2"), idempotency_key="k1")

    asyncio.run(run())


def test_states_beside_a_transaction_hold_until_it_is_stored(shared_url: str) -> None:
    """What another application stores after the states were read makes it decide again."""
    app, other, seen = App("desk", url=shared_url), desk(shared_url, "other"), list[Decimal]()

    @app.command
    def withdraw(command: Withdraw, account: Account, tx: Transaction) -> Withdrawn:
        seen.append(account.balance)
        account.balance = Decimal(-1)  # it is the handler's own: another run gets another one
        if command.amount > seen[-1]:
            raise Overdrawn(available=seen[-1])
        return Withdrawn(account_id=command.account_id, amount=command.amount)

    async def run() -> None:
        async with app.connected(), other.connected():
            await other.send(Deposit(account_id="a1", amount=Decimal(5)))
            await app.send(Withdraw(account_id="a1", amount=Decimal(2)))  # the state is remembered from here on
            await other.send(Withdraw(account_id="a1", amount=Decimal(3)))
            with pytest.raises(Overdrawn) as refused:
                await app.send(Withdraw(account_id="a1", amount=Decimal(1)))  # as it is remembered, it would be granted
            assert refused.value.available == 0
            await other.send(Deposit(account_id="a1", amount=Decimal(3)))
            await other.send(Deposit(account_id="a1", amount=Decimal(10)))
            await app.send(Withdraw(account_id="a1", amount=Decimal(12)))
            with pytest.raises(Overdrawn) as refused:
                await app.send(Withdraw(account_id="a1", amount=Decimal(12)))
            assert refused.value.available == 1
            assert seen[0] == 5
            assert set(seen) <= {Decimal(5), Decimal(3), Decimal(0), Decimal(13), Decimal(1)}

    asyncio.run(run())


def test_a_decision_in_the_commit_needs_sql_and_is_told_at_the_opening() -> None:
    async def run(app: App) -> None:
        for opened in (app, app.connected()):
            with pytest.raises(MissingCapability, match=r"MemoryStore.*is taken by count"):
                async with opened:
                    pass

    asyncio.run(run(limited("memory:")))


def test_events_of_a_decision_in_the_commit_are_those_it_returns(file_url: str) -> None:
    app = App("desk", url=file_url)

    @app.command
    def count(command: Count, tx: Transaction) -> Decided[int]:
        tx.emit(Deposited(account_id=command.account_id, amount=command.amount))
        return Decided((), result=1)

    async def run() -> None:
        async with app.connected():
            with pytest.raises(TypeError, match="a command handler returns its events"):
                await app.send(Count(account_id="a1"))
            assert await recorded(app) == []

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------- dependencies


class Rate(msgspec.Struct):
    value: Decimal


class Ledger(msgspec.Struct):
    """Something that only a handler of events needs."""


def test_handlers_of_commands_get_what_is_provided_also_where_no_consumer_runs(url: str) -> None:
    app, log = App("desk", url=url), list[str]()

    @app.provide
    def rate() -> Iterator[Rate]:
        log.append("rate made")
        yield Rate(Decimal(2))
        log.append("rate closed")

    @app.provide
    def ledger() -> Ledger:
        log.append("ledger made")
        return Ledger()

    @app.lifecycle
    def hook() -> Iterator[None]:
        log.append("hook")
        yield

    @app.on
    async def note(event: Deposited, ledger: Ledger) -> None: ...

    @app.command
    def deposit(command: Deposit, rate: Rate) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount * rate.value)

    async def run() -> None:
        async with app.connected():
            assert (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).result.amount == 2
        assert log == ["rate made", "rate closed"]
        log.clear()
        async with app:
            assert (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).result.amount == 2
        assert sorted(log) == ["hook", "ledger made", "rate closed", "rate made"]
        log.clear()
        async with app.running(only=["note"]):
            assert (await app.send(Deposit(account_id="a1", amount=Decimal(1)))).result.amount == 2

    asyncio.run(run())


def test_what_nobody_provides_is_told_at_the_opening_also_where_no_consumer_runs(file_url: str) -> None:
    app = App("desk", url=file_url)

    @app.on
    async def note(event: Deposited, ledger: Ledger) -> None: ...

    @app.command
    def deposit(command: Deposit, rate: Rate) -> Deposited:
        return Deposited(account_id=command.account_id, amount=command.amount * rate.value)

    async def run() -> None:
        with pytest.raises(WiringError, match="deposit needs rate: Rate, which nobody provides") as caught:
            async with app.connected():
                pass
        assert "note" not in str(caught.value)
        with pytest.raises(WiringError, match=r"note needs ledger(.|\n)*deposit needs rate"):
            async with app:
                pass

    asyncio.run(run())


def test_commands_and_queries_can_be_sent_from_plain_code(file_url: str) -> None:
    from tests.domain.desk import BalanceOf

    app = desk(file_url)
    with app.blocking() as call:
        call(app.send(Deposit(account_id="a1", amount=Decimal(5))))
        with pytest.raises(Overdrawn):
            call(app.send(Withdraw(account_id="a1", amount=Decimal(9))))
        assert call(app.ask(BalanceOf(account_id="a1"))) == 5


# ------------------------------------------------------------------------------------------------------ what it is not


def test_a_command_handler_is_refused_a_context_and_what_it_may_not_do_inside(file_url: str) -> None:
    app = App("desk", url=file_url)

    with pytest.raises(DefinitionError, match="take a Call"):

        @app.command
        def wrong(command: Deposit, context: ensue.Context) -> None: ...

    @app.command
    async def deposit(command: Deposit) -> Deposited:
        event = Deposited(account_id=command.account_id, amount=command.amount)
        with pytest.raises(InsideHandler, match="deposit tried to append events while it decides a command"):
            await app.publish(event)
        with pytest.raises(InsideHandler, match="deposit tried to send a Deposit while it decides a command"):
            await app.send(command, idempotency_key="k")
        return event

    async def run() -> None:
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)))
            assert len(await recorded(app)) == 1

    asyncio.run(run())


def test_observers_are_told_of_each_decision_how_long_and_at_which_attempt(file_url: str) -> None:
    signals: list[Signal] = []
    app = desk(file_url)
    app._observers.append(signals.append)

    async def run() -> None:
        async with app.connected():
            await app.send(Deposit(account_id="a1", amount=Decimal(5)), idempotency_key="k")
            await app.send(Deposit(account_id="a1", amount=Decimal(5)), idempotency_key="k")
            with pytest.raises(Overdrawn):
                await app.send(Withdraw(account_id="a1", amount=Decimal(9)))

    asyncio.run(run())
    first, again, refused = signals
    assert isinstance(first, CommandDecided)
    assert isinstance(again, CommandDecided)
    assert isinstance(refused, CommandRefused)
    assert (first.consumer, first.command, first.replayed, first.attempts) == ("deposit", "Deposit", False, 1)
    assert again.replayed
    assert (refused.consumer, refused.refusal, refused.attempts) == ("withdraw", "Overdrawn", 1)
    assert 0 < first.seconds < 60
    assert 0 < refused.seconds < 60


def test_a_refusal_knows_its_fields_across_a_restart(shared_url: str) -> None:
    async def run() -> Refusal:
        app = desk(shared_url)
        async with app.connected():
            with pytest.raises(Overdrawn) as caught:
                await app.send(Withdraw(account_id="a1", amount=Decimal(9)), idempotency_key="k")
            await app.publish(Deposited(account_id="a1", amount=Decimal(100)))
            return caught.value

    first, second = asyncio.run(run()), asyncio.run(run())
    assert isinstance(first, Overdrawn)
    assert isinstance(second, Overdrawn)
    assert first.available == second.available == 0
