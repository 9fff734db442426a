"""Patterns and windows in an application: which annotations of handlers name one, and which consumers that makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_origin

from ensue.consumers.handler import Declared, HandlerDefinition, Noticed

__all__ = ["detectors_of", "noticing"]


def noticing(hint: Any) -> Noticed | None:
    """What an annotation stands for, if it is a pattern, a window, or what else is said of one. Errors: `DefinitionError`."""
    kind = get_origin(hint) or hint
    if not (isinstance(kind, type) and issubclass(kind, Declared)):
        return None
    from ensue.patterns.recording import noticed_by  # only who has patterns needs what runs them

    return noticed_by(hint)


def detectors_of(handlers: Sequence[HandlerDefinition], *, tenants: bool) -> list[HandlerDefinition]:
    """The consumers `pattern.NAME` of what these handle. Errors: `DefinitionError`."""
    if not any(handler.noticed for handler in handlers):
        return []
    from ensue.patterns.sought import detectors

    return detectors(list(handlers), tenants=tenants)
