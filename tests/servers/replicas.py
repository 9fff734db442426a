"""Two servers of which one takes over from the other and has all that was acknowledged."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from tests.servers.postgresql import PostgresServer
from tests.servers.processes import until

__all__ = ["replicated"]


@contextmanager
def replicated(primary: PostgresServer) -> Generator[tuple[PostgresServer, str], None, None]:
    """A replica of the primary, which acknowledges nothing that the replica has not got; and the URL that names both."""
    replica = primary.replica()
    try:
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            question = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            until(lambda: connection.execute(question).fetchone() == (1,), "the replica was to be waited for")
        yield replica, primary.url().replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{replica.port}/")
    finally:
        replica.close()
