"""Connections that are cut in the middle of a commit: what is then unknown is settled, and nothing is stored twice."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
import pytest

from ensue.consumers.verify import verify
from ensue.errors import Conflict, Fenced, OutcomeUnknown, Unavailable
from ensue.events.stored import Draft
from ensue.store.base import (
    Condition,
    Consumer,
    DeadLetter,
    Expected,
    Lane,
    LaneState,
    Operation,
    Request,
    SqlTransaction,
    Store,
    Term,
    Written,
)
from ensue.store.postgresql import PostgresqlStore, writer
from ensue.testing.contracts.bench import Bench, Contract, commit_of, key_of
from tests.servers.postgresql import PostgresAddress, empty_schema
from tests.servers.proxy import Cut, Incident, Proxy, proxy_to
from tests.store.logs import soon

T = TypeVar("T")
OURS = b'"ours"'


class _At(Contract):
    def __init__(self, url: str) -> None:
        self._url = url

    def store(self) -> Store:
        return PostgresqlStore(self._url)


class Counts(NamedTuple):
    """How often something is stored, by what can be seen of it."""

    events: int = 0
    revisions: int = 0
    handled: int = 0
    rows: int = 0
    resolved: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(now - before for now, before in zip(self, other, strict=True)))


class Scene:
    """One log: `here` writes through the proxy, `there` is another process with a way of its own."""

    def __init__(self, proxy: Proxy, here: Bench, there: Bench, name: str) -> None:
        self.proxy, self.here, self.there = proxy, here, there
        self.name = name
        """Of the sessions that go through the proxy."""

    async def prepare(self) -> None:
        def table(tx: SqlTransaction) -> Sequence[Draft]:
            tx.execute("CREATE TABLE thing (number integer)")
            return ()

        await self.there.append(apply=(table,))
        self.consumer: Consumer = await self.there.consumer(segments=1)
        await self.there.owner(self.consumer)
        await self.there.append(self.there.draft(key="parked"))
        row = await self.there.progress(self.consumer)
        letter = DeadLetter(
            id=0, consumer=self.consumer.id, position=1, key=key_of("parked"), key_text="order=parked", reason="boom",
            traceback="", attempts=3, parked_at=1,
        )  # fmt: skip
        await self.there.append(commit=commit_of(row, position=1, parked=(letter,)))
        self.lane: Lane = await self.there.parked(self.consumer, "parked", after=0)
        await self.here.append(self.here.draft())  # whatever a first write looks up is known
        self.row = await self.there.progress(self.consumer)
        self.before = await self.counts()

    async def counts(self) -> Counts:
        row = await self.there.progress(self.consumer)
        events = [row for row in await self.there.rows() if row[11] == OURS]
        assert isinstance(self.there.log, PostgresqlStore)
        ((things,),) = self.there.log.query("SELECT count(*) FROM thing")
        letters = await self.there.log.dead_letters(open_only=False)
        return Counts(len(events), row.rev, row.count, things, sum(one.resolution is not None for one in letters))

    async def changed(self) -> Counts:
        """What has been stored since the beginning of the test, in a log that is whole."""
        return await self.counts() - self.before

    async def is_waiting(self) -> bool:
        """Whether a session that goes through the proxy waits for a lock that another one holds."""
        assert isinstance(self.there.log, PostgresqlStore)
        question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = ? AND wait_event_type = 'Lock'"
        return self.there.log.query(question, (self.name,)) != [(0,)]

    async def verified(self) -> None:
        found = await verify(self.there.log, self.there.world)
        # What a consumer has done, and what an event says of its key, is made up here.
        assert [one for one in found.findings if one.consumer is None and one.check != "contents"] == []


# ----------------------------------------------------------------------------------------------------- what is written


def _events(scene: Scene) -> Request:
    return Request(events=[scene.here.draft(key="a", data=OURS), scene.here.draft(key="b", data=OURS)])


def _keyed(scene: Scene) -> Request:
    return Request(
        events=[scene.here.draft(key="a", data=OURS)], expected=(Expected(key_of("a"), 0),),
        conditions=(Condition((Term(tags=(key_of("a"),)),), after=0),), idempotency_key=b"key of ours 1234",
        fingerprint=b"fingerprint",
    )  # fmt: skip


def _key_alone(scene: Scene) -> Request:
    return Request(idempotency_key=b"key of ours 1234", fingerprint=b"fingerprint")


def _progress(scene: Scene) -> Request:
    return Request(commit=commit_of(scene.row, position=scene.row.position + 1, count=1, digest=7))


def _progress_with_events(scene: Scene) -> Request:
    commit = commit_of(scene.row, position=scene.row.position + 1, count=1, digest=7)
    return Request(events=[scene.here.draft(data=OURS)], commit=commit)


def _rows(scene: Scene) -> Request:
    def insert(tx: SqlTransaction) -> Sequence[Draft]:
        tx.execute("INSERT INTO thing VALUES (?)", (1,))
        return ()

    return Request(apply=(insert,))


def _rows_and_progress(scene: Scene) -> Request:
    return msgspec.structs.replace(_rows(scene), commit=_progress(scene).commit)


def _operation(scene: Scene) -> Request:
    late = msgspec.structs.replace(scene.lane, state=LaneState.LATE)
    return Request(operation=Operation(lane=late, position=1, resolution="retried", note=None, by="ann"))


class Kind(NamedTuple):
    request: Callable[[Scene], Request]
    once: Counts
    tells: bool = True
    """It leaves something by which it is known, whatever others write later."""


KINDS = {
    "events": Kind(_events, Counts(events=2)),
    "events with conditions and a key": Kind(_keyed, Counts(events=1)),
    "a key alone": Kind(_key_alone, Counts()),
    "progress": Kind(_progress, Counts(revisions=1, handled=1)),
    "progress and events": Kind(_progress_with_events, Counts(events=1, revisions=1, handled=1)),
    "rows of the user": Kind(_rows, Counts(rows=1), tells=False),
    "rows of the user and progress": Kind(_rows_and_progress, Counts(revisions=1, handled=1, rows=1)),
    "an operation": Kind(_operation, Counts(resolved=1), tells=False),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_cut = pytest.mark.parametrize("cut", Cut, ids=[cut.name.lower() for cut in Cut])


@pytest.fixture
def proxy(
    request: pytest.FixtureRequest, postgresql: PostgresAddress, monkeypatch: pytest.MonkeyPatch
) -> Generator[Proxy, None, None]:
    monkeypatch.setattr(writer, "AGAIN_SECONDS", 0.01)
    writers = getattr(request, "param", "few")
    with proxy_to(f"{empty_schema(postgresql.url())}&ensue_writers={writers}") as proxy:
        yield proxy


def on(proxy: Proxy, story: Callable[[Scene], Awaitable[T]]) -> T:
    """Play it in a log that is prepared; whatever happened, the log is whole afterwards."""

    async def run() -> T:
        name = f"proxied {uuid.uuid4().hex}"
        here, there = Bench(_At(f"{proxy.url}&application_name={quote(name)}")), Bench(_At(proxy.behind))
        try:
            await there.open()
            await here.open()
            scene = Scene(proxy, here, there, name)
            await scene.prepare()
            result = await asyncio.wait_for(story(scene), 30)
            await scene.verified()
            return result
        finally:
            await here.close()
            await there.close()

    return asyncio.run(run())


async def _has(incident: Incident) -> None:
    await soon(lambda: incident.happened, incident.cut.value)


# ------------------------------------------------------------------------------------------------------- the stories


@every_kind
@every_cut
def test_a_commit_whose_connection_is_cut_is_stored_once_and_answered(proxy: Proxy, kind: Kind, cut: Cut) -> None:
    async def story(scene: Scene) -> None:
        request, head = kind.request(scene), scene.there.log.head()
        incident = proxy.at_commit(cut)
        written = await scene.here.log.write(request)
        assert incident.happened
        assert (written.first, written.last) == (head + 1, head + kind.once.events)
        assert await scene.changed() == kind.once
        again = await scene.here.append(scene.here.draft())
        assert again.first == written.last + 1

    on(proxy, story)


@every_kind
@every_cut
def test_what_others_have_written_meanwhile_takes_no_commit_for_another(proxy: Proxy, kind: Kind, cut: Cut) -> None:
    """Only what leaves nothing behind that is its own remains unknown, and is then not tried again."""

    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(cut)
        with proxy.closed():
            answer = scene.here.log.write(kind.request(scene))
            await _has(incident)
            await soon_lets_go(scene)
            await scene.there.append(scene.there.draft(key="c"))
        if kind.tells:
            await answer
        else:
            with pytest.raises(OutcomeUnknown, match="it cannot be told whether it is stored"):
                await answer
        stored = kind.tells or cut is Cut.ANSWER
        assert await scene.changed() == (kind.once if stored else Counts())

    on(proxy, story)


@every_kind
@pytest.mark.parametrize("deliver", [True, False], ids=["arrives", "is lost"])
def test_a_commit_that_is_still_on_its_way_is_waited_for(proxy: Proxy, kind: Kind, deliver: bool) -> None:
    """Looking while the old session may still commit would tell callers "not stored", and it would be stored then."""

    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(Cut.BEFORE, late=True)
        answer = scene.here.log.write(kind.request(scene))
        await _has(incident)
        await soon(scene.is_waiting, "the writer was to wait for the lock of its old session")
        assert not answer.done()
        proxy.end(incident, deliver=deliver)
        await answer
        assert await scene.changed() == kind.once

    on(proxy, story)


@pytest.mark.parametrize("cut", [Cut.WITHOUT_COMMIT, Cut.ANSWER, None], ids=["without_commit", "answer", "late"])
@pytest.mark.parametrize("proxy", ["many"], indirect=True)
@every_kind
def test_where_writers_take_no_turns_a_commit_in_doubt_is_stored_once_too(
    proxy: Proxy, kind: Kind, cut: Cut | None
) -> None:
    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(cut or Cut.BEFORE, late=cut is None)
        answer = scene.here.log.write(kind.request(scene))
        await _has(incident)
        if cut is None:
            await soon(scene.is_waiting, "the writer was to wait for the locks of its old session")
            proxy.end(incident, deliver=True)
        if kind.tells:
            await answer
        else:
            with pytest.raises(OutcomeUnknown, match="it cannot be told whether it is stored"):
                await answer
        assert await scene.changed() == (kind.once if kind.tells or cut is not Cut.WITHOUT_COMMIT else Counts())

    on(proxy, story)


async def soon_lets_go(scene: Scene) -> None:
    """The server has noticed that the session which was cut is gone."""
    assert isinstance(scene.there.log, PostgresqlStore)
    log = scene.there.log
    question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = ? AND backend_xid IS NOT NULL"
    await soon(lambda: log.query(question, (scene.name,)) == [(0,)], "the old session was to end")


# -------------------------------------------------------------------------------------------------------- and further


@every_cut
def test_each_request_of_a_batch_in_doubt_gets_its_own_answer(proxy: Proxy, cut: Cut) -> None:
    async def story(scene: Scene) -> None:
        first = await scene.here.log.write(_keyed(scene))
        other = msgspec.structs.replace(_keyed(scene), idempotency_key=b"another key 1234")
        incident = proxy.at_commit(cut)
        answers = await scene.here.answers(_keyed(scene), other, *(_events(scene) for _ in range(3)), _rows(scene))
        assert incident.happened
        assert answers[0] == msgspec.structs.replace(first, replayed=True)
        assert isinstance(answers[1], Conflict)  # of the same stream, at the version that it has not any more
        spans = [(one.first, one.last) for one in answers[2:] if isinstance(one, Written)]
        after = first.last
        assert spans == [(after + 1, after + 2), (after + 3, after + 4), (after + 5, after + 6), (after + 7, after + 6)]
        assert await scene.changed() == Counts(events=7, rows=1)

    on(proxy, story)


@every_cut
@pytest.mark.parametrize("proxy", ["few", "many"], indirect=True)
def test_a_transaction_of_the_callers_own_is_stored_and_told_or_not_and_told(proxy: Proxy, cut: Cut) -> None:
    """It is never run again: its statements are the caller's."""

    async def story(scene: Scene) -> None:
        assert isinstance(scene.here.log, PostgresqlStore)
        own = await scene.here.log.begin()
        await own.execute("INSERT INTO thing VALUES (?)", (1,))
        incident = proxy.at_commit(cut)
        (answer,) = await asyncio.gather(
            own.commit(Request(events=[scene.here.draft(data=OURS)])), return_exceptions=True
        )
        assert incident.happened
        assert type(answer) is (Written if cut is Cut.ANSWER else Unavailable)
        assert await scene.changed() == (Counts(events=1, rows=1) if cut is Cut.ANSWER else Counts())

    on(proxy, story)


