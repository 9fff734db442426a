"""Both stores that an application can be opened on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log on a file, then one in memory."""
    return f"sqlite:///{tmp_path}/app.db" if request.param == "sqlite" else "memory:"


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """A log on a file, for what needs SQL or a second opening."""
    return f"sqlite:///{tmp_path}/app.db"
