"""Runs a server for as long as the process that started it: `python -m tests.servers.guard USER FOLDER SIGNAL COMMAND...`

Standard input is a pipe whose other end that process holds. The kernel closes it for whoever dies, however that happens; then
the server is ended and its folder removed.

The first line of output is the process id of the server. USER is `-` for whoever runs this; SIGNAL is the number of the one
that ends the server at once.
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


def run(user: str, folder: Path, ending: signal.Signals, command: list[str]) -> int:
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
        preexec_fn=partial(die_with_parent, ending),  # should somebody kill the guard
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
            _end(server, ending)
            shutil.rmtree(folder, ignore_errors=True)
    return server.returncode


def _end(server: subprocess.Popen[bytes], ending: signal.Signals) -> None:
    """At once, but with its children and what it shares with them."""
    server.send_signal(ending)
    try:
        server.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        kill_family(server.pid)
        server.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    _, its_user, its_folder, its_ending, *its_command = sys.argv
    sys.exit(run(its_user, Path(its_folder), signal.Signals(int(its_ending)), its_command))
