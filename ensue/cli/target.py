"""Which log a command is about, and how it is opened.

`--url`; else `ENSUE_URL`; else the log of the application that `--app` or pyproject.toml names; else the one log file in the
current folder. Nothing here creates a log: one that does not exist is an error, so that a mistyped name leaves no empty file.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from ensue.app.event_types import registry_of
from ensue.app.keys import keys_of_store, open_keys
from ensue.app.tenants import PLACE, url_of_tenant
from ensue.app.urls import log_exists, logs_in, open_store, shown
from ensue.cli.failures import WrongUsage
from ensue.cli.loading import declared_app, load_app
from ensue.errors import Unavailable
from ensue.events.registry import Registry
from ensue.store.archives import open_archive
from ensue.store.base import Store
from ensue.store.keys import KeyRing
from ensue.store.restored import with_archives
from ensue.world import RealWorld, World

__all__ = ["OpenLog", "Target", "log_options", "opened"]

C = TypeVar("C", bound=Callable[..., Any])


class Target(msgspec.Struct, frozen=True):
    """A log, and the event types of its application where that is known."""

    url: str
    registry: Registry | None
    keys: str | None = None
    """Where the keys of personal data are, where anybody says it."""

    @classmethod
    def chosen(cls, url: str | None = None) -> Target:
        """The log that the command line, the environment or the folder names; `url` is what a command says before them. Errors: as
        `find`."""
        meta = click.get_current_context().meta
        found = cls.find(url or meta.get(f"{__name__}.url"), meta.get(f"{__name__}.app"))
        keys = meta.get(f"{__name__}.keys") or os.environ.get("ENSUE_KEYS") or found.keys
        return msgspec.structs.replace(found, keys=keys)._of(meta.get(f"{__name__}.tenant"))

    def _of(self, tenant: str | None) -> Target:
        """The log of a tenant, where each has one. Errors: `WrongUsage`, `InvalidTenant`."""
        if PLACE not in self.url:
            if tenant is not None:
                raise WrongUsage(f"--tenant {tenant}: there are no tenants, {shown(self.url)} is one log")
            return self
        if tenant is None:
            raise WrongUsage(f"there is a log for each tenant, at {shown(self.url)}: say which, --tenant NAME")
        keys = url_of_tenant(self.keys, tenant) if self.keys is not None else None
        return Target(url_of_tenant(self.url, tenant), self.registry, keys)

    @staticmethod
    def named_app() -> str | None:
        """The application that the command line names."""
        found: str | None = click.get_current_context().meta.get(f"{__name__}.app")
        return found

    @classmethod
    def find(cls, url: str | None, app: str | None) -> Target:
        """Errors: `WrongUsage` when none or several come into question, saying which were found."""
        if url is not None:
            return cls(url, _registry(app) if app is not None else None)
        named = app or declared_app(Path.cwd())
        registry = _registry(named) if named is not None else None
        if os.environ.get("ENSUE_URL"):
            return cls(os.environ["ENSUE_URL"], registry)
        if named is not None:
            settings = load_app(named).settings
            return cls(settings.url, registry, settings.keys)
        found = logs_in(Path.cwd())
        if len(found) == 1:
            return cls(found[0], None)
        if not found:
            raise WrongUsage(
                f"there is no log in {Path.cwd()}; say which with --url sqlite:///FILE, ENSUE_URL, or --app module:app"
            )
        raise WrongUsage(f"there are {len(found)} logs in {Path.cwd()}; say which: --url {' or --url '.join(found)}")


def _registry(app: str) -> Registry:
    return registry_of(load_app(app))


class OpenLog(msgspec.Struct, frozen=True):
    """An open log."""

    store: Store
    world: World
    registry: Registry | None
    url: str
    keys: KeyRing | None = None


@asynccontextmanager
async def opened(
    target: Target, *, write: bool = False, archives: Sequence[Path] = ()
) -> AsyncGenerator[OpenLog, None]:
    """The log, open for reading only unless `write`; events that are in the archives are read from there. Errors: `Unavailable`
    when there is none; those of `Log.open`."""
    store = open_store(target.url, read_only=not write)
    if not log_exists(target.url):
        raise Unavailable(f"there is no log at {shown(target.url)}; nothing was created. Is the name right?")
    world = RealWorld()
    keys = open_keys(target.keys, create=write) if target.keys else keys_of_store(target.url, store, create=write)
    ring = KeyRing(keys, world)
    if target.registry is not None:
        target.registry.keys = ring
    if archives:
        store = with_archives(store, lambda: [open_archive(file) for file in archives])
    await store.open(world)
    try:
        yield OpenLog(store, world, target.registry, shown(target.url), ring)
    finally:
        ring.close()
        await store.close()


def log_options(command: C) -> C:
    """The options that say which log is meant: before or behind the name of a subcommand. See `Target.chosen`."""
    for name, metavar, help in (
        ("--app", "MODULE:APP", "The application, for its log and its event types."),
        ("--url", "URL", "The log, such as sqlite:///shop.db."),
        ("--tenant", "NAME", "Whose log, where each tenant has one."),
        ("--keys", "URL", "Where the keys of personal data are; by default beside the log."),
    ):
        command = click.option(name, metavar=metavar, help=help, expose_value=False, callback=_choose)(command)
    return command


def _choose(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[f"{__name__}.{parameter.name}"] = value