@every_cut
def test_a_type_that_is_new_in_a_commit_in_doubt_is_known_once_afterwards(proxy: Proxy, cut: Cut) -> None:
    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(cut)
        await scene.here.append(scene.here.draft("Shipped"), scene.here.draft("Told"))
        assert incident.happened
        await scene.there.append(scene.there.draft("Paid"), scene.there.draft("Told"))
        await scene.here.append(scene.here.draft("Shipped"), scene.here.draft("Paid"), scene.here.draft("Lost"))
        expected = ["Shipped", "Told", "Paid", "Told", "Shipped", "Paid", "Lost"]
        for bench in (scene.here, scene.there):
            assert (await bench.names())[2:] == expected
            assert [name for name, _ in (await bench.log.types()).values()].count("Told") == 1
        assert await scene.here.found(Term(types=("Told",))) == await scene.there.found(Term(types=("Told",)))

    on(proxy, story)


@every_kind
@every_cut
def test_looking_whether_it_is_stored_may_be_cut_as_well_wherever_that_is(proxy: Proxy, kind: Kind, cut: Cut) -> None:
    async def story(scene: Scene) -> None:
        incidents = [proxy.at_commit(cut)]
        for when in (_begins, _looks_up, _begins, *([_touches, _looks_up] if cut is Cut.ANSWER else [])):
            incidents += [proxy.at(when, Cut.BEFORE), proxy.at(when, Cut.ANSWER)]
        await scene.here.log.write(kind.request(scene))
        assert [incident.happened for incident in incidents] == [True] * len(incidents)
        assert await scene.changed() == kind.once

    on(proxy, story)


