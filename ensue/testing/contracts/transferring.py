"""What a store promises to `ensue copy`: that a log can move, stopped at any moment, and be the same log elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from ensue.errors import Conflict, EnsueError, IdempotencyKeyReused, Unavailable, WrongLog
from ensue.events.stored import Draft, tag_hash
from ensue.store.base import (
    Condition,
    Consumer,
    DeadLetter,
    Delivery,
    Expected,
    Lane,
    LaneState,
    Operation,
    Store,
    Term,
    Written,
)
from ensue.store.transfer import PARTS, Copied, Found, Origin, Part, Place, Transfer, Values, copy
from ensue.testing.contracts.bench import SECOND, Bench, Contract, commit_of, contract_test, key_of
from ensue.world import World

__all__ = ["Interrupted", "InterruptedTransfer", "TransferContract", "everything", "fill"]


class Interrupted(Exception):
    """The process that copies is gone."""


class InterruptedTransfer:
    """Another `Transfer`, whose process dies before its so many and first change of the target; or that does something else
    then."""

    def __init__(self, inner: Transfer, changes: int, instead: Callable[[], Awaitable[object]] | None = None) -> None:
        self.place = inner.place
        self._inner = inner
        self._left = changes
        self._instead = instead

    async def _change(self) -> None:
        if not self._left:
            if self._instead is None:
                raise Interrupted
            await self._instead()
        self._left -= 1

    async def open(self, world: World, *, receiving: bool) -> Found:
        return await self._inner.open(world, receiving=receiving)

    async def found(self) -> Found:
        return await self._inner.found()

    async def begin(self, origin: Origin, *, anew: bool, tables: Sequence[Part] = ()) -> None:
        await self._change()
        await self._inner.begin(origin, anew=anew, tables=tables)

    async def receive(self, part: Part, rows: Sequence[Values]) -> None:
        await self._change()
        await self._inner.receive(part, rows)

    async def finish(self) -> None:
        await self._change()
        await self._inner.finish()

    async def extent(self, part: Part) -> tuple[int, Values | None]:
        return await self._inner.extent(part)

    async def page(self, part: Part, after: Values | None) -> list[Values]:
        return await self._inner.page(part, after)

    async def close(self) -> None:
        await self._inner.close()


async def fill(bench: Bench) -> None:
    """Everything that a log can hold, in the log of the bench, which is empty."""
    log = bench.log
    await bench.append(
        bench.draft("Opened", "a", ["customer=c1", "region=north"]),
        bench.draft("Paid", "a", version=2, data=b'{"sum":"\xc3\xa9"}'),
        bench.draft("Opened", "b", ["customer=c1"], cause=1, root=1),
        bench.draft("Noted", data=b"\x00\xff no JSON"),
        idempotency_key=b"k" * 16,
        fingerprint=b"f" * 16,
        result=lambda: b"seat 7",
    )
    await log.rename("Settled", ["Paid"])
    wanted = Consumer(
        id=0, name="billing", start=0, key_tag="customer", segments=4, handles={"b": 0, "Opened": 0, "aa": 0}
    )
    billing = await log.define(wanted)
    paused = await bench.consumer("paused", segments=1, start=2)
    await log.set_status(paused.id, "paused", "until noon")
    rows = await bench.owner(billing)
    record = Delivery(billing.id, 1, 3, bench.world.now(), b"packed")
    letters = tuple(
        DeadLetter(
            id=0, consumer=billing.id, position=3, key=key_of(name), key_text=f"order={name}", reason="ValueError: no",
            traceback="Traceback …\n  at é", attempts=3, parked_at=bench.world.now(),
        )
        for name in "ab"
    )  # fmt: skip
    retrying = Lane(
        consumer=billing.id, segment=0, key=key_of("c"), key_text="order=c", after=1, state=LaneState.RETRY, attempts=2,
        due_at=bench.world.now(), error="boom", edit=b'{"x":1}', edits=1, discard=True, rev=5,
    )  # fmt: skip
    commit = commit_of(
        rows[0], position=1, ahead=(3, 900), count=2, digest=2**64 - 5, lanes=(retrying,), parked=letters,
        delivery=lambda: record,
    )  # fmt: skip
    await bench.append(bench.draft("Opened", "a"), commit=commit)
    parked = await bench.parked(billing, "a", after=2)
    await bench.parked(billing, "b", after=2)
    late = msgspec.structs.replace(parked, state=LaneState.LATE)
    await bench.append(operation=Operation(lane=late, position=3, resolution="retried", note="é", by="ann"))
    await log.beat(bench.node(lives=-1))


async def everything(log: Store) -> list[object]:
    """All that can be read of a log."""
    rows = (await log.read((), limit=100_000)).rows
    consumers = await log.consumers()
    return [
        log.log_id,
        rows,
        dict(await log.types()),
        dict(await log.former_names()),
        consumers,
        [await log.standing(consumer.id) for consumer in consumers],
        await log.dead_letters(open_only=False),
        await log.deliveries([row[0] for row in rows]),
        [
            [row[0] for row in (await log.read((Term(tags=(tag,)),), limit=100)).rows]
            for tag in (key_of("a"), tag_hash("customer=c1"))
        ],
    ]


class TransferContract(Contract):
    """The log of the test is filled, closed, and copied elsewhere."""

    @abstractmethod
    def transfer(self) -> Transfer:
        """This test's log as one side of a copy."""

    @abstractmethod
    def elsewhere(self) -> tuple[Store, Transfer]:
        """Another place, empty at first: adapters, not yet opened, of the log there and of the place as one side of a copy.
        May be called several times."""

    async def _filled(self, bench: Bench) -> list[object]:
        await fill(bench)
        before = await everything(bench.log)
        await bench.log.close()
        return before

    async def _copy(self, bench: Bench, target: Transfer | None = None) -> Copied:
        return await copy(self.transfer(), target or self.elsewhere()[1], bench.world)

    async def _there(self, bench: Bench) -> list[object]:
        log, _ = self.elsewhere()
        await log.open(bench.world)
        try:
            return await everything(log)
        finally:
            await log.close()

    # -------------------------------------------------------------------------------------------------------- the copy

    @contract_test
    async def test_a_copy_is_the_same_log_and_the_source_is_as_it_was(self, bench: Bench) -> None:
        before = await self._filled(bench)
        copied = await self._copy(bench)
        assert (copied.difference, copied.whole, copied.received) == (None, False, sum(copied.rows.values()))
        assert copied.rows["events"] == copied.position == 5
        assert all(copied.rows.values()), "the log that is moved in this test has something of everything"
        assert await self._there(bench) == before
        assert await everything(await bench.reopened()) == before

    @contract_test
    async def test_a_copy_goes_on_where_the_log_was(self, bench: Bench) -> None:
        await self._filled(bench)
        await self._copy(bench)
        bench.log, _ = self.elsewhere()
        await bench.open()
        first = (await bench.rows())[-1]
        again = await bench.append(bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"f" * 16)
        assert again == Written(1, 4, True, b"seat 7")
        with pytest.raises(IdempotencyKeyReused):
            await bench.append(bench.draft(), idempotency_key=b"k" * 16, fingerprint=b"g" * 16)
        with pytest.raises(Conflict):
            await bench.append(bench.draft(), conditions=(Condition((Term(types=("Settled",)),), 1),))
        bench.world.moved = -3_600 * SECOND
        wrote = await bench.append(bench.draft("New", "a", ["customer=c1"]), expected=(Expected(key_of("a"), 3),))
        assert wrote == Written(6, 6)
        last = (await bench.rows())[-1]
        assert (last[2], last[4], last[5] >= first[5]) == (4, 4, True)
        assert await bench.found(Term(tags=(key_of("a"),))) == [1, 2, 5, 6]

    @contract_test
    async def test_consumers_of_a_copy_go_on_under_a_higher_fence_with_numbers_that_are_new(self, bench: Bench) -> None:
        await self._filled(bench)
        await bench.reopened()
        (consumer, _) = await bench.log.consumers()
        before = await bench.progress(consumer)
        await bench.log.close()
        await self._copy(bench)
        bench.log, _ = self.elsewhere()
        await bench.open()
        taken = (await bench.owner(consumer, 2))[0]
        assert taken.fence == before.fence + 1
        letter, record = (await bench.log.dead_letters())[0], Delivery(consumer.id, 4, 5, bench.world.now(), b"later")
        await bench.append(commit=commit_of(taken, position=5, parked=(letter,), delivery=lambda: record))
        assert [one.id for one in await bench.log.dead_letters(open_only=False)] == [1, 2, 3]
        assert [one.packed for one in await bench.log.deliveries([1, 4])] == [b"packed", b"later"]
        assert (await bench.consumer("another")).id == 3

    @contract_test
    async def test_a_log_without_events_can_be_copied(self, bench: Bench) -> None:
        log_id = bench.log.log_id
        await bench.log.close()
        assert (await self._copy(bench)).difference is None
        assert (await self._there(bench))[0] == log_id

    # ------------------------------------------------------------------------------------------------ stopped and run again

    @contract_test
    async def test_a_copy_that_dies_at_any_moment_is_refused_by_name_and_goes_on(self, bench: Bench) -> None:
        before = await self._filled(bench)
        changes = len(PARTS) + 2
        for number in range(1, changes):
            with pytest.raises(Interrupted):
                await self._copy(bench, InterruptedTransfer(self.elsewhere()[1], min(number, 2)))
            log, _ = self.elsewhere()
            with pytest.raises(Unavailable, match="ensue copy FROM TO"):
                await log.open(bench.world)
            await log.close()
        copied = await self._copy(bench)
        assert (copied.difference, copied.whole) == (None, False)
        assert copied.received < sum(copied.rows.values())
        assert await self._there(bench) == before

    @contract_test
    async def test_a_copy_that_died_before_its_last_step_has_only_that_to_do(self, bench: Bench) -> None:
        before = await self._filled(bench)
        with pytest.raises(Interrupted):
            await self._copy(bench, InterruptedTransfer(self.elsewhere()[1], len(PARTS) + 1))
        assert (await self._copy(bench)).received == 0
        assert await self._there(bench) == before

    @contract_test
    async def test_a_copy_begins_anew_when_the_source_was_written_after_it_stopped(self, bench: Bench) -> None:
        await self._filled(bench)
        with pytest.raises(Interrupted):
            await self._copy(bench, InterruptedTransfer(self.elsewhere()[1], len(PARTS)))
        await bench.reopened()
        await bench.append(bench.draft("Later", "a", ["customer=c1"]))
        await bench.log.set_status(1, "tripped", "a bug")
        before = await everything(bench.log)
        await bench.log.close()
        copied = await self._copy(bench)
        assert (copied.difference, copied.received) == (None, sum(copied.rows.values()))
        assert await self._there(bench) == before

    @contract_test
    async def test_the_copy_that_began_last_is_the_one_that_goes_on(self, bench: Bench) -> None:
        before = await self._filled(bench)

        async def another() -> None:
            await self._copy(bench)

        with pytest.raises(Unavailable, match="another"):
            await self._copy(bench, InterruptedTransfer(self.elsewhere()[1], 3, another))
        assert await self._there(bench) == before

    # ------------------------------------------------------------------------------------------------------- the source

    @contract_test
    async def test_a_log_that_somebody_runs_is_not_copied(self, bench: Bench) -> None:
        await fill(bench)
        await bench.log.beat(bench.node(77))
        await bench.log.close()
        with pytest.raises(Unavailable, match="77"):
            await self._copy(bench)
        assert (await self._look(bench)).state is Place.EMPTY

    @contract_test
    async def test_a_copy_is_not_finished_when_the_source_is_written_meanwhile(self, bench: Bench) -> None:
        await self._filled(bench)

        async def writes() -> None:
            await bench.reopened()
            await bench.append(bench.draft("Later", "a"))
            await bench.log.close()

        with pytest.raises(EnsueError, match="written while it was copied"):
            await self._copy(bench, InterruptedTransfer(self.elsewhere()[1], len(PARTS), writes))
        assert (await self._look(bench)).state is Place.HALF
        assert (await self._copy(bench)).difference is None
        assert (await self._look(bench)).state is Place.WHOLE

    @contract_test
    async def test_half_a_copy_is_no_source(self, bench: Bench) -> None:
        await self._filled(bench)
        with pytest.raises(Interrupted):
            await self._copy(bench, InterruptedTransfer(self.elsewhere()[1], 2))
        with pytest.raises(Unavailable, match="ensue copy FROM TO"):
            await copy(self.elsewhere()[1], self.transfer(), bench.world)

    # ------------------------------------------------------------------------------------------------------- the target

    async def _look(self, bench: Bench) -> Found:
        transfer = self.elsewhere()[1]
        try:
            return await transfer.open(bench.world, receiving=True)
        finally:
            await transfer.close()

    async def _other(self, bench: Bench, work: Callable[[Bench], Awaitable[object]]) -> list[object]:
        """Another log is elsewhere."""
        source = bench.log
        bench.log, _ = self.elsewhere()
        await bench.open()
        await work(bench)
        found = await everything(bench.log)
        await bench.log.close()
        bench.log = source
        return found

    @contract_test
    async def test_a_log_that_was_never_used_is_replaced(self, bench: Bench) -> None:
        async def nothing(_: Bench) -> None:
            return

        before = await self._filled(bench)
        await self._other(bench, nothing)
        assert (await self._copy(bench)).difference is None
        assert await self._there(bench) == before

    @contract_test
    async def test_another_log_is_not_overwritten(self, bench: Bench) -> None:
        await self._filled(bench)
        other = await self._other(bench, lambda other: other.consumer("theirs"))
        with pytest.raises(WrongLog, match="another log"):
            await self._copy(bench)
        assert await self._there(bench) == other

    @contract_test
    async def test_half_a_copy_of_another_log_is_not_overwritten(self, bench: Bench) -> None:
        await self._filled(bench)
        target = self.elsewhere()[1]
        await target.open(bench.world, receiving=True)
        await target.begin(Origin("0" * 32, 9, 1, b"\1" * 16), anew=True)
        await target.close()
        with pytest.raises(WrongLog, match="half a copy of another log"):
            await self._copy(bench)

    @contract_test
    async def test_a_whole_copy_is_only_compared(self, bench: Bench) -> None:
        await self._filled(bench)
        await self._copy(bench)
        again = await self._copy(bench)
        assert (again.whole, again.received, again.difference) == (True, 0, None)

    @contract_test
    async def test_the_first_difference_of_two_logs_is_named(self, bench: Bench) -> None:
        await self._filled(bench)
        await self._copy(bench)

        async def goes_on(other: Bench) -> None:
            await other.append(other.draft("Opened", "a"))

        await self._other(bench, goes_on)
        assert str((await self._copy(bench)).difference) == "events, 6: only in the target"

        await bench.reopened()
        await bench.append(bench.draft("Other", "a"))
        await bench.log.close()
        assert str((await self._copy(bench)).difference) == "event types, 4: missing in the target"

    # ------------------------------------------------------------------------------------------------------------ pages

    @contract_test
    async def test_pages_follow_each_other_in_the_order_of_the_key(self, bench: Bench) -> None:
        def tagged(number: int) -> Draft:
            return bench.draft("Opened", f"{number}", [f"one={number % 7}", f"two={number}"])

        for first in range(0, 12_000, 1_000):
            await bench.append(*map(tagged, range(first, first + 1_000)))
        await bench.log.close()
        transfer = self.transfer()
        await transfer.open(bench.world, receiving=False)
        try:
            for part in PARTS:
                keys: list[Values] = []
                while page := await transfer.page(part, keys[-1] if keys else None):
                    found = [row[: part.key] for row in page]
                    assert found == sorted(set(found)), part.name
                    assert found[:1] > keys[-1:], part.name
                    keys += found
                assert (len(keys), keys[-1] if keys else None) == await transfer.extent(part)
        finally:
            await transfer.close()

    @contract_test
    async def test_a_page_ends_when_its_bytes_are_many(self, bench: Bench) -> None:
        await bench.append(*(bench.draft(data=b"." * 1_000_000) for _ in range(30)))
        await bench.log.close()
        transfer = self.transfer()
        await transfer.open(bench.world, receiving=False)
        try:
            page = await transfer.page(next(part for part in PARTS if part.name == "event"), None)
        finally:
            await transfer.close()
        assert 1 <= len(page) < 15
