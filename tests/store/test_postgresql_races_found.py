"""The tests of the PostgreSQL log can fail: each bug planted here shipped in somebody's store, or lies near in ours, and is found
by the test that says so."""

from __future__ import annotations

import asyncio
import gc
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest

import ensue.store.postgresql as adapter
from ensue.errors import EnsueError
from ensue.store.postgresql import PostgresqlStore, batch, checkpoints, locking, order
from ensue.store.postgresql.batch import Batch
from ensue.store.postgresql.locking import Locking
from ensue.store.postgresql.names import Names
from ensue.store.postgresql.order import Concurrent, Fence
from ensue.store.postgresql.session import Call, Rows, Session, Statement
from ensue.store.postgresql.transaction import PostgresqlTransaction
from ensue.testing.contracts import DurableContract, SharedContract, SqlContract, StoreContract
from tests.servers.postgresql import PostgresAddress, empty_schema
from tests.store import postgresql_logs, test_postgresql_claims, test_postgresql_races
from tests.store.postgresql_logs import Holds

Plant = Callable[[pytest.MonkeyPatch], None]
Found = Callable[..., None]


def text(where: object, name: str, old: str, new: str) -> Plant:
    """A statement that says something else."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        was: Statement | Call = getattr(where, name)
        said = was.text.decode()
        assert old in said, f"{name} is another one now: {said}"
        made = Statement(said.replace(old, new))
        patch.setattr(where, name, made() if isinstance(was, Call) else made)

    return plant


def moved(part: str, to: Callable[[list[Call], int], int]) -> Plant:
    """The statement with this text is sent at another place of its flight; its rows come where they are expected."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = Session.run

        def run(session: Session, *calls: Call) -> asyncio.Future[list[Rows]]:
            places = [place for place, call in enumerate(calls) if part.encode() in call.text]
            if not places or len(calls) < 3:
                return original(session, *calls)
            there = places[0]
            target = to(list(calls), there)
            sent = [place for place in range(len(calls)) if place != there]
            sent.insert(target, there)

            async def restored() -> list[Rows]:
                rows = await original(session, *(calls[place] for place in sent))
                return [found for _, found in sorted(zip(sent, rows, strict=True))]

            return asyncio.ensure_future(restored())

        patch.setattr(Session, "run", run)

    return plant


def to_the_end(calls: list[Call], place: int) -> int:
    return len(calls) - 1


