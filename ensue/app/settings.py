"""What an application is set to, from code and from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from ensue.app.urls import shown
from ensue.errors import DefinitionError

__all__ = ["Settings"]

N = TypeVar("N", int, float)

DRAIN_SECONDS = 30.0
LONGEST_DRAIN_SECONDS = 1e9
PAYLOAD_BYTES = 1024 * 1024


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an application is set to: what its code says, else the environment, else these defaults.

    In the environment each has its name in capitals behind `ENSUE_`; an empty value counts as none.
    """

    url: str
    """Where the log is; `sqlite:///NAME.db` in the current folder, with the application's name."""
    keys: str | None = None
    """Where the keys of personal data are; without it beside the log, see docs/personal_data.md."""
    drain_seconds: float = DRAIN_SECONDS
    """How long handlers may finish when the application stops."""
    payload_bytes: int = PAYLOAD_BYTES
    """The largest payload of an event."""

    def __repr__(self) -> str:
        keys = f", keys={shown(self.keys)!r}" if self.keys is not None else ""
        return (
            f"Settings(url={shown(self.url)!r}{keys}, drain_seconds={self.drain_seconds}, "
            f"payload_bytes={self.payload_bytes})"
        )

    @classmethod
    def load(
        cls,
        name: str,
        environment: Mapping[str, str],
        *,
        url: str | None = None,
        keys: str | None = None,
        drain_seconds: float | None = None,
        payload_bytes: int | None = None,
    ) -> Settings:
        """The settings of the application called `name`; what is None is looked up. Errors: `DefinitionError`, naming the
        variable or argument, for a number that is none or out of its range."""
        if drain_seconds is None:
            drain_seconds = _number(environment, "ENSUE_DRAIN_SECONDS", float, DRAIN_SECONDS)
        if payload_bytes is None:
            payload_bytes = _number(environment, "ENSUE_PAYLOAD_BYTES", int, PAYLOAD_BYTES)
        if not 0 <= drain_seconds <= LONGEST_DRAIN_SECONDS:
            raise DefinitionError(
                f"{name}: drain_seconds (ENSUE_DRAIN_SECONDS) is {drain_seconds!r}; it is a number of seconds, 0 or more"
            )
        if type(payload_bytes) is not int or payload_bytes < 1:
            raise DefinitionError(
                f"{name}: payload_bytes (ENSUE_PAYLOAD_BYTES) is {payload_bytes!r}; it is a whole number, 1 or more"
            )
        return cls(
            url=url or environment.get("ENSUE_URL") or f"sqlite:///{name}.db",
            keys=keys or environment.get("ENSUE_KEYS") or None,
            drain_seconds=drain_seconds,
            payload_bytes=payload_bytes,
        )


def _number(environment: Mapping[str, str], variable: str, kind: type[N], default: N) -> N:
    text = environment.get(variable, "").strip()
    try:
        return kind(text) if text else default
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise DefinitionError(f"{variable}={text!r} in the environment is not {wanted}") from None
