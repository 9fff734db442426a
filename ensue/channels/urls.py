"""The URL of a channel, taken apart: where the broker is, who asks, and what its parameters say.

`scheme://user:password@host:port/path?parameter=value`; several hosts are separated by commas. A password is never shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from ensue.errors import WiringError
from ensue.urls import is_readable, shown

__all__ = ["COMMON", "Place", "place"]

COMMON: Mapping[str, str] = {
    "address": "the topic, subject, stream or queue; without it the name of the channel",
    "create": "what to do about topology: `yes` creates what is missing and checks the rest, `no` only checks (default: yes)",
    "format": "`binary` (default) and `structured` are CloudEvents; `json` is the bare payload",
    "type": "with `format=json`, the type of messages that do not say one",
    "connect_seconds": "how long one attempt to connect may take (default: 10)",
    "wait_seconds": "how long to wait at start for a broker that cannot be reached (default: 30)",
    "prefetch": "how many messages may be here that are not accepted yet (default: 4096)",
    "tls": "`yes` speaks TLS (default: by the scheme)",
    "tls_ca": "a file with the certificates of authorities to trust; without it those of the system",
    "tls_certificate": "a file with the client's certificate",
    "tls_key": "a file with its key",
}


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
        if not text.isdecimal() or int(text) < lowest:
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
    if not is_readable(url):
        raise WiringError(
            f"the URL {shown(url)} of a channel cannot be read in one way; one looks like kafka://host:9092 or "
            "amqp://user:password@host/, with %-escapes for what is not a letter or digit"
        )
    parts = urlsplit(url)
    if not parts.scheme:
        raise WiringError(f"the URL {shown(url)} of a channel has no scheme; one looks like kafka://host:9092")
    credentials, _, rest = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise WiringError(f"{shown(url)}: the parameter {twice!r} is there twice")
    return Place(
        scheme=parts.scheme,
        hosts=tuple(_host(url, host) for host in rest.split(",") if host),
        user=unquote(user) if user else None,
        password=unquote(password) if colon else None,
        path=unquote(parts.path.removeprefix("/")),
        parameters=dict(pairs),
        shown=shown(url),
    )


def _host(url: str, host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not 0 < int(port) < 65536:
        raise WiringError(f"{shown(url)}: {port} is not a port")
    return name.strip("[]"), int(port) if port else 0
