"""The places where decisions are made: each store that an application can be opened on."""

from __future__ import annotations

from pathlib import Path

import pytest

PLACES = ("memory", "sqlite", "postgresql", "postgresql, many writers")


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log in each place."""
    if request.param == "memory":
        return "memory:"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/domain.db"
    return _postgresql(request)


@pytest.fixture(params=PLACES[1:])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A log in each place that several processes, or applications, can open at once."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/domain.db"
    return _postgresql(request)


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """A log on a file, where the place makes no difference."""
    return f"sqlite:///{tmp_path}/domain.db"


def _postgresql(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue("postgresql_url")
    return f"{url}&ensue_writers=many" if "many" in request.param else url
