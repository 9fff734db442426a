"""What the bank decides, everywhere it can run, and what holds of it whatever is sent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import strategies as st

from ensue import Event
from ensue.examples.bank import bank
from ensue.examples.bank.accounts import Account, movement
from ensue.examples.bank.messages import (
    CASH,
    INTEREST,
    AccountClosed,
    AccountOpened,
    BalanceOf,
    CloseAccount,
    Deposited,
    InterestPaid,
    InterestPaidAlready,
    LargeMovementReported,
    NotEmpty,
    NotOpen,
    OpenAccount,
    OpenedAlready,
    Overdrawn,
    PayIn,
    PayInterest,
    PayOut,
    Transfer,
    Withdrawn,
)
from ensue.examples.bank.statements import OverdrawnAccounts, Statement
from ensue.testing import AppSimulation, given, simulate
from ensue.testing.places import VARIABLE
from ensue.testing.properties import check_decisions


def money(amount: float | str) -> Decimal:
    return Decimal(str(amount))


def opened(account: str = "a", limit: int = 0) -> AccountOpened:
    return AccountOpened(account_id=account, owner="Ann", limit=Decimal(limit))


def paid_in(account: str, amount: int) -> list[Withdrawn | Deposited]:
    return movement(f"in-{account}-{amount}", CASH, account, Decimal(amount))


RICH: list[Event] = [opened("a", limit=10), opened("b"), *paid_in("a", 90)]


def test_an_account_is_opened_once() -> None:
    command = OpenAccount(account_id="a", owner="Ann", limit=Decimal(10))
    given(bank()).when(command).then(opened(limit=10))
    given(bank(), opened()).when(command).then_refused(OpenedAlready, account_id="a")
    given(bank(), opened(), AccountClosed(account_id="a")).when(command).then_refused(OpenedAlready)


@pytest.mark.slow
def test_a_transfer_is_made_once_wherever_the_process_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "crashes")
    transfer = Transfer(movement_id="m1", source="a", target="b", amount=money(100))
    given(bank(), *RICH).when(transfer).then(*movement("m1", "a", "b", money(100)))


def test_a_transfer_has_two_legs_and_respects_the_limit() -> None:
    def transfer(amount: str) -> Transfer:
        return Transfer(movement_id="m1", source="a", target="b", amount=money(amount))

    given(bank(), *RICH).when(transfer("100.00")).then(*movement("m1", "a", "b", money("100.00")))
    given(bank(), *RICH).when(transfer("100.01")).then_refused(Overdrawn, available=Decimal(100))
    given(bank(), opened("a", 200)).when(transfer("1")).then_refused(NotOpen, account_id="b")
    given(bank(), opened("b")).when(transfer("1")).then_refused(NotOpen, account_id="a")


def test_money_comes_in_and_goes_out_by_way_of_the_cash() -> None:
    given(bank(), opened()).when(PayIn(account_id="a", movement_id="m", amount=money(5))).then(
        *movement("m", CASH, "a", money(5))
    )
    given(bank(), *RICH).when(PayOut(account_id="a", movement_id="m", amount=money(100))).then(
        *movement("m", "a", CASH, money(100))
    )
    given(bank(), *RICH).when(PayOut(account_id="a", movement_id="m", amount=money(101))).then_refused(Overdrawn)


def test_interest_is_paid_once_for_each_day() -> None:
    until = date(2026, 3, 1)
    first = PayInterest(account_id="a", movement_id="i1", until=until, rate=Decimal("0.365"))
    given(bank(), *RICH).when(first).then(
        *movement("i1", INTEREST, "a", money("0.09")), InterestPaid(account_id="a", until=until)
    )
    earlier = InterestPaid(account_id="a", until=date(2026, 2, 27))
    given(bank(), *RICH, earlier).when(first).then(
        *movement("i1", INTEREST, "a", money("0.18")), InterestPaid(account_id="a", until=until)
    )
    given(bank(), *RICH, InterestPaid(account_id="a", until=until)).when(first).then_refused(
        InterestPaidAlready, until=until
    )


def test_only_an_empty_account_is_closed_and_then_nothing_moves() -> None:
    given(bank(), *RICH).when(CloseAccount(account_id="a")).then_refused(NotEmpty, balance=Decimal(90))
    given(bank(), *RICH).when(CloseAccount(account_id="b")).then(AccountClosed(account_id="b"))
    closed = AccountClosed(account_id="b")
    given(bank(), *RICH, closed).when(PayIn(account_id="b", movement_id="m", amount=money(1))).then_refused(NotOpen)
    given(bank(), *RICH, closed).when(CloseAccount(account_id="b")).then_refused(NotOpen, account_id="b")


def test_a_large_movement_is_reported() -> None:
    out = PayOut(account_id="a", movement_id="m", amount=money(400))
    given(bank(), opened(limit=400)).when(out).then(
        *movement("m", "a", CASH, money(400)),
        LargeMovementReported(account_id="a", movement_id="m", amount=money(400)),
    )


def test_the_balance_is_asked_for() -> None:
    assert given(bank(), *RICH).when_asked(BalanceOf(account_id="a")) == 90
    with pytest.raises(NotOpen):
        given(bank()).when_asked(BalanceOf(account_id="a"))


def test_a_statement_has_what_was_paid_in_and_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "simulated sqlite")
    before = Statement(account_id="a", owner="Ann", limit=money(10), balance=money(90), movements=1, paid_in=money(90))
    out = PayOut(account_id="a", movement_id="m", amount=money(95))
    after = Statement(
        account_id="a",
        owner="Ann",
        limit=money(10),
        balance=money(-5),
        movements=2,
        paid_in=money(90),
        paid_out=money(95),
    )
    given(bank(), *RICH).then_row(before).when(out).then_row(after)
    given(bank(), *RICH, *movement("m", "a", CASH, money(95))).then_row(after)
    assert given(bank(), *RICH, *movement("m", "a", CASH, money(95))).when_asked(OverdrawnAccounts()) == [after]
    given(bank(), *RICH, AccountClosed(account_id="b")).then_row(Statement(account_id="b", owner="Ann", is_closed=True))


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "NaN", "Infinity"])
def test_what_is_no_amount_of_money_is_no_command(amount: str) -> None:
    with pytest.raises(ValueError, match="no amount of money"):
        PayIn(account_id="a", movement_id="m", amount=Decimal(amount))
    with pytest.raises(ValueError, match="to itself"):
        Transfer(movement_id="m", source="a", target="a", amount=Decimal(1))


def never_under_its_limit(account: Account) -> None:
    assert account.available >= 0


def closed_only_when_empty(account: Account) -> None:
    assert account.is_open or not account.balance


def test_whatever_is_sent_no_account_is_under_its_limit() -> None:
    amounts = {Decimal: st.decimals(0, 500, places=2)}
    check_decisions(bank(), never_under_its_limit, closed_only_when_empty, values=amounts)


@simulate(bank(), crashes="none", runs=15)
async def test_the_balance_on_the_first_of_march_stays_what_it_was(sim: AppSimulation) -> None:
    """Events of four months, asked about afterwards, whatever crashes there were."""
    await sim.app.send(OpenAccount(account_id="a", owner="Ann"))
    for month in range(1, 5):
        await sim.app.send(PayIn(account_id="a", movement_id=f"m{month}", amount=Decimal(month)))
        sim.world.jump_clock(timedelta(days=30))

    async def on(day: datetime) -> Decimal:
        return (await sim.inside(lambda app: app.state(Account, "a", at=day))).balance

    assert await on(datetime(2025, 12, 1, tzinfo=UTC)) == 0
    assert await on(datetime(2026, 3, 1, tzinfo=UTC)) == 1 + 2
    assert await on(datetime(2026, 12, 1, tzinfo=UTC)) == 1 + 2 + 3 + 4
