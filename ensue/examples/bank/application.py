"""The bank put together."""

from __future__ import annotations

from ensue import App
from ensue.examples.bank.accounts import accounts
from ensue.examples.bank.auditing import auditing
from ensue.examples.bank.statements import statements
from ensue.observe.signals import Observer

__all__ = ["bank"]


def bank(url: str | None = None, *, observe: Observer | None = None) -> App:
    """The bank on the log at `url`."""
    app = App("bank", url=url, observe=observe)
    app.include(accounts, statements, auditing)
    return app
