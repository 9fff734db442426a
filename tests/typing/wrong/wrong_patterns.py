"""Wrong patterns, windows, states and workflows."""

from decimal import Decimal

from approvals import Books, ExpensePaid, ExpenseRejected, ExpenseSubmitted
from fraud import CardUsed, FraudSuspected, Payment, fraud

from ensue import Channel, Flow, minutes
from ensue.patterns import (
    Late,
    Pattern,
    TimedOut,
    Window,
    absent,
    all_of,
    either,
    group,
    one,
    optional,
    several,
    to_first,
    total,
)


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


class BadParts(Pattern, within=60):  # wrong: durations are timedelta
    a = one(Payment)
    b = optional(Payment)
    c = several(Payment, times=(1, "2"))  # wrong: a number
    d = several(Payment, inner="loose")  # wrong: no such contiguity
    e = several(Payment, until=lambda p: p.amont > 1)  # wrong: no such field
    f = absent(Payment, contiguity="any")  # wrong: an absence is strict or relaxed
    g = either(one(Payment), one(CardUsed))
    h = all_of(one(Payment), one(CardUsed))
    i = one(Payment, within=5)  # wrong: durations are timedelta
    j = group(Payment)  # wrong: a group is of a pattern
    k = group(Bad)
    l = group(Bad, greedy=True)  # wrong: no such option
    m = one("Payment")  # wrong: a type of event

    @c.where
    def perhaps(self, payment: Payment) -> bool:
        return payment.amount > self.b.amount  # wrong: there may be none

    @c.where
    def one_of_two(self, payment: Payment) -> bool:
        return payment.amount > self.g.amount  # wrong: only one of the two has it

    @c.where
    def both(self, payment: Payment) -> bool:
        return payment.amount > self.h.amount  # wrong: two things

    @c.where
    def summed(self, payment: Payment) -> bool:
        return total(self.c, lambda p: p.country) > 1  # wrong: a text has no sum

    @c.where  # wrong: a condition is true or false
    def answers(self, payment: Payment) -> Decimal:
        return payment.amount


def taken(match: BadParts, out: TimedOut[BadParts], late: Late[Payment]) -> None:
    _, used = match.h
    used.amount  # wrong: no such field
    match.f.amount  # wrong: nothing is taken
    out.match.a.amont  # wrong: no such field
    late.event.amont  # wrong: no such field
    match.k[0].a.amont  # wrong: no such field


class BadSkips(Pattern, skip=to_first(1)):  # wrong: the name of a step
    a = one(Payment)


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
