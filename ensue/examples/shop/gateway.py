"""A bank for the demo: it fails now and then, and never does anything twice."""

from __future__ import annotations

from decimal import Decimal
from hashlib import blake2b

from ensue.examples.shop.payment import Gateway

__all__ = ["Chance", "SimulatedGateway"]


class Chance:
    """Numbers in [0, 1) that depend on a seed and a text only: the same in every run and on every machine."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def of(self, text: str) -> float:
        digest = blake2b(f"{self._seed}/{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


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