def _begins(texts: list[str]) -> bool:
    return texts[0].startswith("BEGIN")


def _looks_up(texts: list[str]) -> bool:
    return any("FROM ensue_request WHERE key" in text for text in texts) and not _begins(texts)


def _touches(texts: list[str]) -> bool:
    return texts[0].startswith("UPDATE ensue_log SET log_id")


def test_a_write_that_was_not_stored_is_judged_anew_by_what_others_have_written_meanwhile(proxy: Proxy) -> None:
    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(Cut.WITHOUT_COMMIT)
        with proxy.closed():
            answer = scene.here.log.write(_keyed(scene))
            await _has(incident)
            await scene.there.append(scene.there.draft(key="a"))
        with pytest.raises(Conflict) as refused:
            await answer
        assert (refused.value.expected, refused.value.actual) == (0, 1)
        assert await scene.changed() == Counts()

    on(proxy, story)


def test_a_commit_of_a_segment_that_another_process_has_taken_meanwhile_changes_nothing(proxy: Proxy) -> None:
    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(Cut.WITHOUT_COMMIT)
        with proxy.closed():
            answer = scene.here.log.write(_progress_with_events(scene))
            await _has(incident)
            await scene.there.ends(1)
            await scene.there.owner(scene.consumer, 2)
        with pytest.raises(Fenced):
            await answer
        assert await scene.changed() == Counts()

    on(proxy, story)


