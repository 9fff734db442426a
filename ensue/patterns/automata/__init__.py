"""Automata: from each stage that a run of a pattern can have reached, the ways on from there."""

__all__: list[str] = []
