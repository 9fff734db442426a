"""Personal data used as if it could not be forgotten."""

from ensue import App, Event, Personal


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]


crm = App("crm", tenants="row")  # wrong: by tag, or by a place in the URL


@crm.on
async def welcome(joined: CustomerJoined) -> None:
    joined.email.upper()  # wrong: it may be forgotten
    to: str = joined.email  # wrong: it may be forgotten
    assert to


CustomerJoined(customer_id="c1", email=7)  # wrong: it is a text, or FORGOTTEN
