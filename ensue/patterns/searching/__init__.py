"""The general engine: finds the matches of any pattern by runs over its automaton; and what corrects them, and Flink CEP's way."""

__all__: list[str] = []
