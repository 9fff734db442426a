"""The operators of windows and joins."""

__all__: list[str] = []
