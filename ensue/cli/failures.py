"""How a command ends when it does not end well. `program.py` turns these, and the library's errors, into exit codes."""

from __future__ import annotations

import click

__all__ = ["INTERRUPTED", "LOG", "NEGATIVE", "OK", "USAGE", "Negative", "WrongUsage"]

OK, NEGATIVE, USAGE, LOG, INTERRUPTED = 0, 1, 2, 3, 130


class Negative(Exception):
    """The question was understood, and the answer is no."""


class WrongUsage(click.ClickException):
    """What was asked for cannot be done as it was said."""
