"""What an application says about itself when somebody asks whether it is well: the values. `checkup.py` finds them."""

from __future__ import annotations

import msgspec

__all__ = ["Health", "HealthPart"]


class HealthPart(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at: whether it is as it should be, and what was found, in a few words.

    Where a `vital` part fails, the process will do nothing more until it is started anew.
    """

    name: str
    ok: bool
    said: str
    vital: bool = False


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """All that was looked at, in the order in which one would."""

    parts: tuple[HealthPart, ...]

    @property
    def alive(self) -> bool:
        """The process works: its loop turns, its writer is not broken, its lease is held. If not, start it anew."""
        return all(part.ok for part in self.parts if part.vital)

    @property
    def ready(self) -> bool:
        """It is alive, has started, reaches its store, and each consumer it runs is run, here or by another process. If not,
        it may be so again by itself."""
        return all(part.ok for part in self.parts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is not as it should be, a sentence each."""
        return tuple(f"{part.name}: {part.said}" for part in self.parts if not part.ok)
