"""`ensue demo shop --services`: what is wrong is said before anything is started, and waiting for a broker can be ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.bakery import says
from tests.cli.conftest import Ensue, Start
from tests.servers.postgresql import reserved_port

SERVICES = ("demo", "shop", "--services", "--seconds", "1", "--channel")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host", "no broker for the URL"),
        ("memory:", "joins nothing"),
        ("redis://host?foo=1", "there is no parameter 'foo'"),
        ("redis://shop:ses@ame@host", "cannot be read in one way"),
    ],
)
def test_a_channel_that_cannot_join_services_is_refused_before_anything_is_made(
    url: str, said: str, folder: Path, ensue_: Ensue
) -> None:
    result = ensue_(*SERVICES, url, "--folder", "shop")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (folder / "shop").exists()


def test_a_folder_that_cannot_be_used_is_told(folder: Path, ensue_: Ensue) -> None:
    (folder / "file").touch()
    result = ensue_(*SERVICES, "sqlite:///channels.db", "--folder", "file/shop")
    assert result.exit_code == 2
    assert "--folder file/shop cannot be used: Not a directory" in result.stderr


def test_services_without_a_channel_are_told_what_is_missing(folder: Path, ensue_: Ensue) -> None:
    result = ensue_("demo", "shop", "--services")
    assert result.exit_code == 2
    assert "--services needs --channel" in result.stderr


def test_an_interrupt_ends_the_wait_for_a_broker_that_is_away(folder: Path, start: Start) -> None:
    with reserved_port() as port:
        url = f"redis://127.0.0.1:{port.getsockname()[1]}"
        process = start(*SERVICES, url, "--folder", "shop")
        assert process.stdout is not None
        assert process.stdout.readline() == f"Starting five services on {url}\n"
        process.send_signal(signal.SIGINT)
        says(process, "stopped before the services ran")
        assert process.wait(timeout=15) == 130
