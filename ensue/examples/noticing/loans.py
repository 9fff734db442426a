"""Loan applications at a bank: work that waits for a person, offers that are sent twice, and the step at which an application is stuck.

Each row of the file is a step of one application. The same answers are counted a second time, by plain loops over each application's
rows (`recount`), and must be equal.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache

import msgspec

from ensue import Event, days
from ensue.patterns import Pattern, absent, one
from ensue.patterns.finding import find, timed_out

__all__ = ["Counted", "Done", "Report", "SentTwice", "Waiting", "find_all", "progress", "recount", "waiting"]


class Done(Event, key="application", time="at"):
    """Something was done in an application, or put on somebody's list."""

    application: str
    activity: str
    lifecycle: str
    """SCHEDULE: on a list; START: somebody begins; COMPLETE."""
    at: datetime
    resource: str | None = None


class Waiting(msgspec.Struct, frozen=True, order=True):
    """An application that waited at a step: since when, and when it was too long."""

    application: str
    step: str
    since: datetime
    until: datetime


class SentTwice(Pattern, within=days(30)):
    """A second offer is sent within a month, before anything came back."""

    first = one(Done, lambda step: step.activity == "O_SENT")
    answered = absent(Done, lambda step: step.activity == "O_SENT_BACK")
    second = one(Done, lambda step: step.activity == "O_SENT")


@cache
def waiting(patience: timedelta) -> type[Pattern]:
    """Work that was put on somebody's list, and that nobody began for so long."""

    class WaitsForAPerson(Pattern, name="WaitsForAPerson"):
        scheduled = one(Done, lambda step: step.lifecycle == "SCHEDULE")
        begun = absent(Done, lambda step: step.lifecycle == "START", within=patience)

        @begun.where
        def same(self, step: Done) -> bool:
            return step.activity == self.scheduled.activity

    return WaitsForAPerson


@cache
def progress(patience: timedelta) -> type[Pattern]:
    """The way to a loan, each step within this time of the one before; what is not is timed out, and says where."""

    class Granted(Pattern, name="Granted"):
        submitted = one(Done, lambda step: step.activity == "A_SUBMITTED")
        accepted = one(Done, lambda step: step.activity == "A_ACCEPTED", within=patience)
        sent = one(Done, lambda step: step.activity == "O_SENT", within=patience)
        sent_back = one(Done, lambda step: step.activity == "O_SENT_BACK", within=patience)
        approved = one(Done, lambda step: step.activity == "A_APPROVED", within=patience)

    return Granted


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints. `problems` says what the second count has otherwise, and is empty."""

    rows: int
    applications: int
    days: float
    waited_for_a_person: dict[str, int]
    """Activity → how often nobody began it in time."""
    offers_sent_twice: int
    granted: int
    stuck_before: dict[str, int]
    """Step → applications that did not come to it in time."""
    problems: list[str]


def find_all(rows: Sequence[Done], patience: timedelta) -> tuple[Report, list[Waiting]]:
    """All three, and the second count. `rows` by time."""
    late = [
        Waiting(match.key, match.scheduled.activity, match.scheduled.at, match.ended)  # type: ignore[attr-defined]
        for match in find(waiting(patience), rows)
    ]
    twice = [(match.key, match.first.at, match.second.at) for match in find(SentTwice, rows)]
    granted = Counter(match.key for match in find(progress(patience), rows))
    stuck = Counter(out.waiting_for for out in timed_out(progress(patience), rows))
    second = recount(rows, patience)
    problems = [
        f"{name}: the pattern says {ours!r}, the second count {theirs!r}"
        for name, ours, theirs in (
            ("waits", sorted(late), second.late),
            ("offers sent twice", sorted(twice), second.twice),
            ("granted", dict(granted), second.granted),
            ("stuck", dict(stuck), second.stuck),
        )
        if ours != theirs
    ]
    return Report(
        rows=len(rows),
        applications=len({row.application for row in rows}),
        days=patience / timedelta(days=1),
        waited_for_a_person=dict(Counter(one.step for one in late).most_common()),
        offers_sent_twice=len(twice),
        granted=granted.total(),
        stuck_before=dict(stuck.most_common()),
        problems=problems,
    ), sorted(late, key=lambda one: one.until)


# ------------------------------------------------------------------------------------------------- the second count


class Counted(msgspec.Struct, frozen=True):
    """The same by other means."""

    late: list[Waiting]
    twice: list[tuple[str, datetime, datetime]]
    granted: Mapping[str, int]
    stuck: Mapping[str, int]


def recount(rows: Iterable[Done], patience: timedelta) -> Counted:
    """Loops over the rows of each application, that know no pattern."""
    of: dict[str, list[Done]] = defaultdict(list)
    for row in rows:
        of[row.application].append(row)
    late: list[Waiting] = []
    twice: list[tuple[str, datetime, datetime]] = []
    granted: Counter[str] = Counter()
    stuck: Counter[str] = Counter()
    for application, own in of.items():
        for at, row in enumerate(own):
            if row.lifecycle == "SCHEDULE" and not _begun(row, own[at + 1 :], patience):
                late.append(Waiting(application, row.activity, row.at, row.at + patience))
            if row.activity == "O_SENT":
                behind = _next_offer(own[at + 1 :], row.at)
                if behind is not None:
                    twice.append((application, row.at, behind))
            if row.activity == "A_SUBMITTED":
                step = _stuck_before(own[at + 1 :], row.at, patience)
                if step is None:
                    granted[application] += 1
                else:
                    stuck[step] += 1
    return Counted(sorted(late), sorted(twice), dict(granted), dict(stuck))


def _begun(scheduled: Done, later: Sequence[Done], patience: timedelta) -> bool:
    return any(
        row.activity == scheduled.activity and row.lifecycle == "START" and row.at - scheduled.at < patience
        for row in later
    )


def _next_offer(later: Sequence[Done], since: datetime) -> datetime | None:
    for row in later:
        if row.activity == "O_SENT_BACK" or row.at - since >= timedelta(days=30):
            return None
        if row.activity == "O_SENT":
            return row.at
    return None


def _stuck_before(later: Sequence[Done], since: datetime, patience: timedelta) -> str | None:
    way = iter(
        (("accepted", "A_ACCEPTED"), ("sent", "O_SENT"), ("sent_back", "O_SENT_BACK"), ("approved", "A_APPROVED"))
    )
    name, activity = next(way)
    for row in later:
        if row.activity != activity:
            continue
        if row.at - since >= patience:
            return name
        since = row.at
        following = next(way, None)
        if following is None:
            return None
        name, activity = following
    return name
