"""Settings: code first, then the environment, then the defaults; and URLs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ensue import App
from ensue.app import Settings
from ensue.app.urls import log_exists, open_store, shown
from ensue.errors import DefinitionError, EnsueError, InvalidEvent, WiringError
from tests.app.orders import OrderPlaced, placed


def test_without_a_word_the_log_is_a_file_with_the_name_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENSUE_URL", "ENSUE_DRAIN_SECONDS", "ENSUE_PAYLOAD_BYTES"):
        monkeypatch.delenv(name, raising=False)
    assert App("shop").settings == Settings(url="sqlite:///shop.db", drain_seconds=30.0, payload_bytes=1_048_576)


def test_the_environment_says_what_the_code_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_URL", "memory:")
    monkeypatch.setenv("ENSUE_DRAIN_SECONDS", "1.5")
    monkeypatch.setenv("ENSUE_PAYLOAD_BYTES", "2000")
    assert App("shop").settings == Settings(url="memory:", drain_seconds=1.5, payload_bytes=2000)


def test_the_code_wins_over_the_environment_for_what_it_says_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_URL", "memory:")
    monkeypatch.setenv("ENSUE_DRAIN_SECONDS", "1.5")
    monkeypatch.setenv("ENSUE_PAYLOAD_BYTES", "2000")
    app = App("shop", url="sqlite:///other.db", drain_seconds=0)
    assert app.settings == Settings(url="sqlite:///other.db", drain_seconds=0, payload_bytes=2000)


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENSUE_URL", "ENSUE_DRAIN_SECONDS", "ENSUE_PAYLOAD_BYTES"):
        monkeypatch.setenv(name, "")
    assert App("shop").settings == Settings(url="sqlite:///shop.db")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ENSUE_DRAIN_SECONDS", "soon", "ENSUE_DRAIN_SECONDS='soon' in the environment is not a number"),
        ("ENSUE_DRAIN_SECONDS", "-1", r"drain_seconds \(ENSUE_DRAIN_SECONDS\) is -1.0; .* 0 or more"),
        ("ENSUE_DRAIN_SECONDS", "nan", "drain_seconds .* is nan"),
        ("ENSUE_DRAIN_SECONDS", "inf", "drain_seconds .* is inf"),
        ("ENSUE_PAYLOAD_BYTES", "1MB", "ENSUE_PAYLOAD_BYTES='1MB' in the environment is not a whole number"),
        ("ENSUE_PAYLOAD_BYTES", "1.5", "is not a whole number"),
        ("ENSUE_PAYLOAD_BYTES", "0", r"payload_bytes \(ENSUE_PAYLOAD_BYTES\) is 0; .* 1 or more"),
    ],
)
def test_a_bad_value_in_the_environment_is_told_when_the_app_opens(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    async def run() -> None:
        async with App("shop", url="memory:"):
            pass

    with pytest.raises(DefinitionError, match=says):
        asyncio.run(run())


@pytest.mark.parametrize("setting", [{"drain_seconds": -1}, {"payload_bytes": 0}, {"payload_bytes": 1.5}])
def test_a_bad_value_in_the_code_is_told(setting: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=f"shop: {next(iter(setting))}"):
        App("shop", **setting).settings


def test_the_limit_of_payloads_holds(url: str) -> None:
    app = App("shop", url=url, payload_bytes=100)

    async def run() -> None:
        async with app:
            await app.publish(placed())
            with pytest.raises(InvalidEvent, match="the limit is 100"):
                await app.publish(OrderPlaced(order_id="x" * 100))

    asyncio.run(run())


def test_a_relative_url_is_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENSUE_URL", raising=False)

    async def run() -> None:
        async with App("shop"):
            pass

    asyncio.run(run())
    assert (tmp_path / "shop.db").exists()
    assert log_exists("sqlite:///shop.db")
    assert not log_exists("sqlite:///other.db")
    assert not log_exists("memory:")


def test_odd_characters_of_a_file_name_are_written_as_in_any_url(tmp_path: Path) -> None:
    async def run() -> None:
        async with App("shop", url=f"sqlite:///{tmp_path}/a%3Fb%23c%20d.db"):
            pass

    asyncio.run(run())
    assert (tmp_path / "a?b#c d.db").exists()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("shop.db", "with a scheme it is a file: sqlite:///shop.db"),
        ("sqlite://shop.db", "is not of the form sqlite:///file.db"),
        ("sqlite:", "is not of the form"),
        ("sqlite:///", "is not of the form"),
        ("sqlite:///shop.db?mode=ro", "write [?] as %3F"),
        ("sqlite:///shop.db#1", "# as %23"),
        ("sqlite:///shop%00.db", "is not of the form"),
        ("sqlite:///:memory:", "the log in memory is called memory:"),
        ("mysql://host/shop", "no store for the URL mysql://host/shop"),
        ("postgresql+psycopg://host/shop", "no driver is named: postgresql://…"),
        ("sqlite://[::1/shop.db", "the URL of the log cannot be read"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_with_what_to_write(url: str, says: str) -> None:
    with pytest.raises(WiringError, match=says):
        open_store(url)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with App("shop", url=f"sqlite:///{tmp_path}/missing/shop.db"):
            pass

    with pytest.raises(EnsueError, match=f"{tmp_path}/missing"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ann:s3cret@host/shop",
        "mysql://ann:p%40s3cret@host:5432/shop?sslmode=require",
        "mysql://:s3cret@host/shop",
        "mysql://host/shop?password=s3cret&sslmode=require",
        "sqlite://ann:s3cret@/shop.db",
        "mysql://ann:s3@cret@host/shop",
        "mysql://ann:s3cret@[host/shop",
    ],
)
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(WiringError) as caught:
        open_store(url)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_settings_that_are_printed_show_no_password() -> None:
    settings = App("shop", url="postgresql://ann:s3cret@host/shop").settings
    assert settings.url == "postgresql://ann:s3cret@host/shop"
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)


def test_a_url_is_shown_with_all_that_is_no_secret() -> None:
    assert (
        shown("postgresql://ann:s3cret@host:5432/shop?sslmode=require") == "postgresql://ann:…@host:5432/shop?sslmode=…"
    )
    assert shown("sqlite:///shop.db") == "sqlite:///shop.db"
    assert shown("sqlite:////tmp/shop.db") == "sqlite:////tmp/shop.db"
