"""`ensue run --workers`, `--only`, `--except`, `--health`: real processes, that die of real signals."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ensue import App, Event
from ensue.cli.serving import Choice
from ensue.cli.worker import Assignment
from tests.cli.bakery import says
from tests.cli.conftest import Start
from tests.cli.test_program import on_a_terminal, plain
from tests.servers.postgresql import PostgresServer

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from ensue import App, Event

class Baked(Event, key="bread"):
    bread: str

class Sold(Event, key="bread"):
    bread: str

class Told(Event, key="bread"):
    bread: str

app = App("bakery")

@app.on
async def sell(baked: Baked) -> Sold:
    print("selling", baked.bread)
    while baked.bread == "slow" and not Path("go").exists():
        await asyncio.sleep(0.01)
    while baked.bread == "blocks" and not Path("go").exists():
        time.sleep(0.01)
    return Sold(bread=baked.bread)

@app.on
async def tell(sold: Sold) -> Told:
    return Told(bread=sold.bread)
"""


STOPS_ITSELF = """
import os, signal

@app.lifecycle
def stop():
    os.kill(os.getppid(), signal.SIGTERM)
    yield
"""

HOLDS_THE_IMPORT = """
import signal, threading

signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("held", flush=True)
threading.Event().wait()
"""
HOLDS_THE_EXIT = """
import threading

@app.lifecycle
def hold():
    threading.Thread(target=threading.Event().wait).start()
    print("held", flush=True)
    yield
"""


class Baked(Event, key="bread"):
    bread: str


class Sold(Event, key="bread"):
    bread: str


class Told(Event, key="bread"):
    bread: str


@pytest.fixture
def shop_folder(folder: Path) -> Path:
    (folder / "app.py").write_text(PROGRAM)
    return folder


def in_the_log(work: Callable[[App], Awaitable[Any]]) -> Any:
    """Do this with the log that the workers use, running no consumer."""

    async def run() -> Any:
        async with (
            asyncio.timeout(50),
            App("visitor", url=os.environ.get("ENSUE_URL", "sqlite:///bakery.db")).connected() as app,
        ):
            return await work(app)

    return asyncio.run(run())


def bake(*breads: str) -> None:
    async def work(app: App) -> None:
        await app.publish(*(Baked(bread=bread) for bread in breads))

    in_the_log(work)


def bake_and_sell(*breads: str) -> None:
    """And wait until all that came of it is done."""

    async def work(app: App) -> None:
        await (await app.publish(*(Baked(bread=bread) for bread in breads))).wait()

    in_the_log(work)


def sold() -> list[str]:
    async def work(app: App) -> list[str]:
        return [row.event.bread async for row in app.log.read(Sold)]

    found: list[str] = in_the_log(work)
    return found


def pids(process: subprocess.Popen[str], count: int) -> list[int]:
    """Of so many workers, when each has said that it runs."""
    found: list[int] = []
    while len(found) < count:
        found.append(int(says(process, ", pid ")[-1].rpartition(" ")[2]))
    return found


def lives(pid: int) -> bool:
    """A process that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], bool]) -> None:
    """Look again and again. Errors: `AssertionError` after half a minute."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def get(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def health_url(process: subprocess.Popen[str]) -> str:
    (found,) = re.findall(r"health is told at (\S+)/healthz", says(process, "health is told at")[-1])
    return str(found)


def reasons(answer: tuple[int, dict[str, Any]]) -> list[str]:
    return [f"{part['name']}: {part['said']}" for part in answer[1]["parts"] if not part["ok"]]


# ---------------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_a_worker_that_is_killed_is_started_again_and_the_work_goes_on(
    shop_folder: Path, start: Start, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "postgresql":
        monkeypatch.setenv("ENSUE_URL", request.getfixturevalue("postgresql_url"))
    process = start("run", "app:app", "--workers", "2")
    first, _ = pids(process, 2)
    bake_and_sell("rye")
    os.kill(first, signal.SIGKILL)
    assert "was ended by SIGKILL; it is started again in " in says(process, "worker ")[-1]
    bake_and_sell("wheat", "oat")
    (again,) = pids(process, 1)
    assert again != first
    assert sorted(sold()) == ["oat", "rye", "wheat"]


def test_a_stop_drains_every_worker_and_is_zero(shop_folder: Path, start: Start) -> None:
    process = start("run", "app:app", "--workers", "2")
    workers = pids(process, 2)
    bake("slow")
    assert process.stdout is not None
    assert re.fullmatch(r"\[[12]\] selling slow\n", process.stdout.readline())
    process.terminate()
    says(process, "stopping; handlers have 30 s to finish")
    (shop_folder / "go").touch()
    said = says(process, "stopped, nothing is half done")
    assert process.wait(timeout=20) == 0
    assert said[:-1] == []  # once, and not by each of them
    assert not any(map(lives, workers))
    assert sold() == ["slow"]


