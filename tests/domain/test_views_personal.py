"""Who is forgotten is forgotten in views of each kind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Self

import pytest

from ensue import App, Event, Personal, View
from ensue.events.personal import FORGOTTEN


class Named(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    name: Personal[str]


class Person(View, key="customer_id", table="people"):
    customer_id: str
    name: Personal[str] = ""

    def evolve(self, event: Named) -> Self:
        self.name = event.name
        return self


@pytest.mark.parametrize("options", [{"when": "inline"}, {"when": "live"}, {"database": "sqlite:///{}/people.db"}])
def test_a_row_shows_who_was_forgotten_as_such(file_url: str, tmp_path: Path, options: dict[str, str]) -> None:
    async def story() -> None:
        app = App("shop", url=file_url)
        view: Any = app.view
        view(**{name: value.format(tmp_path) for name, value in options.items()})(Person)
        async with app:
            written = await app.publish(Named(customer_id="c1", name="Ann"), Named(customer_id="c2", name="Bob"))
            assert await app.get(Person, "c1", after=written.position) == Person(customer_id="c1", name="Ann")
            forgotten = await app.forget("customer_id", "c1")
            row = await app.get(Person, "c1", after=forgotten.position)
            assert row is not None
            assert row.name == FORGOTTEN
            assert await app.get(Person, "c2") == Person(customer_id="c2", name="Bob")

    asyncio.run(story())
