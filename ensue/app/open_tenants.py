"""The tenants of an application: by database, one log for each, opened when it is needed; or by tag (`tagged.py`), in one log.

    crm = App("crm", url="sqlite:///data/{tenant}.db")

    async with crm:
        async with crm.tenant("acme") as acme:
            await acme.publish(...)

By database the application itself has no log, and whatever asks it for one is told so. A tenant's is an application like any other, with the
same handlers, on a log of its own, with keys of its own; nothing of one is reachable from another. It stays open when its block
ends, for the next, until more than `MOST_OPEN` are: then the one that was used the longest time ago is drained and closed. Its
handlers run as long as it is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ensue.app.tenants import url_of_tenant
from ensue.app.urls import log_exists
from ensue.errors import InvalidTenant, Unavailable
from ensue.urls import shown

if TYPE_CHECKING:
    from ensue.app.engine import Engine

__all__ = ["MOST_OPEN", "A", "TenantApp", "Tenants"]

MOST_OPEN = 100


class TenantApp(Protocol):
    """What is opened for a tenant: its application."""

    async def _open(self, *, consume: bool) -> Engine: ...

    async def _close(self) -> None: ...

    def _open_engine(self) -> Engine: ...


A = TypeVar("A", bound=TenantApp)


class _Open(Generic[A]):
    """A tenant that is open, or being opened or closed, which is done under the lock."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.app: A | None = None
        self.counted = False
        """It is one of those of which there are at most `MOST_OPEN`."""
        self.users = 0


class Tenants(Generic[A]):
    """The tenants of one open application. `make` gives a tenant's application, closed; `url` is where its log is, where each has
    one."""

    def __init__(self, make: Callable[[str], A], url: str | None, *, consume: bool) -> None:
        self._make = make
        self._url = url
        self._consume = consume
        self._open: OrderedDict[str, _Open[A]] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return sum(one.counted for one in self._open.values())

    @contextlib.asynccontextmanager
    async def use(self, name: str, *, create: bool) -> AsyncGenerator[A, None]:
        """See `App.tenant`."""
        url = url_of_tenant(self._url, name) if self._url is not None else None
        one = self._open.setdefault(name, _Open[A]())
        one.users += 1
        try:
            async with one.lock:
                if self._closed:
                    raise Unavailable(f"the application is closed, and with it the tenant {name}")
                if one.app is not None and one.users == 1 and one.app._open_engine().lifeline.failure is not None:
                    await self._close(one)  # its store broke under the one who used it last
                if one.app is None:
                    if url is not None and not create and not log_exists(url):
                        raise InvalidTenant(
                            f"there is no tenant {name!r}: nothing is at {shown(url)}. Its log is made by tenant({name!r}, create=True)"
                        )
                    await self._open_app(name, one)
                app = one.app
                assert app is not None
                self._open.move_to_end(name)
            with app._open_engine().lifeline.held() if self._consume else contextlib.nullcontext():
                yield app
        finally:
            one.users -= 1
            if not one.users and one.app is None:
                self._open.pop(name, None)

    async def _open_app(self, name: str, one: _Open[A]) -> None:
        await self._make_room(name)
        one.counted = True
        try:
            app = self._make(name)
            await app._open(consume=self._consume)
        except BaseException:
            one.counted = False
            raise
        one.app = app

    async def _make_room(self, name: str) -> None:
        """Close what nobody uses, the longest unused first. Errors: `Unavailable` where all are used."""
        while len(self) >= MOST_OPEN:
            idle = next((key for key, one in self._open.items() if one.app is not None and not one.users), None)
            if idle is None:
                raise Unavailable(
                    f"the tenant {name} cannot be opened: {MOST_OPEN} tenants are in use here. Try again in a moment, or run more processes"
                )
            one = self._open[idle]
            async with one.lock:
                if not one.users:
                    try:
                        await self._close(one)
                    finally:
                        self._open.pop(idle, None)

    @staticmethod
    async def _close(one: _Open[A]) -> None:
        app, one.app = one.app, None
        if app is not None:
            try:
                await app._close()
            finally:
                one.counted = False

    async def close(self) -> None:
        """Drain and close all of them, also when one fails. Errors: the first one's."""
        self._closed = True
        failures: list[BaseException] = []
        for one in list(self._open.values()):
            async with one.lock:
                try:
                    await self._close(one)
                except Exception as error:
                    failures.append(error)
        if failures:
            raise failures[0]