def test_a_second_interrupt_ends_the_workers_at_once(shop_folder: Path, start: Start) -> None:
    process = start("run", "app:app", "--workers", "2")
    workers = pids(process, 2)
    bake("slow")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    says(process, "stopping")
    while process.poll() is None:  # one that comes together with the first is the same
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == -signal.SIGINT
    assert not any(map(lives, workers))
    assert sold() == []


def test_who_stops_every_process_at_once_lets_them_drain(shop_folder: Path, start: Start) -> None:
    """As systemd does if it is not told otherwise: a worker then hears of it twice."""
    process = start("run", "app:app", "--workers", "2")
    workers = pids(process, 2)
    bake("slow")
    assert process.stdout is not None
    process.stdout.readline()
    for pid in (*workers, process.pid, *workers):
        os.kill(pid, signal.SIGTERM)
    says(process, "stopping")
    (shop_folder / "go").touch()
    assert process.wait(timeout=20) == 0
    assert sold() == ["slow"]


def test_no_worker_outlives_a_killed_supervisor_and_each_finishes_what_it_does(shop_folder: Path, start: Start) -> None:
    process = start("run", "app:app", "--workers", "2")
    workers = pids(process, 2)
    bake("slow")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait(timeout=20)
    (shop_folder / "go").touch()
    wait_until(lambda: not any(map(lives, workers)))
    assert sold() == ["slow"]


@pytest.mark.parametrize("holding", [HOLDS_THE_IMPORT, PROGRAM + HOLDS_THE_EXIT], ids=["import", "exit"])
def test_a_worker_that_cannot_end_is_ended_with_its_supervisor_when_its_time_is_up(
    shop_folder: Path, monkeypatch: pytest.MonkeyPatch, holding: str
) -> None:
    """Driven directly, because the time is too long for a test."""
    program = "import ensue.cli.worker as worker; worker.DRAIN_SECONDS = 0.0; worker.GRACE_SECONDS = 1.0; worker.main()"
    monkeypatch.setenv("ENSUE_DRAIN_SECONDS", "0")
    (shop_folder / "app.py").write_text(holding)
    ours, its = socket.socketpair()
    assignment = Assignment(
        choice=Choice("app:app"), workers=1, descriptor=its.fileno(), tells_consumers=True, coloured=False
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, msgspec.json.encode(assignment)],
        pass_fds=(its.fileno(),),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        its.close()
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        ours.close()
        assert process.wait(timeout=20) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (PROGRAM.replace('App("bakery")', 'App("bakery", url="memory:")'), "2 workers cannot share memory:"),
        (PROGRAM + "\n@app.on\nasync def bake(told: Told, oven: Path) -> None: ...\n", "bake needs oven: Path"),
        ("raise OSError('no flour')", "the module app raised OSError while it was imported, see above"),
        ("app = 7", "app:app is a int, not an App"),
    ],
    ids=["store", "wiring", "import", "no app"],
)
def test_what_no_restart_mends_is_told_once_and_is_the_exit_code(
    shop_folder: Path, start: Start, source: str, said: str
) -> None:
    (shop_folder / "app.py").write_text(source)
    process = start("run", "app:app", "--workers", "2")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr.count("ensue: ") == 1
    assert stderr.count(said) == 1
    assert "started again" not in stderr


def test_a_log_that_cannot_be_opened_is_told_once(shop_folder: Path, start: Start) -> None:
    (shop_folder / "bakery.db").write_text("flour, water, salt" * 100)
    process = start("run", "app:app", "--workers", "2")
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr.count("ensue: ")) == (3, 1)


def test_a_stop_while_the_first_worker_begins_is_clean(shop_folder: Path, start: Start) -> None:
    (shop_folder / "app.py").write_text("print('importing')\nimport threading\nthreading.Event().wait()\n")
    process = start("run", "app:app", "--workers", "2")
    assert process.stdout is not None
    assert process.stdout.readline() == "[1] importing\n"
    process.terminate()
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("count", ["0", "65", "many"])
def test_so_many_workers_are_none_or_too_many(shop_folder: Path, start: Start, count: str) -> None:
    process = start("run", "app:app", "--workers", count)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr.startswith("ensue run: Invalid value for '--workers'")


