"""How a log in PostgreSQL is reached: TLS, parameters, passwords that nobody sees, servers that will not do."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from click.testing import CliRunner

import ensue.cli.program
from ensue import App
from ensue.app.urls import open_store, shown
from ensue.errors import EnsueError, Unavailable, WiringError
from ensue.events.stored import Draft
from ensue.store.base import Consumer, Node, Request, SqlTransaction
from ensue.store.postgresql.session import Session
from ensue.testing.contracts.bench import key_of
from tests.servers.postgresql import PostgresAddress, PostgresServer, new_role
from tests.store.logs import WORLD
from tests.store.postgresql_logs import append, opened, opened_many, rows_of, sql, told
from tests.store.test_postgresql_roles import everything

SECRET = "geheim{}wort"
PIECES = ("geheim", "wort")


def opening(url: str, *, read_only: bool = False) -> EnsueError | None:
    """What is raised when it is opened."""

    async def story() -> EnsueError | None:
        try:
            async with opened(url, read_only=read_only):
                return None
        except EnsueError as error:
            return error

    return told(story)


def everything_said(error: BaseException | None) -> str:
    """All texts of an error, of its causes, and of what they came from, shown or not."""
    said: list[str] = []
    while error is not None:
        said += [str(error), repr(error), repr(error.args), *map(str, getattr(error, "__notes__", ()))]
        said += traceback.format_exception(error, chain=False)
        error = error.__cause__ or error.__context__
    return "\n".join(line for line in said if not line.lstrip().startswith("File "))


# ------------------------------------------------------------------------------------------------------------ parameters


def test_a_database_named_by_the_environment_alone_is_reached(
    postgresql: PostgresAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(new_role(postgresql.url(), password="a secret"))
    for name, value in (
        ("PGHOST", "127.0.0.1"), ("PGPORT", str(parts.port)), ("PGUSER", parts.username), ("PGPASSWORD", "a secret"),
        ("PGDATABASE", "postgres"), ("PGAPPNAME", "till 7"),
    ):  # fmt: skip
        monkeypatch.setenv(name, str(value))

    async def story() -> None:
        async with opened("postgresql:///") as store:
            assert (await append(store, b"{}")).first == 1
            assert store.query("SELECT current_setting('application_name'), current_user") == [
                ("till 7", parts.username)
            ]

    told(story)


def test_a_service_file_says_all_that_the_url_does_not(
    postgresql: PostgresAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(new_role(postgresql.url(), password="secret"))
    (tmp_path / "services").write_text(
        f"[shop]\nhost=127.0.0.1\nport={parts.port}\nuser={parts.username}\npassword=secret\ndbname=postgres\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert opening("postgresql:///?service=shop") is None
    assert "definition of service" in str(opening("postgresql:///?service=unknown"))


def test_a_session_is_known_by_the_name_of_the_library_or_by_the_one_of_the_url(postgresql_url: str) -> None:
    async def story() -> None:
        for url, name in ((postgresql_url, "ensue"), (f"{postgresql_url}&application_name=till", "till")):
            async with opened(url) as store:
                assert store.query("SELECT current_setting('application_name')") == [(name,)]

    told(story)


@pytest.mark.parametrize(
    ("set_to", "then"), [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
def test_a_commit_is_durable_on_a_server_that_was_told_to_be_quick(
    postgresql: PostgresAddress, set_to: str, then: str
) -> None:
    url = new_role(postgresql.url())
    sql(url, f"ALTER ROLE CURRENT_USER SET synchronous_commit = {set_to}")
    found: list[object] = []

    def look(transaction: SqlTransaction) -> Sequence[Draft]:
        found.extend(transaction.execute("SELECT current_setting('synchronous_commit')")[0])
        return ()

    async def story() -> None:
        async with opened(url) as store:
            await store.write(Request(apply=(look,)))

    told(story)
    assert found == [then]


# -------------------------------------------------------------------------------------------------------------- passwords


@pytest.fixture
def guarded(postgresql: PostgresAddress) -> str:
    """A role whose password is known when it is seen."""
    return new_role(postgresql.url(), password=SECRET.format("-"))


def say_nothing_of_it(text: str) -> None:
    assert not [piece for piece in PIECES if piece in text], text


def test_the_right_password_is_seen_nowhere(guarded: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        async with opened(guarded) as store:
            await append(store, b"{}")
            activity = store.query("SELECT application_name, query, usename FROM pg_stat_activity")
            known = [store, vars(store), store._server, store._desk, store._query, store._writer]
            say_nothing_of_it(f"{activity} {known!r}")

    told(story)
    say_nothing_of_it(caplog.text)
    app = App("shop", url=guarded)
    say_nothing_of_it(f"{app!r} {app.settings!r} {shown(guarded)}")


WRONG: dict[str, Callable[[str], str]] = {
    "a wrong password": lambda url: url.replace("geheim-wort", "geheim+wort"),
    "a wrong user": lambda url: url.replace("//test_", "//nobody_"),
    "no such database": lambda url: url.replace("/postgres", "/nowhere"),
    "no server there": lambda url: urlunsplit(urlsplit(url)._replace(netloc="u:geheim-wort@127.0.0.1:1")),
    "no such host": lambda url: urlunsplit(urlsplit(url)._replace(netloc="u:geheim-wort@nowhere.invalid:1")),
    "a password as parameter": lambda _: "postgresql://u@127.0.0.1:1/d?password=geheim-wort",
    "a key that is protected": lambda _: "postgresql://u@127.0.0.1:1/d?sslpassword=geheim-wort&sslmode=require",
    "an unknown parameter": lambda url: f"{url}?password2=geheim-wort",
    "a port that is none": lambda _: "postgresql://u:geheim-wort@127.0.0.1:99999/d",
    "no host": lambda _: "postgresql://u:geheim-wort",
    "a password for a port": lambda _: "postgresql://host:geheim-wort/d",
    "many writers, misspelt": lambda url: f"{url}?ensue_writers=more",
}  # fmt: skip
UNESCAPED = "/?#@ %[]:&=+,;'\"\\\n\u2100"


def unescaped(character: str) -> Callable[[str], str]:
    return lambda _: f"postgresql://u:geheim{character}wort@127.0.0.1:1/d"


WRONG.update({f"{character!r} in the password": unescaped(character) for character in UNESCAPED})


@pytest.mark.parametrize("wrong", WRONG)
def test_no_error_shows_a_password(
    guarded: str, wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    url = WRONG[wrong](guarded)
    error = opening(url)
    assert error is not None
    say_nothing_of_it(everything_said(error))
    say_nothing_of_it(caplog.text)
    say_nothing_of_it(shown(url))
    for command in (["log"], ["db", "upgrade"]):
        result = CliRunner().invoke(ensue.cli.program.ensue, [*command, "--url", url])
        assert result.exit_code in (2, 3), result.output
        say_nothing_of_it(result.output + result.stderr)


def test_a_wrong_password_of_the_environment_is_not_shown(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "geheim+wort")
    error = opening(guarded.replace(f":{quote(SECRET.format('-'))}@", "@"))
    assert isinstance(error, Unavailable) and "refused the role or its password" in str(error)
    say_nothing_of_it(everything_said(error))


def test_no_url_of_another_scheme_shows_one_either() -> None:
    for character in UNESCAPED:
        for scheme in ("mysql", "sqlite", "postgresqls"):
            url = f"{scheme}://u:geheim{character}wort@host/d"
            say_nothing_of_it(shown(url))
            with pytest.raises(WiringError) as refused:
                open_store(url)
            say_nothing_of_it(everything_said(refused.value))


# -------------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def safe(postgresql_installed: None) -> Iterator[PostgresServer]:
    """A server that lets some roles in by TLS only."""
    with PostgresServer(durable=False, tls=True, access=["hostnossl all +careful all reject"]) as server:
        sql(server.url(), "CREATE ROLE careful")
        yield server


def test_a_server_is_spoken_to_by_tls_where_its_name_and_certificate_are_right(safe: PostgresServer) -> None:
    async def story() -> None:
        url = safe.url(sslmode="verify-full", sslrootcert=str(safe.certificate))
        async with opened(url) as store:
            await append(store, b"{}")
            secure = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'ensue' "
            assert store.query(f"{secure} AND ssl") == [(3,)]
            assert store.query(f"{secure} AND NOT ssl") == [(0,)]

    told(story)


def test_a_server_of_another_name_is_refused(safe: PostgresServer) -> None:
    url = safe.url(sslmode="verify-full", sslrootcert=str(safe.certificate), hostaddr="127.0.0.1")
    error = opening(url.replace("@127.0.0.1", "@db.example.com"))
    assert isinstance(error, Unavailable)
    assert "the server is not who the URL says" in str(error)
    assert "db.example.com" in str(error)


def certificate(folder: Path) -> Path:
    """Of somebody else, for the same name."""
    made = folder / "another.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=ensue-test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key"), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


def test_a_server_with_a_certificate_of_another_authority_is_refused(safe: PostgresServer, tmp_path: Path) -> None:
    another = certificate(tmp_path)
    error = opening(safe.url(sslmode="verify-full", sslrootcert=str(another)))
    assert isinstance(error, Unavailable)
    assert "its certificate is of an authority that sslrootcert does not name" in str(error)


def test_an_authority_that_is_not_there_is_named(safe: PostgresServer, tmp_path: Path) -> None:
    error = opening(safe.url(sslmode="verify-full", sslrootcert=str(tmp_path / "none.crt")))
    assert isinstance(error, Unavailable)
    assert "none.crt" in str(error)


def test_a_role_that_must_come_by_tls_is_told_so(safe: PostgresServer) -> None:
    url = new_role(safe.url())
    sql(safe.url(), f"GRANT careful TO {urlsplit(url).username}")
    assert opening(f"{url}?sslmode=require") is None
    error = opening(f"{url}?sslmode=disable")
    assert isinstance(error, Unavailable)
    assert "the server lets this role not in from here, or not without TLS" in str(error)


def test_a_server_without_tls_is_told_from_one_that_is_not_there(postgresql: PostgresAddress) -> None:
    error = opening(postgresql.url(sslmode="require"))
    assert isinstance(error, Unavailable)
    assert "the server does not speak TLS" in str(error)


# ---------------------------------------------------------------------------------------------------- servers that will not do


def test_a_server_that_is_too_old_is_refused_before_anything_is_written(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "version", property(lambda session: 140_009))
    error = opening(postgresql_url)
    assert isinstance(error, WiringError)
    assert "is PostgreSQL 14; a log needs 15 or later" in str(error)
    assert sql(postgresql_url, "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace") == [
        (0,)
    ]


def test_a_replica_is_refused_as_a_place_to_write_and_can_be_read(postgresql_installed: None) -> None:
    with PostgresServer(durable=False) as primary:

        async def write() -> None:
            async with opened(primary.url()) as store:
                await append(store, b"{}")

        told(write)
        replica = primary.replica()
        try:
            replica.catch_up()
            error = opening(replica.url())
            assert isinstance(error, Unavailable)
            assert "no server that the URL names takes writes: a replica" in str(error)

            async def read() -> None:
                async with opened(replica.url(), read_only=True) as store:
                    assert len(await rows_of(store)) == 1

            told(read)
            both = primary.url().replace(f":{primary.port}/", f":{replica.port},127.0.0.1:{primary.port}/")
            assert opening(both) is None
        finally:
            replica.close()


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
@pytest.mark.parametrize("writers", ["few", "many"])
def test_a_server_whose_transactions_are_stricter_by_default_changes_nothing(
    postgresql: PostgresAddress, level: str, writers: str
) -> None:
    url = new_role(postgresql.url())
    sql(url, f"ALTER ROLE CURRENT_USER SET default_transaction_isolation = '{level}'")
    url += f"?ensue_writers={writers}"

    async def story() -> None:
        await everything(url)
        async with opened_many(url, 4) as stores:
            wanted = Consumer(id=0, name="mail", start=0, key_tag=None, segments=8, handles={"Opened": 0})
            made = await asyncio.gather(*(store.define(wanted) for store in stores))
            assert len({consumer.id for consumer in made}) == 1
            nodes = [
                Node(
                    id=bytes([n]) * 16,
                    host="elsewhere.invalid",
                    pid=n,
                    started_at=1,
                    expires_at=WORLD.now() + 9_000_000,
                )
                for n in range(1, 5)
            ]
            await asyncio.gather(*(store.beat(node) for store, node in zip(stores, nodes, strict=True)))
            claims = await asyncio.gather(
                *(
                    store.claim(made[0].id, node, now=WORLD.now(), most=2)
                    for store, node in zip(stores, nodes, strict=True)
                )
            )
            taken = [row.segment for claim in claims for row in claim.progress]
            assert len(taken) == len(set(taken))
            answered = await asyncio.gather(
                *(append(store, b"{}", key="z") for store in stores for _ in range(10)), return_exceptions=True
            )
            assert [one for one in answered if isinstance(one, BaseException)] == []
            assert [row[4] for row in await rows_of(stores[0]) if row[3] == key_of("z")] == list(range(1, 41))

    told(story)
