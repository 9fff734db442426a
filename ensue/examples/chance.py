"""Chance that follows from a seed, so that what the demos do can be repeated."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["Chance"]


class Chance:
    """Numbers in [0, 1) that depend on a seed and a text only: the same in every run and on every machine."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def of(self, text: str) -> float:
        digest = blake2b(f"{self._seed}/{text}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
