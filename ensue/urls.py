"""URLs of servers: what of them may be shown, and whether there are two ways to read them.

A password that was not escaped makes of a URL another one, whose host, port or database is a part of the password. Such a URL is
never shown, nor given to a client library that would show it.
"""

from __future__ import annotations

import re

__all__ = ["is_readable", "shown"]

_PARTS = re.compile(
    r"(?P<scheme>[^:/?#@]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?P<fragment>#.*)?", re.DOTALL
)
_HOST = re.compile(r"(\[[^\]@]*\]|[^:\[\]@]*)(:\d*)?")


def _parsed(url: str) -> re.Match[str] | None:
    """None where it could be read in another way."""
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return None if "@" in url or "://" in url else re.fullmatch("(?P<scheme>.*)", url, re.DOTALL)
    if not parts["authority"]:
        return parts
    hosts = parts["authority"].rpartition("@")[2].split(",")
    pairs = (parts["query"] or "?")[1:].split("&")
    whole = (
        parts["authority"].count("@") <= 1
        and all(_HOST.fullmatch(host) for host in hosts)
        and "@" not in parts["path"]
        and not parts["fragment"]
        and all("=" in pair or not pair for pair in pairs)
    )
    return parts if whole else None


def is_readable(url: str) -> bool:
    """Whether there is one way to read it."""
    return _parsed(url) is not None


def shown(url: str) -> str:
    """The URL without what may be secret: its password, and the values of its query."""
    parts = _parsed(url)
    if parts is None:
        scheme = re.match(r"[a-z]+(?=://)", url)
        return f"{scheme[0] if scheme else ''}://…"
    if "authority" not in parts.groupdict():
        start, _, query = url.partition("?")
        return f"{start}{_shown_query(query)}"
    credentials, at, hosts = parts["authority"].rpartition("@")
    name, colon, _ = credentials.partition(":")
    return (
        f"{parts['scheme']}://{name}{':…' if colon else ''}{at}{hosts}{parts['path']}"
        f"{_shown_query((parts['query'] or '?')[1:])}{parts['fragment'] or ''}"
    )


def _shown_query(query: str) -> str:
    names = [pair.partition("=")[0] for pair in query.split("&") if pair]
    return "?" + "&".join(f"{name}=…" for name in names) if names else ""
