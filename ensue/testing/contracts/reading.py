"""What a store promises to those who read and wait: selections, windows, pages, time, and going from old to new."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ensue.errors import Unavailable
from ensue.events.stored import Draft, Row, Tombstone, tag_hash, tombstone_of
from ensue.store.base import Request, Selection, Term, Written
from ensue.testing.contracts.bench import SECOND, Bench, Contract, contract_test, key_of

__all__ = ["ReadingContract"]

C1, C2, NOBODY = tag_hash("customer=c1"), tag_hash("customer=c2"), tag_hash("customer=nobody")
SHOP = tag_hash("shop=s1")
SELECTIONS: tuple[Selection, ...] = (
    (),
    (Term(types=("Paid",)),),
    (Term(types=("Paid", "Opened")),),
    (Term(types=("Never",)),),
    (Term(types=("Never", "Closed")),),
    (Term(tags=(C1,)),),
    (Term(tags=(NOBODY,)),),
    (Term(tags=(key_of("o1"),)),),
    (Term(tags=(C1, SHOP)),),
    (Term(tags=(SHOP, key_of("o2"))),),
    (Term(tags=(key_of("o2"), SHOP, C2)),),
    (Term(tags=(key_of("o1"), key_of("o2"))),),
    (Term(types=("Closed",), tags=(SHOP,)),),
    (Term(types=("Paid", "Opened"), tags=(key_of("o0"),)),),
    (Term(root=1),),
    (Term(root=2, types=("Paid",)),),
    (Term(root=1, tags=(C2,)),),
    (Term(root=2, tags=(key_of("o1"),)),),
    (Term(root=9_999),),
    (Term(types=("Closed",)), Term(tags=(C1,)), Term(root=1)),
    (Term(tags=(C1,)), Term(tags=(C2,)), Term(tags=(key_of("o0"),))),
    (Term(), Term(types=("Paid",))),
)
WINDOWS = ((0, None), (10, None), (0, 30), (17, 43), (59, None), (60, None), (30, 31), (40, 20), (0, 500))


def _history(bench: Bench) -> list[Draft]:
    """Sixty events of three types, three keys and a fourth without, with and without tags, some caused by others."""
    return [
        bench.draft(
            ("Opened", "Paid", "Closed")[number % 3 if number % 7 else 0],
            f"o{number % 4}" if number % 4 < 3 else None,
            [name for name, every in (("customer=c1", 2), ("customer=c2", 5), ("shop=s1", 3)) if number % every == 0],
            root=(None, 1, 2)[number % 3] if number > 2 else None,
        )
        for number in range(60)
    ]


def _matches(row: Row, draft: Draft, selection: Selection) -> bool:
    tags = {*draft.tags, draft.stream}
    return not selection or any(
        (not term.types or draft.type_name in term.types)
        and tags.issuperset(term.tags)
        and (term.root is None or draft.root == term.root)
        for term in selection
    )


class ReadingContract(Contract):
    """See the module."""

    # --------------------------------------------------------------------------------------------- selections and pages

    @contract_test
    async def test_an_empty_log_has_no_rows_and_its_head_is_zero(self, bench: Bench) -> None:
        for backwards in (False, True):
            page = await bench.log.read(backwards=backwards)
            assert (page.rows, page.reached) == ([], 0)
        assert bench.log.head() == 0
        assert await bench.log.types() == {}

    @contract_test
    async def test_every_selection_finds_what_matches_and_nothing_else(self, bench: Bench) -> None:
        history = _history(bench)
        await bench.append(*history)
        rows = await bench.rows()
        for selection in SELECTIONS:
            expected = [row for row in rows if _matches(row, history[row[0] - 1], selection)]
            assert await bench.rows(selection) == expected, selection
            assert await bench.rows(selection, backwards=True) == expected[::-1], selection

    @contract_test
    async def test_windows_exclude_both_ends(self, bench: Bench) -> None:
        history = _history(bench)
        await bench.append(*history)
        rows = await bench.rows()
        for selection in SELECTIONS:
            for after, before in WINDOWS:
                expected = [
                    row
                    for row in rows
                    if after < row[0] < (before or 61) and _matches(row, history[row[0] - 1], selection)
                ]
                for backwards in (False, True):
                    found = await bench.rows(selection, after=after, before=before, backwards=backwards)
                    assert found == expected[:: -1 if backwards else 1], (selection, after, before, backwards)

    @contract_test
    async def test_pages_follow_each_other_without_gap_or_repeat(self, bench: Bench) -> None:
        history = _history(bench)
        await bench.append(*history)
        for selection in SELECTIONS:
            whole = await bench.rows(selection)
            for limit in (1, 2, 7, 60):
                found: list[Row] = []
                reached, pages = 0, 0
                while reached < bench.log.head():
                    page = await bench.log.read(selection, after=reached, limit=limit)
                    assert len(page.rows) <= limit
                    assert page.reached > reached
                    assert all(reached < row[0] <= page.reached for row in page.rows)
                    found, reached, pages = found + page.rows, page.reached, pages + 1
                assert found == whole, (selection, limit)
                assert pages <= len(whole) // limit + 1

    @contract_test
    async def test_pages_backwards_follow_each_other_without_gap_or_repeat(self, bench: Bench) -> None:
        history = _history(bench)
        await bench.append(*history)
        for selection in SELECTIONS:
            whole = await bench.rows(selection, backwards=True)
            for limit in (1, 7, 60):
                found: list[Row] = []
                before = 61
                while before > 0:
                    page = await bench.log.read(selection, before=before, limit=limit, backwards=True)
                    assert page.reached < before
                    assert all(page.reached <= row[0] < before for row in page.rows)
                    found, before = found + page.rows, page.reached
                assert found == whole, (selection, limit)

    @contract_test
    async def test_a_page_that_holds_all_there_is_has_reached_the_head(self, bench: Bench) -> None:
        await bench.append(*_history(bench))
        for selection in ((Term(types=("Never",)),), (Term(tags=(NOBODY,)),), (Term(types=("Paid",)),)):
            assert (await bench.log.read(selection)).reached == 60
            assert (await bench.log.read(selection, after=25)).reached == 60
            assert (await bench.log.read(selection, before=40)).reached == 39
            assert (await bench.log.read(selection, before=40, after=11, backwards=True)).reached == 11

    @contract_test
    async def test_reading_behind_the_head_finds_nothing_and_stays_there(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        page = await bench.log.read(after=5)
        assert (page.rows, page.reached) == ([], 5)

    @contract_test
    async def test_a_selection_may_have_hundreds_of_terms(self, bench: Bench) -> None:
        await bench.append(*(bench.draft(f"Kind{number}", tags=[f"place={number}"]) for number in range(700)))
        types = tuple(f"Kind{number}" for number in range(0, 700, 2))
        assert await bench.found(Term(types=types)) == list(range(1, 701, 2))
        assert await bench.found(*(Term(tags=(tag_hash(f"place={number}"),)) for number in range(650))) == list(
            range(1, 651)
        )

    # ---------------------------------------------------------------------------------------------------------- types

    @contract_test
    async def test_numbers_of_types_are_by_name_and_version_and_never_change(self, bench: Bench) -> None:
        await bench.append(bench.draft("Paid"), bench.draft("Opened"))
        before = dict(await bench.log.types())
        await bench.append(bench.draft("Paid", version=2), bench.draft("Paid"), bench.draft("Closed"))
        after = dict(await bench.log.types())
        assert before.items() <= after.items()
        assert sorted(after.values()) == [("Closed", 1), ("Opened", 1), ("Paid", 1), ("Paid", 2)]
        assert [after[row[2]] for row in await bench.rows()] == [
            ("Paid", 1), ("Opened", 1), ("Paid", 2), ("Paid", 1), ("Closed", 1),
        ]  # fmt: skip

    @contract_test
    async def test_the_type_of_a_refused_request_is_not_there(self, bench: Bench) -> None:
        known = bench.draft("Opened")
        await bench.append(known)
        refused = Request(events=[bench.draft("Typo"), known])
        await bench.answers(refused, Request(events=[bench.draft("Paid")]))
        types = await bench.log.types()
        assert sorted(types.values()) == [("Opened", 1), ("Paid", 1)]
        assert await bench.names() == ["Opened", "Paid"]

    @contract_test
    async def test_a_selection_by_type_takes_every_version_of_it(self, bench: Bench) -> None:
        await bench.append(bench.draft("Paid"), bench.draft("Paid", version=2), bench.draft("Opened"))
        assert await bench.found(Term(types=("Paid",))) == [1, 2]

    @contract_test
    async def test_former_names_count_as_the_new_one_in_every_selection(self, bench: Bench) -> None:
        await bench.append(bench.draft("Settled", tags=["a=1"]), bench.draft("Opened"), bench.draft("Payed"))
        await bench.log.rename("Paid", ["Settled", "Payed"])
        await bench.log.rename("Paid", ["Settled", "Payed"])
        await bench.append(bench.draft("Paid", tags=["a=1"]))
        for name in ("Paid", "Settled", "Payed"):
            assert await bench.found(Term(types=(name,))) == [1, 3, 4]
        assert await bench.found(Term(types=("Paid",), tags=(tag_hash("a=1"),))) == [1, 4]
        assert await bench.names() == ["Settled", "Opened", "Payed", "Paid"]

    @contract_test
    async def test_former_names_are_listed_with_the_present_one(self, bench: Bench) -> None:
        assert await bench.log.former_names() == {}
        await bench.log.rename("Paid", ["Settled", "Payed"])
        await bench.log.rename("Opened", ["Begun"])
        await bench.log.rename("Charged", ["Payed"])
        assert await bench.log.former_names() == {"Settled": "Paid", "Payed": "Charged", "Begun": "Opened"}

    # -------------------------------------------------------------------------------------------------------- tombstones

    @contract_test
    async def test_a_tombstone_takes_the_place_of_a_payload_and_of_nothing_else(self, bench: Bench) -> None:
        await bench.append(*_history(bench))
        before, found = await bench.rows(), [await bench.found(*selection) for selection in SELECTIONS]
        buried = Tombstone(b"a" * 16, "old.jsonl.gz").encoded()
        await bench.log.bury([2, 3, 5, 60], buried)
        after = await bench.rows()
        assert [row[:11] for row in after] == [row[:11] for row in before]
        assert [row[0] for row in after if row[11] == buried] == [2, 3, 5, 60]
        assert all(old[11] == new[11] for old, new in zip(before, after, strict=True) if new[11] != buried)
        for selection, positions in zip(SELECTIONS, found, strict=True):
            assert await bench.found(*selection) == positions
        assert await bench.append(bench.draft(key="o1")) == Written(61, 61)

    @contract_test
    async def test_a_tombstone_stays_as_it_is(self, bench: Bench) -> None:
        await bench.append(*(bench.draft() for _ in range(4)))
        first, second = (Tombstone(bytes([number]) * 16, "x").encoded() for number in (1, 2))
        await bench.log.bury([1, 2], first)
        await bench.log.bury([2, 3], second)
        await bench.log.bury([2, 3], second)
        await bench.log.bury([], second)
        assert [row[11] for row in await bench.rows()][:3] == [first, first, second]
        assert tombstone_of((await bench.rows())[3][11]) is None

    # ----------------------------------------------------------------------------------------------------- time and ids

    @contract_test
    async def test_the_position_at_a_time_is_the_last_one_recorded_before_it(self, bench: Bench) -> None:
        assert await bench.log.position_at(bench.world.now()) == 0
        for _ in range(4):
            await bench.append(*(bench.draft() for _ in range(3)))
            bench.world.moved += SECOND
        times = [row[5] for row in await bench.rows()]
        assert await bench.log.position_at(times[0]) == 0
        assert await bench.log.position_at(times[0] + 1) == 3
        assert await bench.log.position_at(times[6]) == 6
        assert await bench.log.position_at(times[-1]) == 9
        assert await bench.log.position_at(times[-1] + 1) == 12
        assert await bench.log.position_at(times[-1] + 3_600 * SECOND) == 12

    @contract_test
    async def test_events_are_found_by_a_span_of_their_ids(self, bench: Bench) -> None:
        drafts = [bench.draft() for _ in range(6)]
        await bench.append(*reversed(drafts))
        ids = [draft.id for draft in drafts]
        assert await bench.log.positions_of(ids[1], ids[3], limit=10) == [5, 4, 3]
        assert await bench.log.positions_of(ids[1], ids[3], limit=2) == [5, 4]
        assert await bench.log.positions_of(b"\xff" * 16, b"\xff" * 16, limit=2) == []

    # -------------------------------------------------------------------------------------------------------- following

    @contract_test
    async def test_the_head_is_the_last_position_when_its_write_is_answered(self, bench: Bench) -> None:
        for _ in range(3):
            written = await bench.append(bench.draft(), bench.draft())
            assert bench.log.head() == written.last

    @contract_test
    async def test_changed_returns_at_once_where_there_is_more(self, bench: Bench) -> None:
        await bench.append(bench.draft(), bench.draft())
        assert await bench.log.changed(0) == 2
        assert await bench.log.changed(1) == 2

    @contract_test
    async def test_a_commit_wakes_everybody_who_waits(self, bench: Bench) -> None:
        waiters = [bench.start(bench.log.changed(0)) for _ in range(5)]
        await bench.step()
        await bench.append(bench.draft())
        assert await asyncio.gather(*waiters) == [1] * 5

    @contract_test
    async def test_a_request_without_events_wakes_nobody(self, bench: Bench) -> None:
        await bench.append(bench.draft())
        waiter = bench.start(bench.log.changed(1))
        await bench.step()
        await bench.append()
        assert not waiter.done()
        await bench.append(bench.draft())
        assert await waiter == 2

    @contract_test
    async def test_waiting_may_be_cancelled(self, bench: Bench) -> None:
        given_up = bench.start(bench.log.changed(0))
        waiter = bench.start(bench.log.changed(0))
        await bench.step()
        given_up.cancel()
        await bench.append(bench.draft())
        assert await waiter == 1

    @contract_test
    async def test_closing_the_log_ends_waiting(self, bench: Bench) -> None:
        waiter = bench.start(bench.log.changed(0))
        await bench.step()
        await bench.log.close()
        with pytest.raises(Unavailable):
            await waiter

    @contract_test
    async def test_a_reader_that_catches_up_and_follows_sees_every_event_once(self, bench: Bench) -> None:
        await bench.append(*(bench.draft() for _ in range(50)))

        async def follow() -> Sequence[int]:
            seen: list[int] = []
            reached = 0
            while len(seen) < 250:
                page = await bench.log.read(after=reached, limit=20)
                seen += [row[0] for row in page.rows]
                reached = page.reached
                if len(seen) < 250 and reached >= bench.log.head():
                    await bench.log.changed(reached)
            return seen

        async def write() -> None:
            for _ in range(50):
                await bench.append(bench.draft())

        readers = [bench.start(follow()) for _ in range(2)]
        await asyncio.gather(*(write() for _ in range(4)))
        for seen in await asyncio.gather(*readers):
            assert seen == list(range(1, 251))
