"""Personal data and tenants."""

from typing import Annotated, Self, assert_type

from ensue import FORGOTTEN, App, Context, Event, Forgotten, Personal, Receipt, State, Subject, SubjectForgotten, View


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]
    phone: Personal[str | None] = None


class Paid(Event, key={"id": "payment"}, tags=("payer_id", "payee_id"), subject={"payer_id": "payer_id"}):
    id: str
    payer_id: str
    payee_id: str
    payer: Personal[str]
    payee: Annotated[Personal[str], Subject("payee_id")]


class Customer(State, key="customer_id"):
    email: str | Forgotten = ""

    def evolve(self, event: CustomerJoined) -> Self:
        self.email = event.email
        return self


class Profile(View, key="customer_id"):
    customer_id: str
    email: Personal[str] = ""

    def evolve(self, event: CustomerJoined) -> Self:
        self.email = event.email
        return self


crm = App("crm", url="sqlite:///{tenant}.db", keys="sqlite:///{tenant}.keys")
shared = App("shared", tenants="tag")


@crm.on
async def welcome(joined: CustomerJoined, ctx: Context) -> None:
    assert_type(joined.email, str | Forgotten)
    assert_type(ctx.tenant, str | None)
    if isinstance(joined.email, Forgotten):
        return
    joined.email.upper()


@crm.on
async def erase(told: SubjectForgotten) -> None:
    assert_type(told.subject, str)


async def use() -> None:
    async with crm, crm.tenant("acme", create=True) as acme:
        await acme.publish(CustomerJoined(customer_id="c1", email="a@example.com"))
        await acme.publish(CustomerJoined(customer_id="c1", email=FORGOTTEN, phone=None))
        assert_type(await acme.forget("customer_id", "c1"), Receipt[bool])
    async with crm.of_tenant("acme"):
        pass
