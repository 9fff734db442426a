"""Wrong handlers. What the checkers cannot see (a first parameter that is no event) is refused when it is registered."""

from shop import Gateway, OrderPlaced, OrderShipped, shop

from ensue import App, Context, Retry, Service, Transaction, seconds

Service("books", retry=5)  # wrong: a policy, or one for each exception
Retry(attempt=5)  # wrong: no such field
Retry(first=5)  # wrong: durations are timedelta
App("shop", outbox=["orders"])  # wrong: a channel is declared
shop.include("payments")  # wrong: a service, not its name


@shop.on  # wrong: it returns a text
def text(order: OrderPlaced) -> str:
    return order.order_id


@shop.on  # wrong: it returns numbers
async def numbers(order: OrderPlaced) -> list[int]:
    return [order.quantity]


@shop.on  # wrong: it takes no event
def nothing() -> None: ...


@shop.on(timeout=5)  # wrong: durations are timedelta
def slow(order: OrderPlaced) -> None: ...


@shop.on(retries=3)  # wrong: no such option
def misspelt(order: OrderPlaced) -> None: ...


@shop.on(retry={"ConnectionError": Retry.never})  # wrong: exceptions, not their names
def policy(order: OrderPlaced) -> None: ...


@shop.on(retry=3)  # wrong: a policy
def number(order: OrderPlaced) -> None: ...


@shop.on(start="yesterday")  # wrong: "beginning", "now", a position or a time
def start(order: OrderPlaced) -> None: ...


@shop.on(source="orders")  # wrong: a channel
def source(order: OrderPlaced) -> None: ...


@shop.on
def wrong_field(order: OrderPlaced) -> OrderShipped:
    return OrderShipped(order_id=order.id)  # wrong: no such field


@shop.workflow  # wrong: a workflow is async
def not_async(order: OrderPlaced) -> None: ...


@shop.command  # wrong: a decision returns events
def decides(order: OrderPlaced) -> int:
    return order.quantity


@shop.lifecycle  # wrong: a hook yields once, and nothing
def hook() -> int:
    return 1


@shop.on(timeout=seconds(5))
def statement(order: OrderPlaced, tx: Transaction, ctx: Context, gateway: Gateway) -> None:
    tx.execute(f"DELETE FROM t WHERE id = '{order.order_id}'")  # wrong (pyright): mypy takes any str for a LiteralString
    tx.execute("DELETE FROM t WHERE id = ?", id=order.order_id)  # wrong: values are given in order
    tx.rows(OrderPlaced, "SELECT * FROM t").order_id  # wrong: a list
    gateway.charge(order.total)  # wrong: an argument is missing
