"""Patterns for people: what one says and how it runs, what waits, why something is a match, and the nearest miss of what is none."""

__all__: list[str] = []