def replaced(where: object, name: str, made: Callable[..., Any]) -> Plant:
    """A function that does something else; `made` is given the original."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(where, name, made(getattr(where, name)))

    return plant


# ------------------------------------------------------------------------------------------------------------------- bugs


def the_mark_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Locking, "_contested", property(lambda locking: False, lambda locking, value: None), raising=False)


class _AlwaysTheSame(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def names_are_learnt_once(patch: pytest.MonkeyPatch) -> None:
    def revision(names: Names) -> int:
        number: int = names.__dict__.get("its_revision", -1)
        return _AlwaysTheSame(number) if number >= 0 else number

    patch.setattr(
        Names, "revision", property(revision, lambda names, number: names.__dict__.update(its_revision=int(number))),
        raising=False,
    )  # fmt: skip


def segments_are_locked_in_another_order_by_each(patch: pytest.MonkeyPatch) -> None:
    original = Session.run
    known: list[Session] = []

    def run(session: Session, *calls: Call) -> asyncio.Future[list[Rows]]:
        changed = list(calls)
        for place, call in enumerate(calls):
            if b"ORDER BY p.consumer, p.segment FOR UPDATE" in call.text:
                if session not in known:
                    known.append(session)
                way = b"DESC" if known.index(session) % 2 else b"ASC"
                said = call.text.replace(b"p.consumer, p.segment FOR", b"p.segment " + way + b" FOR")
                changed[place] = Call(said, call.values, call.types, call.formats)
        return original(session, *changed)

    patch.setattr(Session, "run", run)


def the_head_is_read_behind_the_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    async def ask(store: PostgresqlStore, what: str, *calls: Call) -> list[Rows]:
        if what != "read events":
            found: list[Rows] = await original(store, what, *calls)
            return found
        rows, *looked = await original(store, what, calls[-1], *calls[:-1])
        return [*looked, rows]

    return ask


def a_look_is_for_all_that_comes_meanwhile(original: Callable[..., Any]) -> Callable[..., None]:
    def wakened(store: PostgresqlStore, unsettled: bool = False) -> None:
        if store._look is None or store._look.done():
            original(store, unsettled)

    return wakened


def it_listens_once(original: Callable[..., Any]) -> Callable[..., None]:
    def listen(store: PostgresqlStore) -> None:
        if "listened" not in store.__dict__:
            original(store)
        store.__dict__["listened"] = True

    return listen


def each_commit_is_told(original: Callable[..., Any]) -> Callable[..., None]:
    def committed(store: PostgresqlStore, head: int) -> None:
        store._advanced(head)
        store._notify()

    return committed


def nothing(original: Callable[..., Any]) -> Callable[..., None]:
    return lambda *given, **more: None


def no_lock_but_the_common_one(original: Callable[..., Any]) -> Callable[..., list[Call]]:
    def locks(self: Concurrent, requests: Sequence[Any], new_types: bool) -> list[Call]:
        calls: list[Call] = original(self, [], new_types)
        return calls

    return locks


def nobody_is_waited_for(original: Callable[..., Any]) -> Callable[..., Any]:
    async def settle(self: Fence) -> int:
        ((last,),), _ = await self._ask("read the order", order._LAST, order._PUBLISH(1 << 40, 1))
        return int(last)

    return settle


def a_snapshot_is_taken_before_its_number_has_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(order, "_NUMBER", order._SETTLED)


def each_name_stands_for_itself(original: Callable[..., Any]) -> Callable[..., list[int]]:
    return lambda names, wanted: [number for number, (name, _) in names.by_number.items() if name in wanted]


def any_parked_lane_will_do(original: Callable[..., Any]) -> Callable[..., None]:
    def check(self: Batch, request: Any) -> None:
        if request.operation is not None:
            lane = request.operation.lane
            self.parked[lane.consumer, lane.key] = lane.rev
        original(self, request)

    return check


races, claims = test_postgresql_races, test_postgresql_claims
FEW: list[tuple[str, Plant, Found, tuple[Any, ...]]] = [
    (
        "no lock",
        text(order, "_LOCKED_HEAD", " FOR UPDATE", ""),
        races.test_nobody_gets_a_position_behind_one_that_is_not_committed,
        (),
    ),
    (
        "conditions before the lock",
        moved("ensue_log FOR UPDATE", to_the_end),
        races.test_of_eight_who_decide_at_the_same_moment_exactly_one_appends,
        ("a tag",),
    ),
    (
        "versions before the lock",
        moved("ensue_log FOR UPDATE", to_the_end),
        races.test_of_eight_who_decide_at_the_same_moment_exactly_one_appends,
        ("a version",),
    ),
    (
        "keys before the lock",
        moved("ensue_log FOR UPDATE", to_the_end),
        races.test_of_two_processes_with_one_idempotency_key_one_writes_and_both_get_its_answer,
        (),
    ),
    (
        "mark ignored",
        the_mark_is_not_looked_at,
        races.test_a_version_that_another_process_has_raised_is_not_the_one_remembered,
        (),
    ),
    (
        "names learnt once",
        names_are_learnt_once,
        races.test_a_condition_knows_a_name_that_another_process_has_given_a_type_meanwhile,
        (),
    ),
    (
        "numbers given twice",
        names_are_learnt_once,
        races.test_a_type_that_two_processes_have_for_the_first_time_gets_one_number,
        (),
    ),
    (
        "head behind the rows",
        replaced(PostgresqlStore, "_ask", the_head_is_read_behind_the_rows),
        races.test_what_is_read_ends_at_the_head_that_was_read_before_it,
        ("ensue_log",),
    ),
    (
        "version after the events",
        replaced(PostgresqlStore, "_ask", the_head_is_read_behind_the_rows),
        races.test_a_decision_from_what_was_read_is_refused_for_what_came_while_it_was_read,
        ("ensue_log",),
    ),
    (
        "conflicts do nothing",
        text(batch, "_EVENTS", "$12::bytea[])", "$12::bytea[]) ON CONFLICT DO NOTHING"),
        races.test_what_somebody_stored_past_the_lock_is_never_taken_for_the_event_that_was_to_be_there,
        (),
    ),
    (
        "an id twice does nothing",
        text(batch, "_EVENTS", "$12::bytea[])", "$12::bytea[]) ON CONFLICT DO NOTHING"),
        races.test_of_two_processes_with_one_event_id_one_writes_and_the_other_is_told,
        (),
    ),
    (
        "fence read, not locked",
        text(locking, "_FENCES", " FOR UPDATE OF p", ""),
        claims.test_a_commit_that_waits_for_a_takeover_is_refused_by_it,
        (True,),
    ),
    (
        "no fence",
        replaced(Batch, "_fenced", nothing),
        claims.test_a_commit_computed_before_a_takeover_is_refused_after_the_new_owner_has_committed,
        (),
    ),
    (
        "claim without a look",
        text(checkpoints, "_CLAIM", " AND p.fence = u.fence", ""),
        claims.test_of_two_who_claim_the_same_free_segments_each_gets_its_own,
        (),
    ),
    (
        "any parked lane",
        replaced(Batch, "check", any_parked_lane_will_do),
        claims.test_of_two_operators_on_one_parked_key_one_is_told_that_he_came_too_late,
        (),
    ),
    (
        "segments in any order",
        segments_are_locked_in_another_order_by_each,
        claims.test_two_writers_with_crossing_segments_wait_for_each_other_in_one_order,
        (),
    ),
    (
        "head before segments",
        moved("ORDER BY p.consumer, p.segment FOR UPDATE", to_the_end),
        claims.test_who_waits_for_a_segment_does_not_keep_the_log_locked,
        (),
    ),
    (
        "no notification",
        replaced(PostgresqlStore, "_notify", nothing),
        claims.test_a_notification_wakes_those_who_wait_in_another_process,
        (),
    ),
    (
        "one look for all",
        replaced(PostgresqlStore, "_wakened", a_look_is_for_all_that_comes_meanwhile),
        claims.test_a_notification_that_arrives_while_the_head_is_read_is_not_taken_for_that_reading,
        (),
    ),
    (
        "no poll",
        replaced(PostgresqlStore, "_poll_after", nothing),
        claims.test_who_waits_hears_by_polling_of_a_commit_whose_notification_never_came,
        (),
    ),
    (
        "listens once",
        replaced(PostgresqlStore, "_listen", it_listens_once),
        claims.test_who_waits_listens_again_when_the_connection_was_lost,
        (),
    ),
    (
        "a notification for each commit",
        replaced(PostgresqlStore, "_committed", each_commit_is_told),
        claims.test_a_writer_tells_of_many_commits_with_few_notifications,
        (),
    ),
]
MANY: list[tuple[str, Plant, Found, tuple[Any, ...]]] = [
    ("no locks", replaced(Concurrent, "locks", no_lock_but_the_common_one), races.test_of_eight_who_decide_at_the_same_moment_exactly_one_appends, ("a tag",)),
    ("nobody is waited for", replaced(Fence, "settle", nobody_is_waited_for), races.test_where_many_write_what_commits_first_is_read_behind_what_has_the_lower_position, ()),
    ("the youngest is not seen", a_snapshot_is_taken_before_its_number_has_ended, races.test_where_many_write_nobody_reads_past_a_position_that_is_taken_and_not_committed, ()),
]  # fmt: skip


class _Held(StoreContract, DurableContract, SharedContract, SqlContract):
    def __init__(self, url: str) -> None:
        self.url = url

    def store(self) -> PostgresqlStore:
        return PostgresqlStore(self.url)


CONTRACT: list[tuple[str, Plant, Found]] = [
    (
        "names stand for themselves",
        replaced(Names, "expand", each_name_stands_for_itself),
        StoreContract.test_former_names_count_as_the_new_one_in_every_selection,
    ),
    (
        "a failed function's rows stay",
        replaced(PostgresqlTransaction, "undo", nothing),
        SqlContract.test_a_function_that_raises_undoes_the_rows_of_its_request_and_no_others,
    ),
    (
        "lanes stay",
        text(batch, "_NO_LANES", "l.key = u.key", "l.key = u.key AND false"),
        StoreContract.test_lanes_are_written_replaced_and_dropped_with_progress,
    ),
    (
        "a release is forgotten",
        text(batch, "_PROGRESS", "WHEN u.release THEN NULL", "WHEN u.release THEN p.owner"),
        StoreContract.test_a_released_segment_is_free_and_clean,
    ),
    (
        "letters stay open",
        text(batch, "_RESOLVED", "resolved_at IS NULL", "resolved_at IS NOT NULL"),
        StoreContract.test_an_operation_releases_a_parked_key_and_resolves_its_letter,
    ),
    (
        "every type since the beginning",
        text(checkpoints, "_DEFINE", "jsonb_object_agg(k, ", "jsonb_object_agg(k, 0 * "),
        StoreContract.test_types_that_are_added_are_handled_since_the_head,
    ),
    (
        "a lease by the process's clock",
        text(checkpoints, "_BEAT", " + $5::bigint", " + 60000000 + 0 * $5::bigint"),
        StoreContract.test_segments_of_an_expired_node_are_taken_and_counted_as_unclean,
    ),
]


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """What a failing contract leaves behind is collected here, and not told in the midst of some other test."""
    yield
    logging.disable()
    gc.collect()
    logging.disable(logging.NOTSET)


@pytest.fixture
def url(postgresql: PostgresAddress, monkeypatch: pytest.MonkeyPatch) -> str:
    """A log of its own, and no patience: what does not come at once is a failure here."""
    monkeypatch.setattr(postgresql_logs, "AT_ONCE_SECONDS", 0.7)
    monkeypatch.setattr(postgresql_logs, "PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr("ensue.testing.contracts.bench.LIMIT_SECONDS", 3.0)
    return f"{empty_schema(postgresql.url())}&application_name=test_{uuid.uuid4().hex[:12]}"


def _given(test: Found, url: str, given: tuple[Any, ...], patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What pytest would give it."""
    known = {"url": url, "either": url, "holds": None, "monkeypatch": patch, "rarely": None}
    names = test.__code__.co_varnames[: test.__code__.co_argcount]
    rest = iter(given)
    return {name: known[name] if name in known else next(rest) for name in names}


