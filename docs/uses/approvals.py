"""An approval that takes weeks: a receipt is waited for, a person asked, money paid; what was done is undone if that fails.

Declared, not built: importing this raises `NotYetAvailable` at the workflow.
"""

from decimal import Decimal
from typing import Protocol

from ensue import App, Context, Event, Flow, Retry, days


class ExpenseSubmitted(Event, key="expense_id"):
    expense_id: str
    by: str
    amount: Decimal


class ReceiptUploaded(Event, key="expense_id"):
    expense_id: str
    url: str


class ExpensePaid(Event, key="expense_id"):
    expense_id: str
    reference: str


class ExpenseRejected(Event, key="expense_id"):
    expense_id: str
    reason: str


class ReminderDue(Event, key="team"):
    team: str


class Books(Protocol):
    async def reserve(self, expense_id: str, amount: Decimal) -> None: ...
    async def release(self, expense_id: str, amount: Decimal) -> None: ...
    async def pay(self, to: str, amount: Decimal) -> str: ...


office = App("office")


@office.workflow
async def expense(event: ExpenseSubmitted, flow: Flow, books: Books) -> ExpensePaid | ExpenseRejected:
    try:
        await flow.wait_for(ReceiptUploaded, timeout=days(14))
    except TimeoutError:
        return ExpenseRejected(expense_id=event.expense_id, reason="no receipt")

    await flow.step(books.reserve, event.expense_id, event.amount, undo=books.release)
    if event.amount > 500:
        answer = await flow.approval(
            f"{event.by}: {event.amount}", to="finance@example.com", remind=days(2), timeout=days(10)
        )
        if not answer.approved:
            await flow.undo()
            return ExpenseRejected(expense_id=event.expense_id, reason=answer.comment)

    reference = await flow.step(books.pay, event.by, event.amount, retry=Retry(attempts=20))
    return ExpensePaid(expense_id=event.expense_id, reference=reference)


@office.schedule("0 9 * * MON", timezone="Europe/London")
def remind(ctx: Context) -> ReminderDue:
    return ReminderDue(team="finance")
