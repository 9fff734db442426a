"""Logs as channels: from the place of a channel to the store that is its broker. `ensue.consumers.log_broker` is how it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote, urlencode

from ensue.app.urls import open_store
from ensue.channels.urls import COMMON, Place
from ensue.consumers.log_broker import LogBroker
from ensue.errors import WiringError

__all__ = ["PostgresqlBroker", "SqliteBroker"]


class SqliteBroker(LogBroker):
    """Applications on one machine, joined by one file: `sqlite:///file.db` in the current folder, `sqlite:////absolute/file.db`."""

    def __init__(self, place: Place) -> None:
        url = f"sqlite:///{quote(place.path)}"
        super().__init__(place, lambda: open_store(url))
        if place.hosts or not place.path:
            raise WiringError(
                f"{place.shown} is not of the form sqlite:///file.db (in the current folder) or sqlite:////absolute/file.db"
            )


class PostgresqlBroker(LogBroker):
    """Applications joined by one PostgreSQL database: `postgresql://user:password@host:5432/database`. The `tls` parameters of
    every channel are libpq's `sslmode` and its files; libpq's own may be given instead."""

    parameters: ClassVar[Mapping[str, str]] = {
        "application_name": "how the server calls this connection (libpq)",
        "channel_binding": "whether a password is bound to the TLS connection (libpq)",
        "ensue_writers": "`many` where many processes write at once, see docs/postgresql.md (default: few)",
        "gssencmode": "whether GSSAPI encrypts (libpq)",
        "hostaddr": "addresses of the hosts (libpq)",
        "load_balance_hosts": "whether hosts are tried in random order (libpq)",
        "options": "settings of the session, as `-csearch_path=channels` for a schema of its own (libpq)",
        "passfile": "the file with passwords (libpq)",
        "service": "a section of the service file (libpq)",
        "sslcert": "a file with the client's certificate (libpq)",
        "sslcrl": "a file with certificates that are revoked (libpq)",
        "sslkey": "a file with its key (libpq)",
        "sslmode": "whether TLS is spoken, and what is checked: `verify-full` is safe (libpq)",
        "sslrootcert": "a file with the certificates of authorities to trust, or `system` (libpq)",
        "target_session_attrs": "which of several hosts to take (default: one that can be written)",
    }

    def __init__(self, place: Place) -> None:
        super().__init__(place, lambda: open_store(_postgresql(place)))
        place.flag("tls", False)


def _postgresql(place: Place) -> str:
    """The URL of the store: what is libpq's goes there as it is, what is every channel's is said in libpq's words."""
    given = {name: value for name, value in place.parameters.items() if name not in COMMON}
    if place.tls:
        given.setdefault("sslmode", "verify-full")
        given.setdefault("sslrootcert", "system")
    for ours, theirs in (("tls_ca", "sslrootcert"), ("tls_certificate", "sslcert"), ("tls_key", "sslkey")):
        if ours in place.parameters:
            given[theirs] = place.parameters[ours]
    if "connect_seconds" in place.parameters:
        given["connect_timeout"] = str(max(2, round(place.connect_seconds)))  # less than 2 means 2 to libpq
    user = "" if place.user is None else quote(place.user, safe="")
    password = "" if place.password is None else f":{quote(place.password, safe='')}"
    at = "@" if user or password else ""
    hosts = ",".join(
        f"{f'[{name}]' if ':' in name else quote(name, safe='')}{f':{port}' if port else ''}"
        for name, port in place.hosts
    )
    query = f"?{urlencode(given, quote_via=quote)}" if given else ""
    return f"postgresql://{user}{password}{at}{hosts}/{quote(place.path, safe='')}{query}"