def test_a_connection_cut_under_a_function_inside_the_transaction_makes_it_run_again(proxy: Proxy) -> None:
    runs: list[int] = []

    def insert(tx: SqlTransaction) -> Sequence[Draft]:
        tx.execute("INSERT INTO thing VALUES (?)", (len(runs),))
        runs.append(len(runs))
        if len(runs) == 1:
            assert proxy.sever(_inserts) == 1
        tx.execute("INSERT INTO thing VALUES (?)", (len(runs),))
        return ()

    async def story(scene: Scene) -> None:
        await asyncio.gather(scene.here.log.write(Request(apply=(insert,))), scene.here.log.write(_events(scene)))
        assert runs == [0, 1]
        assert await scene.changed() == Counts(events=2, rows=2)

    on(proxy, story)


def _inserts(statements: set[str]) -> bool:
    return any("INSERT INTO thing" in text for text in statements)


def test_whoever_waits_for_events_hears_of_them_though_its_connection_is_cut_again_and_again(proxy: Proxy) -> None:
    async def story(scene: Scene) -> None:
        head = scene.there.log.head()
        for number in range(5):
            waiting = scene.here.start(scene.here.log.changed(head))
            await soon(lambda: proxy.has(_listens), "the desk was to listen")
            assert proxy.sever(_listens) == 1
            if number % 2:
                await soon(lambda: proxy.has(_listens), "the desk was to listen again")
            head = (await scene.there.append(scene.there.draft())).last
            assert await waiting == head
            assert (await scene.here.rows())[-1][0] == head

    on(proxy, story)


