"""The part of docs/guarantees.md that says what each backend gives. `make guarantees` runs the contract on every backend, with the
tests named there, and writes it from what the backends declare and what these tests said; and for channels likewise
(`channel_tables.py`)."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest

from ensue.app.urls import open_store
from ensue.store.base import Capabilities
from ensue.testing.contracts import DurableContract, SharedContract, SqlContract, StoreContract, TransferContract
from tests.store import test_contracts, test_postgresql_pooled
from tests.tidy import channel_tables
from tests.tidy.repository import ROOT

__all__ = ["PAGE", "collected", "fact_tests", "generated", "with_generated"]

PAGE = ROOT / "docs/guarantees.md"
BEGIN, END = "<!-- made by `make guarantees`, from here -->", "<!-- to here -->"


class Backend(NamedTuple):
    title: str
    url: str
    held: Sequence[type[StoreContract]]
    """The test classes that hold it to its contract."""


BACKENDS = (
    Backend("memory", "memory:", [test_contracts.TestMemory]),
    Backend("a SQLite file", "sqlite:///shop.db", [test_contracts.TestSqliteFile]),
    Backend("PostgreSQL", "postgresql://db/shop", [test_contracts.TestPostgresql, test_postgresql_pooled.TestPooled]),
    Backend(
        "PostgreSQL, many writers",
        "postgresql://db/shop?ensue_writers=many",
        [test_contracts.TestPostgresqlForManyWriters],
    ),
)
DECLARED: Sequence[tuple[str, str]] = (
    ("durable", "what was acknowledged outlives its process"),
    ("many_processes", "several processes at the same time"),
    ("sql", "rows of handlers in the commit of their events"),
    ("own_transactions", "a transaction that a caller holds open"),
    ("dense", "positions without holes"),
)
_APPENDING, _READING, _CLAIMING, _COMMITTING = StoreContract.__mro__[1:5]
CONTRACTS: Sequence[tuple[str, type[object]]] = (
    ("held to what is declared", StoreContract),
    ("appending", _APPENDING),
    ("reading", _READING),
    ("claiming", _CLAIMING),
    ("committing", _COMMITTING),
    ("closed and opened again", DurableContract),
    ("two processes", SharedContract),
    ("inside the transaction", SqlContract),
    ("copying", TransferContract),
)


class Fact(NamedTuple):
    """What no capability says: in words, one for each backend, and the tests that hold it."""

    what: str
    each: tuple[str, str, str, str]
    tests: Sequence[str]


FACTS = (
    Fact(
        "where its processes run",
        ("one process", "one machine", "any machines", "any machines"),
        [
            "tests/consumers/test_spreading_processes.py::test_three_processes_share_a_file_while_one_is_killed_and_one_sleeps_beyond_its_lease",
            "tests/store/test_postgresql_faults.py::test_ten_processes_that_find_no_log_at_once_make_one",
        ],
    ),
    Fact(
        "who writes",
        ("one", "processes in turns", "processes in turns", "all at once, in turns where they touch the same keys or tags"),
        [
            "tests/store/test_sqlite_processes.py::test_two_processes_that_append_at_once_share_one_dense_order",
            "tests/store/test_postgresql_races.py::test_nobody_gets_a_position_behind_one_that_is_not_committed",
            "tests/store/test_postgresql_races.py::test_where_many_write_what_commits_first_is_read_behind_what_has_the_lower_position",
        ],
    ),
    Fact(
        "how other processes hear of events",
        ("–", "a watch on the file, a look each second", "`NOTIFY`, a look each second; 25 looks a second through a pooler", "the same"),
        [
            "tests/store/test_sqlite_processes.py::test_a_reader_in_another_process_is_woken_within_fifty_milliseconds",
            "tests/store/test_postgresql_claims.py::test_a_notification_wakes_those_who_wait_in_another_process",
            "tests/store/test_postgresql_claims.py::test_who_waits_hears_by_polling_of_a_commit_whose_notification_never_came",
            "tests/store/test_postgresql_pooled.py::test_what_another_process_wrote_is_seen_by_polling",
        ],
    ),
    Fact(
        "whose clock ends a lease",
        ("its process's", "the machine's", "the server's", "the server's"),
        [
            "tests/store/test_postgresql_claims.py::test_a_process_whose_clock_is_wrong_takes_nothing_from_one_that_lives",
            "tests/consumers/test_spreading.py::test_a_clock_that_is_set_takes_nothing_from_anybody",
        ],
    ),
    Fact(
        "`ensue copy`",
        ("no", "from and to", "from and to", "from and to"),
        ["tests/store/test_copying.py::test_a_log_goes_from_store_to_store_and_comes_back_the_same"],
    ),
    Fact(
        "`ensue verify` while it is written",
        ("in its process", "yes", "yes", "yes"),
        [
            "tests/cli/test_verify.py::test_a_log_in_memory_is_verified_by_the_same_function",
            "tests/cli/test_verify.py::test_a_log_is_verified_while_an_application_writes_to_it",
            "tests/store/test_postgresql_verify.py::test_a_position_whose_commit_failed_is_told_and_is_no_finding_where_many_write",
        ],
    ),
)  # fmt: skip


def fact_tests() -> list[str]:
    """Every test that is named beside the contract."""
    return [test for fact in FACTS for test in fact.tests]


def collected() -> Counter[str]:
    """The tests of the contracts, by their ids, as if each had passed once."""
    return Counter(
        f"{_file(held)}::{held.__name__}::{name}"
        for held in _held_classes()
        for name in dir(held)
        if name.startswith("test_")
    )


def _held_classes() -> list[type[object]]:
    """The test classes that hold the backends and the brokers to their contracts."""
    backends: list[type[object]] = [held for backend in BACKENDS for held in backend.held]
    return backends + [held for kind in channel_tables.BROKERS for held in kind.held]


def generated(passed: Mapping[str, int]) -> str:
    """The part, if these tests have passed."""
    lines = [
        _row("", *(backend.title for backend in BACKENDS)),
        _row(*["---"] * (1 + len(BACKENDS))),
        _row("its URL", *(f"`{backend.url}`" for backend in BACKENDS)),
    ]
    assert {name for name, _ in DECLARED} == set(Capabilities.__struct_fields__), "a capability without its line"
    declared: list[Capabilities] = [open_store(backend.url).capabilities for backend in BACKENDS]
    lines += [_row(f"`{name}`: {what}", *(_yes(getattr(one, name)) for one in declared)) for name, what in DECLARED]
    lines += [_row(fact.what, *fact.each) for fact in FACTS]
    lines += [_row(f"contract: {title}", *(_held(one, kind, passed) for one in BACKENDS)) for title, kind in CONTRACTS]
    lines += ["", "What stands there in words is held by these:", ""]
    lines += [f"- {fact.what}: {', '.join(f'`{test}`' for test in fact.tests)}" for fact in FACTS]
    return "\n".join(lines)


def with_generated(page: str, part: str) -> str:
    """The page with this part in the place of the one it has."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{PAGE.name} has no place for what is generated"
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def _held(backend: Backend, contract: type[object], passed: Mapping[str, int]) -> str:
    """How many of the contract's tests passed for it, of how many."""
    ids = [
        f"{_file(held)}::{held.__name__}::{name}"
        for held in backend.held
        if issubclass(held, contract)
        for name in vars(contract)
        if name.startswith("test_")
    ]
    good = sum(passed.get(id, 0) for id in ids)
    return "–" if not ids else f"{good} passed" if good == len(ids) else f"**{good} of {len(ids)} passed**"


def _file(held: type[object]) -> str:
    return f"{held.__module__.replace('.', '/')}.py"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


class _Results:
    """Of a run: what passed."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed[report.nodeid] += 1


def main() -> int:
    """Run what is named, and write the pages if all of it passed; the exit code of the run."""
    results = _Results()
    classes = [f"{_file(held)}::{held.__name__}" for held in _held_classes()]
    code = pytest.main(["-q", "-n2", "--dist=worksteal", *classes, *fact_tests()], plugins=[results])
    if code == pytest.ExitCode.OK:
        PAGE.write_text(with_generated(PAGE.read_text(), generated(results.passed)))
        channel_tables.CHANNELS.write_text(channel_tables.written(results.passed, channel_tables.found_on_servers()))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