def test_lines_of_workers_come_out_whole_with_their_number_however_they_were_written(
    shop_folder: Path, start: Start
) -> None:
    lines = 300
    writes = f"""
import os
for number in range({lines}):
    os.write(1, b"x" * 500)
    os.write(1, b"y" * 500 + b"\\n" + b"x" * 20)
    os.write(1, b"y" * 20 + b"\\n")
os.write(1, b"the end")
"""
    (shop_folder / "app.py").write_text(PROGRAM + writes)
    process = start("run", "app:app", "--workers", "2")
    assert process.stdout is not None
    found = [process.stdout.readline().rstrip("\n") for _ in range(2 * 2 * lines)]
    process.terminate()
    found += process.communicate(timeout=30)[0].splitlines()
    assert len(found) == 2 * (2 * lines + 1)
    assert all(re.fullmatch(r"\[[12]\] (x{500}y{500}|x{20}y{20}|the end)", line) for line in found)


def test_output_that_nobody_reads_holds_up_no_supervisor(shop_folder: Path, start: Start) -> None:
    (shop_folder / "app.py").write_text(
        "import os\nos.write(1, b'x' * 200 + b'\\n')\n" + "os.write(1, b'x\\n' * 1_000_000)\n"
    )
    process = start("run", "app:app", "--workers", "1", "--health", ":0")
    url = health_url(process)
    assert process.stdout is not None
    process.stdout.read(1)  # the worker writes on, and waits at last
    status, body = get(f"{url}/readyz")
    assert (status, body["parts"][-1]["said"]) == (503, "is being loaded")
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_what_a_worker_has_started_and_left_behind_holds_up_no_restart(shop_folder: Path, start: Start) -> None:
    started = "import subprocess\nsubprocess.Popen(['sh', '-c', 'while [ ! -e go ]; do sleep 0.05; done'])\n"
    (shop_folder / "app.py").write_text(PROGRAM + started)
    process = start("run", "app:app", "--workers", "1")
    os.kill(pids(process, 1)[0], signal.SIGKILL)
    pids(process, 1)
    process.terminate()
    assert process.wait(timeout=20) == 0
    (shop_folder / "go").touch()


def test_on_a_terminal_numbers_and_lines_have_colours(shop_folder: Path) -> None:
    (shop_folder / "app.py").write_text(PROGRAM + STOPS_ITSELF)
    seen = on_a_terminal("run", "app:app", "--workers", "1")
    (line,) = [line for line in seen.splitlines() if "bakery runs 2 consumers" in line]
    assert line.startswith("\x1b[35m[1] \x1b[0m\x1b[2m")
    assert plain(line).startswith("[1] ")


