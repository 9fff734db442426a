"""Patterns and windows in an application: which annotations of handlers name one, and which consumers that makes."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_origin

from ensue.consumers.handler import Declared, HandlerDefinition, Noticed

if TYPE_CHECKING:
    from ensue.app.engine import Engine
    from ensue.patterns.detection.sought import Sought
    from ensue.patterns.explained.inspecting import GoingOn, PatternFacts
    from ensue.patterns.language import Pattern
    from ensue.store.base import Consumer

__all__ = ["PatternsView", "detectors_of", "noticing"]

PATTERNS = "pattern."


def noticing(hint: Any) -> Noticed | None:
    """What an annotation stands for, if it is a pattern, a window, or what else is said of one. Errors: `DefinitionError`."""
    kind = get_origin(hint) or hint
    if not (isinstance(kind, type) and issubclass(kind, Declared)):
        return None
    from ensue.patterns.detection.recording import noticed_by  # only who has patterns needs what runs them

    return noticed_by(hint)


def detectors_of(handlers: Sequence[HandlerDefinition], *, tenants: bool) -> list[HandlerDefinition]:
    """The consumers `pattern.NAME` of what these handle. Errors: `DefinitionError`."""
    if not any(handler.noticed for handler in handlers):
        return []
    from ensue.patterns.detection.sought import detectors

    return detectors(list(handlers), tenants=tenants)


class PatternsView:
    """`app.patterns`: what patterns and windows of the application have come to, and what is going on in them."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    async def list(self) -> builtins.list[PatternFacts]:
        """Those that the application's handlers react to and the log knows, in the order of their handlers."""
        from ensue.patterns.explained.inspecting import facts_of

        engine = self._engine()
        known = await self._consumers(engine)
        return [await facts_of(engine.store, known[name]) for name in engine.sought if name in known]

    async def going_on(
        self, pattern: type[Pattern] | str, key: str | None = None, /, *, limit: int = 100
    ) -> builtins.list[GoingOn]:
        """Beginnings of a pattern that wait, by the log up to where it is looked at: of one key, or of at most `limit` keys.
        Where tenants share the log, the application of a tenant tells them of one key alone, which is `TENANT/KEY`.

        Errors: `ValueError` for what is no pattern of the application; those of the store.
        """
        from ensue.patterns.explained.inspecting import going_on, keys_of

        engine = self._engine()
        sought = self._sought(engine, pattern)
        consumer = (await self._consumers(engine)).get(f"{PATTERNS}{sought.definition.name}")
        if consumer is None:
            return []
        keys = [key] if key is not None else await keys_of(engine.store, consumer, limit=limit)
        return [one for own in keys for one in await going_on(engine.store, engine.registry, sought, consumer, own)]

    @staticmethod
    async def _consumers(engine: Engine) -> dict[str, Consumer]:
        return {one.name: one for one in await engine.store.consumers() if one.status != "retired"}

    @staticmethod
    def _sought(engine: Engine, pattern: type[Pattern] | str) -> Sought:
        patterns: dict[str, Sought] = {
            name.removeprefix(PATTERNS): one
            for name, one in engine.sought.items()
            if hasattr(one.definition, "pattern")
        }
        for name, one in patterns.items():
            if pattern in (name, one.source):
                return one
        raise ValueError(
            f"{pattern!r} is no pattern that a handler reacts to; there are: {', '.join(patterns) or 'none'}"
        )
