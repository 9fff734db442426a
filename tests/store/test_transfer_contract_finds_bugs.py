"""The contract of copies can fail: a place with a planted bug is found by the test that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from ensue.errors import EnsueError
from ensue.store.base import Store
from ensue.store.memory import MemoryStore, MemoryTransfer
from ensue.store.transfer import Found, Origin, Part, Place, Transfer, Values
from ensue.testing.contracts import TransferContract
from ensue.testing.contracts.transferring import Interrupted


class NoMark(MemoryTransfer):
    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        await super().receive(part, rows)
        self._half, self._store._half_of = self._store._half_of, None

    def _hold_mark(self) -> None:
        self._store._half_of = self._store._half_of or getattr(self, "_half", None)


class AnyReceiver(MemoryTransfer):
    def _hold_mark(self) -> None:
        pass


class OverwritesAnything(MemoryTransfer):
    async def found(self) -> Found:
        found = await super().found()
        return msgspec.structs.replace(found, state=Place.EMPTY) if found.state is Place.WHOLE else found


class SeesNobody(MemoryTransfer):
    async def found(self) -> Found:
        return msgspec.structs.replace(await super().found(), nodes=())


class SeesNoWrites(MemoryTransfer):
    async def found(self) -> Found:
        found = await super().found()
        origin = found.origin and msgspec.structs.replace(found.origin, batch=b"", position=0, recorded_at=0)
        return msgspec.structs.replace(found, origin=origin)


class KeepsWhatIsOld(MemoryTransfer):
    async def begin(self, origin: Origin, *, anew: bool, tables: Sequence[Part] = ()) -> None:
        await super().begin(origin, anew=anew and self._store._half_of is None, tables=tables)


class OpensHalves(MemoryTransfer):
    async def open(self, world: object, *, receiving: bool) -> Found:
        return await self.found()


class Forgets(MemoryTransfer):
    """Makes the comparison blind as well."""

    part = ""

    async def page(self, part: Part, after: Values | None) -> list[Values]:
        return [] if part.name == self.part else await super().page(part, after)

    async def extent(self, part: Part) -> tuple[int, Values | None]:
        return (0, None) if part.name == self.part else await super().extent(part)


class ForgetsTags(Forgets):
    part = "event_tag"


class ForgetsRequests(Forgets):
    part = "request"


class ForgetsRecords(Forgets):
    part = "delivery"


class TimeBeginsAnew(MemoryTransfer):
    async def finish(self) -> None:
        await super().finish()
        self._store._recorded_at = 0


class NewName(MemoryTransfer):
    async def finish(self) -> None:
        await super().finish()
        self._store.log_id = "0" * 32


class BackToFront(MemoryTransfer):
    async def page(self, part: Part, after: Values | None) -> list[Values]:
        return (await super().page(part, after))[::-1]


class AllAtOnce(MemoryTransfer):
    async def page(self, part: Part, after: Values | None) -> list[Values]:
        rows: list[Values] = []
        while page := await super().page(part, rows[-1][: part.key] if rows else after):
            rows += page
        return rows


@pytest.mark.parametrize(
    ("bug", "test"),
    [
        (NoMark, TransferContract.test_a_copy_that_dies_at_any_moment_is_refused_by_name_and_goes_on),
        (AnyReceiver, TransferContract.test_the_copy_that_began_last_is_the_one_that_goes_on),
        (OverwritesAnything, TransferContract.test_another_log_is_not_overwritten),
        (SeesNobody, TransferContract.test_a_log_that_somebody_runs_is_not_copied),
        (SeesNoWrites, TransferContract.test_a_copy_is_not_finished_when_the_source_is_written_meanwhile),
        (KeepsWhatIsOld, TransferContract.test_a_copy_begins_anew_when_the_source_was_written_after_it_stopped),
        (OpensHalves, TransferContract.test_half_a_copy_is_no_source),
        (ForgetsTags, TransferContract.test_a_copy_is_the_same_log_and_the_source_is_as_it_was),
        (ForgetsRequests, TransferContract.test_a_copy_goes_on_where_the_log_was),
        (ForgetsRecords, TransferContract.test_a_copy_is_the_same_log_and_the_source_is_as_it_was),
        (TimeBeginsAnew, TransferContract.test_a_copy_goes_on_where_the_log_was),
        (NewName, TransferContract.test_a_copy_is_the_same_log_and_the_source_is_as_it_was),
        (BackToFront, TransferContract.test_pages_follow_each_other_in_the_order_of_the_key),
        (AllAtOnce, TransferContract.test_a_page_ends_when_its_bytes_are_many),
    ],
)
def test_a_planted_bug_is_found(bug: type[MemoryTransfer], test: Callable[[TransferContract], None]) -> None:
    class Held(TransferContract):
        def __init__(self, kind: type[MemoryTransfer]) -> None:
            self._kind = kind
            self._here, self._elsewhere = MemoryStore(), MemoryStore()

        def store(self) -> Store:
            return self._here

        def transfer(self) -> Transfer:
            return self._kind(self._here)

        def elsewhere(self) -> tuple[Store, Transfer]:
            return self._elsewhere, self._kind(self._elsewhere)

    test(Held(MemoryTransfer))
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError, EnsueError, Interrupted)):
        test(Held(bug))