def test_a_key_pressed_on_the_terminal_drains_the_workers(shop_folder: Path) -> None:
    """It goes to all processes of the terminal's foreground: that must be the supervisor alone."""
    (shop_folder / "app.py").write_text(PROGRAM.replace('print("selling", ', 'Path("begun").touch(); print('))
    on_it = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-m", "ensue.cli", "run", "app:app", "--workers", "2"]
    ours, its = pty.openpty()

    def shows(words: bytes) -> None:
        seen = b""
        while words not in seen:
            seen += os.read(ours, 65536)

    with subprocess.Popen(
        [sys.executable, "-c", on_it, *command], stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as process:
        os.close(its)
        try:
            shows(b", pid ")
            bake("slow")
            wait_until(Path("begun").exists)
            os.write(ours, b"\x03")
            shows(b"stopping")
            (shop_folder / "go").touch()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            os.close(ours)
    assert sold() == ["slow"]


# --------------------------------------------------------------------------------------------------- only and except


def test_only_the_named_consumers_run_and_another_process_runs_the_others(shop_folder: Path, start: Start) -> None:
    selling = start("run", "app:app", "--only", "se*")
    assert "bakery runs 1 of 2 consumers" in says(selling, "bakery runs")[-1]
    assert "sell  ← Baked" in says(selling, "←")[-1]
    bake("rye")
    wait_until(lambda: sold() == ["rye"])
    telling = start("run", "app:app", "--except", "sell", "--workers", "1")
    says(telling, "tell  ← Sold")
    bake_and_sell("wheat")

    async def told(app: App) -> list[str]:
        return sorted([row.event.bread async for row in app.log.read(Told)])

    assert in_the_log(told) == ["rye", "wheat"]
    selling.terminate()
    _, rest = selling.communicate(timeout=20)
    assert "tell" not in rest


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_name_that_no_consumer_has_is_wrong_usage_and_lists_them(
    shop_folder: Path, start: Start, workers: tuple[str, ...]
) -> None:
    process = start("run", "app:app", "--only", "sel", *workers)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr.count("only names 'sel', and no consumer is called so; there are: sell, tell") == 1


# ------------------------------------------------------------------------------------------------------------ health


def test_one_process_tells_its_health(shop_folder: Path, start: Start) -> None:
    url = health_url(start("run", "app:app", "--health", "127.0.0.1:0"))
    status, body = get(f"{url}/readyz")
    assert (status, body["ok"]) == (200, True)
    names = [part["name"] for part in body["parts"]]
    assert names == ["loop", "writer", "lease", "application", "store", "consumer sell", "consumer tell"]
    assert [part["name"] for part in get(f"{url}/healthz")[1]["parts"]] == ["loop", "writer"]


def test_a_handler_that_holds_the_loop_is_seen_from_outside_and_so_is_its_end(shop_folder: Path, start: Start) -> None:
    url = health_url(start("run", "app:app", "--health", ":0"))
    assert get(f"{url}/healthz")[0] == 200
    bake("blocks")
    wait_until(lambda: get(f"{url}/healthz")[0] == 503)
    assert "loop: has not answered for" in reasons(get(f"{url}/healthz"))[0]
    (shop_folder / "go").touch()
    wait_until(lambda: get(f"{url}/healthz")[0] == 200)


def test_a_supervisor_tells_of_each_of_its_workers_and_of_one_that_is_gone(shop_folder: Path, start: Start) -> None:
    process = start("run", "app:app", "--workers", "2", "--health", ":0")
    url = health_url(process)
    first, second = pids(process, 2)
    wait_until(lambda: get(f"{url}/readyz")[0] == 200)
    names = {part["name"] for part in get(f"{url}/readyz")[1]["parts"]}
    assert {f"worker {number} {part}" for number in (1, 2) for part in ("loop", "lease", "consumer sell")} <= names
    os.kill(second, signal.SIGSTOP)
    try:
        wait_until(lambda: get(f"{url}/healthz")[0] == 503)
        assert re.match(r"worker [12] loop: has not answered for ", reasons(get(f"{url}/healthz"))[0])
    finally:
        os.kill(second, signal.SIGKILL)
    wait_until(lambda: get(f"{url}/healthz")[0] == 200)  # it is being started again: that heals by itself
    wait_until(lambda: reasons(get(f"{url}/readyz")) == [])
    assert lives(first)


def test_a_server_that_is_down_is_told_and_so_is_that_it_is_back(
    shop_folder: Path, start: Start, own_postgresql: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSUE_URL", own_postgresql.url())
    url = health_url(start("run", "app:app", "--health", ":0"))
    assert get(f"{url}/readyz")[0] == 200
    own_postgresql.stop("immediate")
    wait_until(lambda: any(reason.startswith("store: ") for reason in reasons(get(f"{url}/readyz"))))
    own_postgresql.start()
    wait_until(lambda: get(f"{url}/readyz")[0] == 200)


def test_a_supervisor_answers_before_its_workers_are_ready(shop_folder: Path, start: Start) -> None:
    (shop_folder / "app.py").write_text("import threading\nthreading.Event().wait()\n")
    url = health_url(start("run", "app:app", "--workers", "2", "--health", ":0"))
    assert get(f"{url}/healthz")[0] == 200
    status, body = get(f"{url}/readyz")
    assert status == 503
    assert {"name": "worker 2", "ok": False, "said": "waits until the first one is ready"} in body["parts"]


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "workers"])
def test_with_a_token_only_who_knows_it_learns_of_the_health(
    shop_folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ENSUE_HEALTH_TOKEN", "secret")
    monkeypatch.setenv("ENSUE_HEALTH", "0.0.0.0:0")
    process = start("run", "app:app", *workers)
    url = health_url(process).replace("0.0.0.0", "127.0.0.1")
    assert get(f"{url}/healthz")[0] == 401
    assert get(f"{url}/healthz", Authorization="Bearer secret")[0] == 200


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("0.0.0.0:0", "Set ENSUE_HEALTH_TOKEN"),
        ("everywhere", "write HOST:PORT"),
        ("192.0.2.1:0", "cannot listen there"),
    ],
)
def test_an_address_that_cannot_be_is_wrong_usage_before_anything_runs(
    shop_folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch, address: str, said: str, workers: tuple[str, ...]
) -> None:
    if address.startswith("192"):
        monkeypatch.setenv("ENSUE_HEALTH_TOKEN", "secret")
    process = start("run", "app:app", "--health", address, *workers)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said in stderr
    assert "bakery runs" not in stderr