def test_whoever_begins_to_wait_while_no_server_can_be_reached_hears_of_what_comes_when_one_can(proxy: Proxy) -> None:
    async def story(scene: Scene) -> None:
        here, head = scene.here.log, scene.there.log.head()
        assert isinstance(here, PostgresqlStore)
        early = scene.here.start(here.changed(head))
        await soon(lambda: proxy.has(_listens), "the desk was to listen")
        with proxy.closed():
            assert proxy.sever() >= 1
            reading = scene.here.start(here.read())
            await soon(lambda: not here._listening, "a first attempt to reach the server was to fail")
            late = scene.here.start(here.changed(head))
            await scene.here.step()
            written = await scene.there.append(scene.there.draft())
        assert [await early, await late] == [written.last, written.last]
        assert (await reading).reached >= head

    on(proxy, story)


def _listens(statements: set[str]) -> bool:
    return any(text.startswith("LISTEN") for text in statements)


def test_a_cut_of_all_connections_while_nothing_is_written_is_not_noticed_by_those_who_write_next(proxy: Proxy) -> None:
    async def story(scene: Scene) -> None:
        for _ in range(3):
            assert isinstance(scene.here.log, PostgresqlStore)
            assert scene.here.log.query("SELECT count(*) FROM thing") == [(0,)]
            assert proxy.sever() >= 2
            await scene.here.log.write(_events(scene))
        assert await scene.changed() == Counts(events=6)

    on(proxy, story)


@every_cut
def test_a_log_whose_making_is_cut_is_made_by_whoever_opens_it_next(proxy: Proxy, cut: Cut) -> None:
    async def run() -> None:
        incident = proxy.at(_make_tables, cut)
        here = Bench(_At(proxy.url))
        with pytest.raises(Unavailable):
            await here.open()
        assert incident.happened
        here = Bench(_At(proxy.url))
        await here.open()
        assert (await here.append(here.draft())).first == 1
        await here.close()

    asyncio.run(run())


def _make_tables(texts: list[str]) -> bool:
    return any("CREATE TABLE" in text for text in texts)


def test_a_log_that_is_closed_while_it_connects_leaves_nothing_open(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.1)

    async def story(scene: Scene) -> None:
        files = _files()
        for statement in ("pg_backend_pid", "lock_timeout"):
            here = PostgresqlStore(scene.proxy.url)
            await here.open(scene.here.world)
            incident = proxy.at(partial(_begin_with, statement), Cut.BEFORE, silent=True)
            write = here.write(_events(scene))
            await _has(incident)
            await here.close()
            with pytest.raises(OutcomeUnknown):
                await write
            await soon(lambda: _files() == files + 2, "only the proxy's ends of it were to be left")
            proxy.end(incident)
            await soon(lambda: _files() == files, "the proxy was to cut it")
        assert await scene.changed() == Counts()

    on(proxy, story)


def _begin_with(word: str, texts: list[str]) -> bool:
    return word in texts[0]


def _files() -> int:
    """How many this process has open, connections among them."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
def test_a_partition_in_the_middle_of_a_commit_keeps_others_waiting_for_seconds_only(proxy: Proxy) -> None:
    """The server ends the session that holds the lock and says nothing. When the partition is over, its write is stored."""

    async def story(scene: Scene) -> None:
        incident = proxy.at_commit(Cut.WITHOUT_COMMIT, silent=True)
        answer = scene.here.log.write(_events(scene))
        await _has(incident)
        other = await scene.there.append(scene.there.draft())
        assert not answer.done()
        proxy.end(incident)
        assert (await answer).first == other.last + 1
        assert await scene.changed() == Counts(events=2)

    on(proxy, story)
