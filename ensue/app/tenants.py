"""What a tenant may be called, where its log is, and what an application with tenants must not have. See `open_tenants.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ensue.errors import DefinitionError, InvalidTenant

if TYPE_CHECKING:
    from ensue.domain.view import ViewDefinition
    from ensue.domain.views.sql_view import SqlViewDefinition

__all__ = ["PLACE", "check_tenants", "checked_tenant", "url_of_tenant"]

PLACE = "{tenant}"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")


def checked_tenant(name: object) -> str:
    """A name that is the same in every file system, database and URL, and leads nowhere else. Errors: `InvalidTenant`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidTenant(
            f"{name!r} is no name for a tenant: it has small letters, digits, - and _, up to 63, and begins and ends with a letter "
            "or digit"
        )
    return name


def url_of_tenant(url: str, name: str) -> str:
    """The URL of a tenant's log. Errors: `InvalidTenant`."""
    return url.replace(PLACE, checked_tenant(name))


def check_tenants(
    app: str, *, receives: bool, keys: str | None, views: Iterable[ViewDefinition | SqlViewDefinition] = ()
) -> None:
    """Errors: `DefinitionError` for what would not keep the tenants of an application apart: that it receives from channels, a store
    of keys for all of them, and views in a log that they share."""
    if receives:
        raise DefinitionError(
            f"{app} has tenants, and receives from channels: a message says nothing of tenants, and would reach any of them. "
            "Receive in an application without tenants, and send each its own"
        )
    if keys is not None and PLACE not in keys:
        raise DefinitionError(
            f"{app}: keys= has no {PLACE} in it, so that two tenants would share the keys of their people, and forget each "
            f"other's: sqlite:///data/{PLACE}.keys"
        )
    shared = [view.name for view in views if view.when != "live"]
    if shared:
        raise DefinitionError(
            f"{app}: the view {shared[0]} has one table, and two tenants may have rows of the same key: keep it in memory, "
            '@app.view(when="live"), ask states, or give each tenant a database of its own'
        )
