"""`ensue new`: a small project that works as it is: two handlers, a test, and how to go on."""

from __future__ import annotations

import keyword
from pathlib import Path

import click

from ensue.cli.failures import WrongUsage
from ensue.cli.output import say

__all__ = ["new"]

_APP = '''"""The application: events, and the handlers that react to them."""

from decimal import Decimal

from ensue import App, Event


class OrderPlaced(Event, key="order_id"):
    order_id: str
    total: Decimal


class PaymentProcessed(Event, key="order_id"):
    order_id: str
    amount: Decimal


class OrderShipped(Event, key="order_id"):
    order_id: str


app = App("{name}")  # {name}.db beside you; ENSUE_URL moves it elsewhere


@app.on
async def take_payment(order: OrderPlaced) -> PaymentProcessed:
    return PaymentProcessed(order_id=order.order_id, amount=order.total)


@app.on
async def ship(payment: PaymentProcessed) -> OrderShipped:
    return OrderShipped(order_id=payment.order_id)
'''

_PLACE_ORDER = '''"""Place an order: python place_order.py o1 9.50"""

import asyncio
import sys
from decimal import Decimal

from app import OrderPlaced, app


async def main(order_id: str = "o1", total: str = "9.50") -> None:
    async with app.connected():
        receipt = await app.publish(OrderPlaced(order_id=order_id, total=Decimal(total)))
        print(f"order {order_id} is stored at position {receipt.position.last}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
'''

_TEST = '''"""What the application promises. Each test runs it in memory and in virtual time: nothing to start, nothing to wait for."""

from decimal import Decimal

from ensue.testing import given

from app import OrderPlaced, OrderShipped, PaymentProcessed, app


def test_an_order_is_paid_and_shipped() -> None:
    order = OrderPlaced(order_id="o1", total=Decimal("9.50"))
    paid = PaymentProcessed(order_id="o1", amount=Decimal("9.50"))
    given(app).when(order).then(paid, OrderShipped(order_id="o1"))


def test_orders_do_not_disturb_each_other() -> None:
    first = OrderPlaced(order_id="o1", total=Decimal("1.00"))
    second = OrderPlaced(order_id="o2", total=Decimal("2.00"))
    paid = PaymentProcessed(order_id="o2", amount=Decimal("2.00"))
    given(app, first).when(second).then(paid, OrderShipped(order_id="o2"))
'''

_PYPROJECT = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["ensue"]

[project.optional-dependencies]
dev = ["pytest>=8"]

[tool.ensue]
app = "app:app"

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

_README = """# {name}

    pip install ensue pytest

    ensue run app:app                   # run the handlers, in one terminal, until Ctrl-C
    python place_order.py o1 9.50       # place an order, in another
    ensue log                           # what happened
    ensue trace 1                       # what it caused, who handled it, how long that took
    ensue consumers                     # how far everybody is
    ensue dead-letters                  # what failed: show, edit, retry, discard
    ensue verify                        # prove that the log is whole

    python -m pytest                    # the tests: in memory, in virtual time

`app.py` is the application. Everything it knows is in `{name}.db`; without it, it begins anew. With `ENSUE_URL` set to a URL such
as `postgresql://localhost/{name}` it runs on a server, and `ensue run app:app --workers 4` in four processes.
"""

_IGNORED = """*.db
*.db-lock
*.db-shm
*.db-wal
__pycache__/
.pytest_cache/
"""

_FILES = {
    "app.py": _APP,
    "place_order.py": _PLACE_ORDER,
    "tests/test_app.py": _TEST,
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    ".gitignore": _IGNORED,
}


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Make a small working project in a new folder: an application with two handlers, its test, a README.

    \b
    Example:
      $ ensue new bakery && cd bakery
      $ ensue run app:app
      $ python -m pytest
    """
    folder = Path(name)
    plain = folder.name.replace("-", "_")
    if not (plain.isidentifier() and plain.isascii() and plain[0].isalpha()) or keyword.iskeyword(plain):
        raise WrongUsage(f"{folder.name!r} is not a name for a project; use letters, digits, _ and -, such as bakery")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WrongUsage(f"{folder} exists and is not empty; nothing was written. Choose another name")
    try:
        for file, text in _FILES.items():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("{name}", folder.name), encoding="utf-8")
    except OSError as error:
        raise WrongUsage(f"{folder} could not be written: {error.strerror}") from None
    say(f"{folder} is made. Next:")
    say(f"  cd {folder}")
    say("  ensue run app:app")
    say("  python place_order.py o1 9.50   # in another terminal; then: ensue trace 1")
    say("  python -m pytest")