def _finds(test: Found, plant: Plant, url: str, given: tuple[Any, ...], patch: pytest.MonkeyPatch) -> None:
    plant(patch)
    arguments = _given(test, url, given, patch)
    if "rarely" in arguments:
        patch.setattr(adapter, "POLL_SECONDS", 3600.0)
    if "holds" in arguments:
        arguments["holds"] = Holds(patch)
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError, EnsueError, psycopg.Error)):
        test(**arguments)


@pytest.mark.parametrize(("plant", "test", "given"), [pytest.param(*one[1:], id=one[0]) for one in FEW])
def test_a_planted_bug_is_found(
    plant: Plant, test: Found, given: tuple[Any, ...], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finds(test, plant, url, given, monkeypatch)


@pytest.mark.parametrize(("plant", "test", "given"), [pytest.param(*one[1:], id=one[0]) for one in MANY])
def test_a_bug_planted_where_many_write_is_found(
    plant: Plant, test: Found, given: tuple[Any, ...], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    either = "either" in _given(test, url, given, monkeypatch)
    _finds(test, plant, f"{url}&ensue_writers=many" if either else url, given, monkeypatch)


@pytest.mark.parametrize(("plant", "test"), [pytest.param(*one[1:], id=one[0]) for one in CONTRACT])
def test_the_contract_finds_a_bug_planted_in_the_sql(
    plant: Plant, test: Found, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception, TimeoutError, EnsueError)):
        test(_Held(url))
