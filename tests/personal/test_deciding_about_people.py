"""States, commands and their answers, where events hold personal data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from ensue import FORGOTTEN, App, Command, Decided, Event, Forgotten, Personal, Query, State
from ensue.errors import AlreadyForgotten, InvalidEvent

EMAIL = "ada.lovelace@example.com"


class CustomerJoined(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    email: Personal[str]


class LetterSent(Event, key="customer_id", subject="customer_id"):
    customer_id: str
    to: Personal[str]


class Customer(State, key="customer_id"):
    email: str | Forgotten = ""
    letters: int = 0

    def evolve(self, event: CustomerJoined | LetterSent) -> Self:
        if isinstance(event, CustomerJoined):
            self.email = event.email
        else:
            self.letters += 1
        return self


class Join(Command[CustomerJoined]):
    customer_id: str
    email: str


class SendLetter(Command[LetterSent]):
    customer_id: str


class EmailOf(Query[str]):
    customer_id: str


class Contact(msgspec.Struct):
    email: Personal[str]


class Tell(Command[Contact]):
    customer_id: str


def application(tmp_path: Path) -> App:
    app = App("people", url=f"sqlite:///{tmp_path / 'people.db'}")

    @app.command
    def join(command: Join, customer: Customer) -> CustomerJoined:
        return CustomerJoined(customer_id=command.customer_id, email=command.email)

    @app.command
    def send(command: SendLetter, customer: Customer) -> LetterSent:
        return LetterSent(customer_id=command.customer_id, to=customer.email)

    @app.command
    def tell(command: Tell, customer: Customer) -> Decided[Contact]:
        return Decided((), result=Contact(email=customer.email))

    @app.query
    def email_of(query: EmailOf, customer: Customer) -> str:
        return str(customer.email)

    return app


class _Meanwhile:
    """A log of which something else happens while a page of it is on its way."""

    def __init__(self, log: Any, then: Callable[[], None]) -> None:
        self._log = log
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(self, *given: Any, **asked: Any) -> Any:
        page = await self._log.read(*given, **asked)
        self._then()
        return page


def in_files(folder: Path, text: str) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file() and text.encode() in file.read_bytes())


def test_a_state_that_is_remembered_forgets_and_decisions_go_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(tmp_path).connected() as app, application(tmp_path).connected() as other:
            await app.send(Join(customer_id="c1", email=EMAIL), idempotency_key="join")
            assert (await app.send(SendLetter(customer_id="c1"))).result.to == EMAIL
            assert await other.ask(EmailOf(customer_id="c1")) == EMAIL
            await app.forget("customer_id", "c1")
            assert await app.ask(EmailOf(customer_id="c1")) == "forgotten"
            assert (await app.send(SendLetter(customer_id="c1"))).result.to == FORGOTTEN
            shown = await other.ask(EmailOf(customer_id="c1"))
            async with asyncio.timeout(10):
                while shown != "forgotten":
                    await asyncio.sleep(0)
                    shown = await other.ask(EmailOf(customer_id="c1"))
            with pytest.raises(AlreadyForgotten):
                await app.send(Join(customer_id="c1", email=EMAIL))
            assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())


def test_a_state_that_was_being_loaded_while_somebody_was_forgotten_is_not_remembered(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(tmp_path).connected() as app:
            await app.send(Join(customer_id="c1", email=EMAIL))
            states = app._open_engine().domain.states
            states.forget()
            log: Any = states._log
            meanwhile: Any = _Meanwhile(log, states.forget)
            states._log = meanwhile
            assert await app.ask(EmailOf(customer_id="c1")) == EMAIL
            assert len(states.memory) == 0
            states._log = log
            await app.forget("customer_id", "c1")
            assert await app.ask(EmailOf(customer_id="c1")) == "forgotten"
            assert (await app.send(SendLetter(customer_id="c1"))).result.to == FORGOTTEN

    asyncio.run(run())


def test_states_with_personal_data_in_them_have_no_snapshots(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(tmp_path).connected() as app:
            await app.publish(
                CustomerJoined(customer_id="c1", email=EMAIL),
                *(LetterSent(customer_id="c1", to=EMAIL) for _ in range(300)),
            )
            assert await app.ask(EmailOf(customer_id="c1")) == EMAIL
            snapshots = app._open_engine().domain.snapshots
            assert snapshots is not None
            await snapshots.settle()
        assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())


def test_an_answer_with_personal_data_is_not_kept_for_repetitions(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(tmp_path).connected() as app:
            await app.send(Join(customer_id="c1", email=EMAIL))
            assert (await app.send(Tell(customer_id="c1"))).result == Contact(email=EMAIL)
            with pytest.raises(InvalidEvent, match="in plain for repetitions"):
                await app.send(Tell(customer_id="c1"), idempotency_key="k")
            assert in_files(tmp_path, EMAIL) == []

    asyncio.run(run())


def test_a_command_with_a_key_has_the_same_answer_again_until_its_subject_is_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        async with application(tmp_path).connected() as app:
            command = Join(customer_id="c1", email=EMAIL)
            first = await app.send(command, idempotency_key="k")
            again = await app.send(command, idempotency_key="k")
            assert (again.result, again.replayed) == (first.result, True)
            await app.forget("customer_id", "c1")
            with pytest.raises(AlreadyForgotten):
                await app.send(command, idempotency_key="k")

    asyncio.run(run())
