"""Patterns over what is past: files with a row for each event, and logs."""

__all__: list[str] = []
