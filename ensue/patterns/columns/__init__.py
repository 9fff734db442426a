"""Patterns over columns: predicates ask whole batches at once, and only rows that a pattern may need become events."""

__all__: list[str] = []
