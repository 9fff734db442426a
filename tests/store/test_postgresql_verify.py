"""What `verify` says of a log whose positions are not dense."""

from __future__ import annotations

from ensue.consumers.verify import verify
from tests.store.logs import WORLD
from tests.store.postgresql_logs import append, opened, sql, told


def test_a_position_whose_commit_failed_is_told_and_is_no_finding_where_many_write(postgresql_url: str) -> None:
    async def story() -> None:
        async with opened(f"{postgresql_url}&ensue_writers=many") as store:
            await append(store, b"{}")
            sql(postgresql_url, "SELECT nextval('ensue_position')")
            await append(store, b"{}")
            found = await verify(store, WORLD)
            assert "positions" not in {finding.check for finding in found.findings}
            assert (found.events, found.unfilled) == (2, 1)

    told(story)


def test_a_position_without_its_event_is_a_finding_where_positions_are_dense(postgresql_url: str) -> None:
    async def story() -> None:
        async with opened(postgresql_url) as store:
            await append(store, b"{}", b"{}", b"{}")
            sql(postgresql_url, "DELETE FROM ensue_event WHERE position = 2")
            found = await verify(store, WORLD)
            assert "position 2 is missing" in [finding.message for finding in found.findings]
            assert found.unfilled == 0

    told(story)
