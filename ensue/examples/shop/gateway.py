"""A bank for the demo: it fails now and then, and never does anything twice."""

from __future__ import annotations

from decimal import Decimal

from ensue.examples.chance import Chance
from ensue.examples.shop.payment import Gateway

__all__ = ["SimulatedGateway"]


class SimulatedGateway(Gateway):
    """Loses the request before the bank has seen it, or the answer after it has acted, for `failures` of the calls.

    Which calls fail depends on the seed and on how many calls there were before. A receipt follows from the idempotency key.
    """

    def __init__(self, seed: int, *, failures: float = 0.02) -> None:
        self._chance = Chance(seed)
        self._failures = failures
        self._calls = 0

    async def charge(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        return self._call("charge", order_id, idempotency_key)

    async def refund(self, order_id: str, amount: Decimal, *, idempotency_key: str) -> str:
        return self._call("refund", order_id, idempotency_key)

    def _call(self, what: str, order_id: str, idempotency_key: str) -> str:
        self._calls += 1
        if self._chance.of(f"call/{self._calls}") < self._failures:
            raise ConnectionError(f"no answer from the bank to the {what} for order {order_id}")
        return f"{what}-{idempotency_key[:12]}"
