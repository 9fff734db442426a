"""Runs a server for as long as the process that started it: `python -m tests.servers.guard USER FOLDER COMMAND...`

Standard input is a pipe whose other end that process holds. The kernel closes it for whoever dies, however that happens; then
the server is ended and its folder removed.

The first line of output is the process id of the server. USER is `-` for whoever runs this.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.servers.processes import die_with_parent, kill_family

__all__ = ["run"]

PATIENCE_SECONDS = 10.0


def run(user: str, folder: Path, command: list[str]) -> int:
    """The exit status of the server, once it has ended."""
    account = None if user == "-" else pwd.getpwnam(user)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd="/",
        user=account and account.pw_uid,
        group=account and account.pw_gid,
        extra_groups=[] if account else None,
        preexec_fn=partial(die_with_parent, signal.SIGQUIT),  # should somebody kill the guard
    )
    try:
        print(server.pid, flush=True)
        watched = select.poll()
        watched.register(0, 0)  # nothing but that nobody holds the other end
        watched.register(os.pidfd_open(server.pid), select.POLLIN)
        while server.poll() is None:
            if any(descriptor == 0 for descriptor, _ in watched.poll()):
                break
    finally:
        if server.poll() is None:
            _end(server)
            shutil.rmtree(folder, ignore_errors=True)
    return server.returncode


def _end(server: subprocess.Popen[bytes]) -> None:
    """At once, but with its children and what it shares with them: SIGQUIT is what PostgreSQL calls immediate."""
    server.send_signal(signal.SIGQUIT)
    try:
        server.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        kill_family(server.pid)
        server.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _, its_user, its_folder, *its_command = sys.argv
    sys.exit(run(its_user, Path(its_folder), its_command))
