"""Starts workers, passes on what they write, and does what `supervision.py` decides.

Each worker is a fresh interpreter in a process group of its own, so that a Ctrl-C on a terminal reaches the supervisor alone,
which tells each worker once. A worker's lines are passed on whole, with its number in front. By a socket it says when it is
ready and how its application is; it notices by the same socket when its supervisor is gone, and drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from typing import BinaryIO, TextIO

import msgspec

from ensue.app.health import Health, HealthPart
from ensue.cli.failures import OK
from ensue.cli.output import coloured
from ensue.cli.probes import Address, Inquiry, Probes
from ensue.cli.serving import Choice
from ensue.cli.supervision import Action, Kill, Say, Start, Stop, Supervision
from ensue.cli.teller import Teller
from ensue.cli.worker import QUESTION, Assignment, Message, Ready
from ensue.world import RealWorld

__all__ = ["supervise"]

LINE_BYTES = 1024 * 1024
"""A longer line of a worker is passed on in pieces; a longer message of one is not read."""
REST_SECONDS = 1.0
"""How long what a worker wrote is awaited after its end: what it started may hold its output open."""
SPAWN_FAILED = 71
"""Stands for the exit code of a worker that the system did not start."""
_COLOURS = (b"36", b"35", b"34", b"33", b"32")
_decode = msgspec.json.Decoder(Message).decode


def supervise(choice: Choice, workers: int, address: Address | None, tell: Teller) -> None:
    """Run the application in so many workers until it is told to stop. Exits with the code that says how it ended."""

    async def run() -> tuple[int, int | None]:
        return await _Supervisor(choice, workers, tell).run(address)

    code, number = asyncio.run(run())
    if number is not None:  # as a process ends that a signal ends at once
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    if code != OK:
        sys.exit(code)


class _Process:
    """A worker while it runs: its process, and the socket to it."""

    def __init__(self, worker: int, world: RealWorld) -> None:
        self.worker = worker
        self.inquiry = Inquiry(world, self._ask)
        self.writer: asyncio.StreamWriter | None = None
        self.answer: asyncio.Future[Health] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._signal: signal.Signals | None = None

    async def _ask(self) -> Health:
        if self.writer is None:
            raise ConnectionError("it is being started")
        self.answer = asyncio.get_running_loop().create_future()
        self.writer.write(QUESTION)
        return await self.answer

    def started(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        if self._signal is not None:
            self.send(self._signal)

    def send(self, number: signal.Signals) -> None:
        """A signal; one that comes too early is sent as soon as it can be. Killed is all that the worker has started, too."""
        self._signal = number
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


class _Output:
    """Where lines go: written by a thread, because whoever reads there may have stopped to, and workers are to be watched
    nevertheless. Nobody may read there any more: that must not end the workers."""

    def __init__(self, world: RealWorld, stream: TextIO) -> None:
        self.coloured = coloured(stream)
        self._descriptor = stream.fileno()
        self._thread = world.threads(1, name="output")
        self._written: asyncio.Future[None] | None = None

    def put(self, lines: list[bytes]) -> asyncio.Future[None]:
        """Write whole lines when all that was put before is written, in one piece, so that nothing comes in between. The future
        says when."""
        written = self._written = asyncio.get_running_loop().create_future()

        def done(_: object, error: BaseException | None) -> None:
            if not written.done():
                written.set_result(None)

        self._thread.run(lambda: self._write(b"".join(line + b"\n" for line in lines)), done)
        return written

    def _write(self, data: bytes) -> None:
        # Not through Python's streams: their locks would be waited for at the exit, should this wait for ever.
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)

    async def close(self) -> None:
        """Wait until all is written, for a while."""
        if self._written is not None:
            await asyncio.wait({self._written}, timeout=REST_SECONDS)
        self._thread.close()


class _Supervisor:
    def __init__(self, choice: Choice, workers: int, tell: Teller) -> None:
        self._choice = choice
        self._tell = tell
        self._world = RealWorld()
        self._machine = Supervision(workers)
        self._processes: dict[int, _Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._output, self._errors = _Output(self._world, sys.stdout), _Output(self._world, sys.stderr)
        self._at_once: int | None = None
        """The second signal that asked for a stop."""

    async def run(self, address: Address | None) -> tuple[int, int | None]:
        """Until no worker is left; the exit code, and the signal that ended it at once, if one did."""
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int] = self._loop.create_future()
        probes = Probes(self._world, address, self._health) if address is not None else None
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            if probes is not None:
                url = await probes.open()
                self._say("dim", f"health is told at {url}/healthz and {url}/readyz")
            for number in numbers:
                self._loop.add_signal_handler(number, self._told, number)
            self._do(self._machine.begin(self._world.monotonic()))
            code = await self._end
            await asyncio.gather(*self._tasks)
            return code, self._at_once
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)
            if probes is not None:
                await probes.close()
            await asyncio.gather(self._output.close(), self._errors.close())

    def _say(self, style: str, text: str) -> None:
        self._errors.put([self._tell.worded(style, text).encode(errors="replace")])

    def _told(self, number: int) -> None:
        self._do(self._machine.stop(self._world.monotonic()))
        if self._machine.is_killing:
            self._at_once = number

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(worker):
                    process = self._processes[worker] = _Process(worker, self._world)
                    task = self._world.spawn(self._work(process), name=f"worker {worker}")
                    self._tasks.add(task)
                    task.add_done_callback(self._worked)
                case Stop(worker):
                    self._processes[worker].send(signal.SIGTERM)
                case Kill(worker):
                    self._processes[worker].send(signal.SIGKILL)
                case Say(style, text):
                    self._say(style, text)
                case _:
                    self._end.set_result(action.code)
        if self._timer is not None:
            self._timer.cancel()
        due = self._machine.next_due()
        if due is not None and not self._end.done():
            self._timer = self._world.call_later(max(0.0, due - self._world.monotonic()), self._passed)

    def _passed(self) -> None:
        self._do(self._machine.passed(self._world.monotonic()))

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._end.done():
            self._end.set_exception(error)  # a defect of ours; the workers drain when we are gone

    # ------------------------------------------------------------------------------------------------------ working

    async def _work(self, process: _Process) -> None:
        """A worker from its start to its end."""
        try:
            code = await self._run(process)
        except OSError as error:
            self._say("red", f"worker {process.worker} could not be started: {error}")
            code = SPAWN_FAILED
        del self._processes[process.worker]
        process.inquiry.close()
        self._do(self._machine.ended(process.worker, code, self._world.monotonic(), self._world.random()))

    async def _run(self, process: _Process) -> int:
        ours, its = socket.socketpair()
        streams = [(*os.pipe(), output) for output in (self._output, self._errors)]
        reader, process.writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        try:
            relays = [
                self._world.spawn(self._pass_on(process.worker, os.fdopen(end, "rb", 0), output), name="output")
                for end, _, output in streams
            ]
            try:
                started = await self._start(its.fileno(), *(end for _, end, _ in streams))
            finally:
                its.close()
                for _, end, _ in streams:
                    os.close(end)
            process.started(started)
            listening = self._world.spawn(self._listen(process, reader), name="messages")
            code = await started.wait()
            await asyncio.wait(relays, timeout=REST_SECONDS)
            for task in (*relays, listening):
                task.cancel()
            await asyncio.gather(*relays, listening, return_exceptions=True)
        finally:
            process.writer.close()
        return code

    async def _start(self, link: int, stdout: int, stderr: int) -> asyncio.subprocess.Process:
        assignment = Assignment(
            choice=self._choice,
            workers=len(self._machine.numbers),
            descriptor=link,
            tells_consumers=not self._machine.is_open,
            coloured=coloured(sys.stderr),
        )
        # The worker finds modules as this process does: with the current folder in front only where that is so here.
        safe = [] if sys.path[:1] in ([""], [os.getcwd()]) else ["-P"]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *safe,
            "-m",
            "ensue.cli.worker",
            msgspec.json.encode(assignment).decode(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(link,),
            process_group=0,
            env={"PYTHONUNBUFFERED": "1", **os.environ},  # what a handler prints is to be seen when it is printed
        )

    async def _listen(self, process: _Process, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):  # of a line that is too long nothing more is read
            while line := await reader.readline():
                message = _decode(line)
                if isinstance(message, Ready):
                    now, drain = self._world.monotonic(), message.drain_seconds
                    self._do(self._machine.ready(process.worker, now, drain_seconds=drain))
                elif process.answer is not None and not process.answer.done():
                    process.answer.set_result(message.health)

    async def _pass_on(self, worker: int, source: BinaryIO, output: _Output) -> None:
        """Whole lines, each behind the number of the worker; what follows the last line end is a line as well."""
        mark = f"[{worker}] ".encode()
        if output.coloured:
            mark = b"\x1b[%bm%b\x1b[0m" % (_COLOURS[worker % len(_COLOURS)], mark)
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
        rest = b""
        try:
            while chunk := await reader.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                await output.put([mark + line for line in lines])
        finally:
            transport.close()
            if rest:
                output.put([mark + rest])

    # ------------------------------------------------------------------------------------------------------- health

    async def _health(self) -> Health:
        """Of all workers together."""
        running = {
            worker: process.inquiry.health()
            for worker, process in self._processes.items()
            if self._machine.runs(worker)
        }
        answers = dict(zip(running, await asyncio.gather(*running.values()), strict=True))
        parts: list[HealthPart] = []
        if self._machine.is_stopping:
            parts.append(HealthPart(name="application", ok=False, said="is stopping"))
        for worker in self._machine.numbers:
            if worker not in answers:
                said = self._machine.absence(worker, self._world.monotonic())
                parts.append(HealthPart(name=f"worker {worker}", ok=False, said=said))
                continue
            for part in answers[worker].parts:
                parts.append(msgspec.structs.replace(part, name=f"worker {worker} {part.name}"))
        return Health(parts=tuple(parts))
