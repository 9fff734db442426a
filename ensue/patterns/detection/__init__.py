"""Patterns and windows in a log: the consumers that look for them, what they keep, and what is found, as events."""

__all__: list[str] = []
