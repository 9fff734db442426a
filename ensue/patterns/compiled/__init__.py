"""Patterns as programs: for those of which each beginning has one run, a loop of Python source that does nothing else."""

__all__: list[str] = []
