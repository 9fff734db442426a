"""Wrong patterns, windows, states and workflows."""

from decimal import Decimal

from approvals import Books, ExpensePaid, ExpenseRejected, ExpenseSubmitted
from fraud import FraudSuspected, Payment, fraud

from ensue import Channel, Flow, minutes
from ensue.patterns import Pattern, Window, one, several, total


class Bad(Pattern, within=minutes(1)):
    a = one(Payment, lambda p: p.amont < 2)  # wrong: no such field
    b = one(Payment, lambda p: p.amount < "2")  # wrong: a text is no amount
    c = one(Payment, lambda p: p.country)  # wrong: a condition is true or false
    d = several(Payment, times="3")  # wrong: a number
    e = several(Payment)

    @e.where  # wrong: the step is about payments
    def other(self, payment: FraudSuspected) -> bool:
        return True

    @e.where
    def sequence(self, payment: Payment) -> bool:
        return payment.amount > self.e.amount  # wrong: several payments


class BadKeyword(Pattern, whithin=minutes(1)):  # wrong: no such option
    a = one(Payment)


class BadSkip(Pattern, skip="first"):  # wrong: no such way
    a = one(Payment)


class BadWindow(Window, size=60):  # wrong: durations are timedelta
    a = total(Payment, lambda p: p.country)  # wrong: a text has no sum


@fraud.on
def handler(match: Bad) -> FraudSuspected:
    return FraudSuspected(card=match.key, reason=match.e, amount=Decimal(0))  # wrong: a text


Channel("payments", Decimal)  # wrong: messages


async def flow(event: ExpenseSubmitted, flow: Flow, books: Books) -> None:
    await flow.step(books.reserve, event.expense_id)  # wrong: an argument is missing
    await flow.step(books.reserve, event.expense_id, "9")  # wrong: a text is no amount
    await flow.step(print, event.expense_id)  # wrong: a step is async
    await flow.step(books.reserve, event.expense_id, event.amount, tries=3)  # wrong: no such option
    await flow.step(books.reserve, event.expense_id, event.amount, undo=flow.undo)  # wrong: undo takes the arguments
    got = await flow.wait_for(ExpensePaid, ExpenseRejected)
    got.reference  # wrong: only one of the two has it
    (await flow.approval("x", to="y")).aproved  # wrong: no such field
    await flow.sleep(3600)  # wrong: durations are timedelta
