"""What tests expect of a problem."""

from __future__ import annotations

from typing import Any

import httpx

__all__ = ["problem"]


def problem(answer: httpx.Response, status: int, kind: str = "about:blank") -> dict[str, Any]:
    """The members of this problem, which is of this status and type."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert (said["status"], said["type"]) == (status, kind), said
    assert said["title"]
    return said
