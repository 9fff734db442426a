"""Event classes made by a call instead of a `class` statement."""

from __future__ import annotations

import types
from typing import Any, cast

from ensue import Event

__all__ = ["define"]


def define(name: str, /, fields: dict[str, Any] | None = None, **keywords: Any) -> type[Event]:
    """A class as a `class` statement would make it."""
    made = types.new_class(name, (Event,), keywords, lambda body: body.update(__annotations__=fields or {}))
    return cast("type[Event]", made)
