"""What is registered on an application and its services beside handlers of events."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ensue.domain.command import CommandDefinition
from ensue.domain.query import QueryDefinition
from ensue.domain.view import ViewDefinition
from ensue.domain.views.sql_view import SqlViewDefinition

__all__ = ["Registered"]


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. Each definition has the middleware that its calls pass."""

    commands: Sequence[CommandDefinition] = ()
    queries: Sequence[QueryDefinition] = ()
    views: Sequence[ViewDefinition | SqlViewDefinition] = ()
