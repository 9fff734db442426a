"""The URL of a channel, taken apart: where the broker is, who asks, and what its parameters say.

`scheme://user:password@host:port/path?parameter=value`; several hosts are separated by commas. Escapes begin with `%`, also in
parameters, where `+` is a plus. A password is never shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote

import msgspec

from ensue.errors import WiringError
from ensue.urls import is_readable, shown

__all__ = ["COMMON", "Place", "place"]

COMMON: Mapping[str, str] = {
    "address": "the topic, subject, stream or queue; without it the name of the channel",
    "prefix": "what the names of addresses and groups begin with, so that several installations share a broker",
    "create": "what to do about topology: `yes` creates what is missing and checks the rest, `no` only checks (default: yes)",
    "format": "`binary` (default) and `structured` are CloudEvents; `json` is the bare payload",
    "type": "the type of messages that are bare JSON and do not say one; without it bare JSON is no event",
    "id": "where the id of bare JSON is: `header:NAME`, or `field:NAME` with dots for fields in fields",
    "connect_seconds": "how long one attempt to connect may take (default: 10)",
    "wait_seconds": "how long to wait at start for a broker that cannot be reached (default: 30)",
    "prefetch": "how many messages may be here that are not accepted yet (default: 4096)",
    "tls": "`yes` speaks TLS (default: by the scheme)",
    "tls_ca": "a file with the certificates of authorities to trust; without it those of the system",
    "tls_certificate": "a file with the client's certificate",
    "tls_key": "a file with its key",
}

LONGEST_NUMBER = 18


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `hosts` are pairs of name and port, 0 where none is said; `parameters` are all of the URL's."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = None
    path: str = ""
    parameters: Mapping[str, str] = {}
    shown: str = ""
    """The URL as people may see it."""

    def __repr__(self) -> str:
        return f"Place({self.shown!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("shown", self.shown)]

    def check(self, known: Mapping[str, str]) -> None:
        """Errors: `WiringError` for a parameter that is neither common nor among these."""
        for name in self.parameters:
            if name not in COMMON and name not in known:
                names = ", ".join((*known, *COMMON))
                raise WiringError(f"{self.shown}: there is no parameter {name!r}; there are: {names}")

    def text(self, name: str, default: str = "") -> str:
        return self.parameters.get(name, default)

    def number(self, name: str, default: int, *, lowest: int = 1) -> int:
        """A whole number. Errors: `WiringError`."""
        text = self.parameters.get(name)
        if text is None:
            return default
        if not text.isdecimal() or len(text) > LONGEST_NUMBER or int(text) < lowest:
            raise WiringError(f"{self.shown}: {name}={text!r} is not a whole number from {lowest}")
        return int(text)

    def seconds(self, name: str, default: float) -> float:
        """A number of seconds above 0. Errors: `WiringError`."""
        text = self.parameters.get(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = -1.0
        if not 0 < value < 1e9:
            raise WiringError(f"{self.shown}: {name}={text!r} is not a number of seconds above 0")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """`yes` or `no`. Errors: `WiringError`."""
        text = self.parameters.get(name, "yes" if default else "no")
        if text not in ("yes", "no"):
            raise WiringError(f"{self.shown}: {name}={text!r}; it is yes or no")
        return text == "yes"

    def choice(self, name: str, *choices: str) -> str:
        """One of these; the first is the default. Errors: `WiringError`."""
        text = self.parameters.get(name, choices[0])
        if text not in choices:
            raise WiringError(f"{self.shown}: {name}={text!r}; it is one of: {', '.join(choices)}")
        return text

    def address(self, channel: str) -> str:
        """Where the channel of this name is at the broker."""
        return self.text("prefix") + self.text("address", channel)

    def group(self, name: str) -> str:
        """What the group of this name is called at the broker."""
        return self.text("prefix") + name

    @property
    def create(self) -> bool:
        return self.flag("create", True)

    @property
    def connect_seconds(self) -> float:
        return self.seconds("connect_seconds", 10.0)

    @property
    def tls(self) -> bool:
        """By the parameter, else by the scheme: those that speak TLS end in s (`amqps`, `mqtts`, `rediss`, `tls`)."""
        return self.flag("tls", self.scheme in ("amqps", "mqtts", "rediss", "tls", "kafkas", "natss"))

    @property
    def format(self) -> Literal["binary", "structured", "json"]:
        found = self.choice("format", "binary", "structured", "json")
        return "structured" if found == "structured" else "json" if found == "json" else "binary"


def place(url: str) -> Place:
    """Take a URL apart. Errors: `WiringError`, which shows no password, for one that cannot be read in one way."""
    parts = _PARTS.fullmatch(url)
    # An `@` behind the hosts may be one of a password that was not escaped, and what is before it a part of that password.
    if not is_readable(url) or _NEVER_BARE.search(url) or (parts is not None and "@" in (parts["query"] or "")):
        raise _unreadable(url)
    if parts is None or (parts["authority"] is None and parts["path"]):
        raise WiringError(f"the URL {shown(url)} of a channel has no scheme or no //; one looks like kafka://host:9092")
    credentials, _, hosts = (parts["authority"] or "").rpartition("@")
    user, colon, password = credentials.partition(":")
    pairs = [pair.partition("=") for pair in (parts["query"] or "").split("&") if pair]
    names = [_plain(url, name) for name, _, _ in pairs]
    if any(not equals for _, equals, _ in pairs):
        raise WiringError(f"{shown(url)}: a parameter has no value; write parameter=value")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise WiringError(f"{shown(url)}: the parameter {twice!r} is there twice")
    return Place(
        scheme=parts["scheme"].lower(),
        hosts=tuple(_host(url, host) for host in hosts.split(",")) if hosts else (),
        user=_plain(url, user) if user else None,
        password=_plain(url, password) if colon else None,
        path=_plain(url, parts["path"].removeprefix("/")),
        parameters=dict(zip(names, (_plain(url, value) for _, _, value in pairs), strict=True)),
        shown=shown(url),
    )


_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(//(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(\?(?P<query>[^#]*))?"
)
_NEVER_BARE = re.compile(r"[\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})")
"""A space, what cannot be seen, and a per cent sign that begins no escape."""


def _unreadable(url: str) -> WiringError:
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url)
    return WiringError(
        f"the URL {scheme[0] if scheme else ''}… of a channel cannot be read in one way; one looks like kafka://host:9092 "
        "or amqp://user:password@host/, with %-escapes for what is not a letter or digit"
    )


def _plain(url: str, text: str) -> str:
    """Without its escapes."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _unreadable(url) from None


def _host(url: str, host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if not name:
        raise WiringError(f"{shown(url)}: a host is missing; write host or host:port, with commas between several")
    if port and (len(port) > 5 or not 0 < int(port) < 65536):
        raise WiringError(f"{shown(url)}: {port} is not a port")
    return _plain(url, name.strip("[]")), int(port) if port else 0
