"""The program as a whole: its help, its documentation, its exit codes, and how it behaves on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

import ensue
from ensue.cli import dead_letters
from ensue.cli.consumers import _Owned, _Shown
from ensue.cli.facts import EventFacts
from ensue.cli.handled import Handled
from ensue.cli.program import COMMANDS
from ensue.cli.program import ensue as program
from ensue.cli.trace import _Trace
from ensue.consumers.verify import Finding, Verification
from tests.cli.conftest import Ensue, Sql

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "command_line.md"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand, by what is typed."""
    context = click.Context(program, info_name="ensue")
    yield "", program
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", subcommand) for inner, subcommand in command.commands.items())


NAMES = [name for name, _ in commands()]
OURS = [name for name in NAMES if name and not name.startswith("demo")]


def command(name: str) -> click.Command:
    return dict(commands())[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_help_shows_an_example(ensue_: Ensue, name: str) -> None:
    result = ensue_(*name.split(), "--help")
    assert result.exit_code == 0
    assert f"$ ensue {name}".rstrip() in result.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_list_of_commands_says_of_each_what_is_documented(name: str) -> None:
    assert COMMANDS[name][1].endswith(".")
    assert f"`ensue {name}" in DOCUMENTATION.read_text()


def section(name: str) -> str:
    """The part of the documentation about a command."""
    parts = re.split(r"^## ensue ([a-z-]+)$", DOCUMENTATION.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[name.split()[0]]


@pytest.mark.parametrize("name", OURS)
def test_every_option_and_argument_is_documented_with_its_command(name: str) -> None:
    text = section(name)
    if " " in name:
        assert re.search(rf"`{name.split()[1]}(`| [A-Z])", text), name
    for parameter in command(name).params:
        names = (
            parameter.opts if isinstance(parameter, click.Option) else [parameter.make_metavar(click.Context(program))]
        )
        for option in names:
            assert option.strip("[]") in text, option


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in OURS}))
def test_every_documented_option_exists(name: str) -> None:
    known = {option for other in OURS if other.split()[0] == name for p in command(other).params for option in p.opts}
    documented = set(re.findall(r"`(--[a-z-]+)", section(name)))
    assert documented <= known | {"--help"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("log", EventFacts),
        ("trace", Handled),
        ("trace", _Trace),
        ("consumers", _Shown),
        ("consumers", _Owned),
        ("dead-letters", dead_letters._Whole),
        ("verify", Verification),
        ("verify", Finding),
    ],
)
def test_every_field_of_the_json_is_documented(name: str, shape: type[msgspec.Struct]) -> None:
    text = section(name)
    assert [field for field in shape.__struct_fields__ if f"`{field}`" not in text and f"`{field}" not in text] == []


def test_the_exit_codes_are_documented() -> None:
    assert re.findall(r"^\| (\d+) \|", DOCUMENTATION.read_text(), flags=re.MULTILINE) == ["0", "1", "2", "3", "130"]


def test_the_version_is_that_of_the_package(ensue_: Ensue) -> None:
    from importlib.metadata import version

    assert ensue_("--version").stdout == f"ensue {version(ensue.__name__)}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("lgo",), "ensue: No such command 'lgo'"),
        (("log", "--lst", "3"), "ensue log: No such option '--lst'"),
        (("trace",), "ensue trace: Missing argument 'ID'. See `ensue trace --help`."),
        (("log", "--last", "none"), "ensue log: Invalid value for '--last'"),
        (("dead-letters", "show", "x"), "ensue dead-letters show: Invalid value for 'ID'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_two(ensue_: Ensue, words: tuple[str, ...], said: str) -> None:
    result = ensue_(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_without_a_command_the_help_goes_to_stderr_and_it_is_wrong_usage(ensue_: Ensue) -> None:
    result = ensue_()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_a_log_of_a_newer_version_cannot_be_opened(log_file: Path, ensue_: Ensue, sql: Sql) -> None:
    sql("PRAGMA user_version = 99")
    result = ensue_("log")
    assert result.exit_code == 3
    assert "made by a newer Ensue" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_needs_neither_a_database_nor_a_drawing_library() -> None:
    """What makes `ensue --help` quick, without a stopwatch."""
    program = (
        "import sys\n"
        "from ensue.cli.program import ensue\n"
        "try:\n    ensue.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('apsw', 'rich', 'ensue.store.sqlite', 'ensue.cli.log') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------------------------------- a terminal


def on_a_terminal(*words: str, width: int = 80, **environment: str) -> str:
    """What the program writes to a terminal of this width."""
    ours, its = pty.openpty()
    variables = {**os.environ, "COLUMNS": str(width), "TERM": "xterm-256color", **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "ensue.cli", *words], stdin=its, stdout=its, stderr=its, env=variables
    ) as process:
        os.close(its)
        seen = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # how a terminal ends on Linux
                break
            if not read:
                break
            seen += read
        process.wait(timeout=20)
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


@pytest.mark.parametrize("words", [("log",), ("trace", "4"), ("consumers",), ("dead-letters",)], ids=" ".join)
@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_gets_colours_and_no_line_wider_than_it_is(
    log_file: Path, words: tuple[str, ...], width: int
) -> None:
    seen = on_a_terminal(*words, width=width)
    assert "\x1b[" in seen
    wide = [line for line in plain(seen).splitlines() if len(line) > width and not line.startswith("No running")]
    assert wide == []


def test_no_color_is_respected_on_a_terminal(log_file: Path) -> None:
    for words in (("log",), ("trace", "4"), ("consumers",), ("dead-letters",)):
        assert "\x1b[" not in on_a_terminal(*words, NO_COLOR="1")


def test_progress_is_shown_on_a_terminal_and_gone_at_the_end(log_file: Path) -> None:
    seen = on_a_terminal("verify")
    assert "verifying ████████████████████ 100 %  15 of 15" in seen
    assert (
        seen.split("\r\x1b[K")[-1]
        == "\x1b[32mwhole\x1b[0m: 15 events, 2 consumers, 1 open dead letter checked, nothing found\n"
    )


def test_a_terminal_that_knows_no_umlauts_ends_no_command(log_file: Path) -> None:
    command = [sys.executable, "-m", "ensue.cli", "trace", "4"]
    variables = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    assert "?? take_payment parked" in ended.stdout
