"""The program `ensue`: its commands, imported when they are used, and what every failure looks like.

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | the answer is no: findings, nothing under that id, somebody else was faster |
| 2 | wrong usage: the command line, the application, or no log was named |
| 3 | the log cannot be opened, read or written |
| 130 | interrupted by Ctrl-C |

A failure is one sentence on stderr that says what to do next. A traceback of Ensue itself is a defect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from ensue.cli.failures import INTERRUPTED, LOG, NEGATIVE, OK, USAGE, Negative
from ensue.errors import Conflict, EnsueError, Misuse

__all__ = ["COMMANDS", "ensue", "exit_code"]

COMMANDS = {
    "run": ("ensue.cli.run:run", "Run an application's handlers until Ctrl-C."),
    "new": ("ensue.cli.new:new", "Make a small working project."),
    "demo": ("ensue.cli.demo:demo", "Show Ensue at work."),
    "log": ("ensue.cli.log:log", "Show what happened."),
    "trace": ("ensue.cli.trace:trace", "Show what caused an event and what it caused."),
    "consumers": ("ensue.cli.consumers:consumers", "Show how far everybody is; pause, resume, retire."),
    "views": ("ensue.cli.views:views", "Show the versions of views; rebuild, pause, resume, swap, drop."),
    "channels": ("ensue.cli.channels:channels", "Show where an application's channels are, and what is there."),
    "dead-letters": ("ensue.cli.dead_letters:dead_letters", "Show what was given up; retry, edit, discard."),
    "schema": ("ensue.cli.schema:schema", "Compare event types with what is recorded."),
    "forget": ("ensue.cli.forget:forget", "Forget a person, for ever."),
    "archive": ("ensue.cli.archive:archive", "Move payloads of closed streams into files."),
    "patterns": ("ensue.cli.patterns:patterns", "Show patterns and windows, what waits, and why."),
    "backtest": ("ensue.cli.backtest:backtest", "Show what a pattern would have found in history."),
    "verify": ("ensue.cli.verify:verify", "Prove that a log is whole."),
    "db": ("ensue.cli.db:db", "Bring the tables of a log up to date."),
    "copy": ("ensue.cli.copy:copy", "Move a log to another place, where it goes on."),
}
"""Name → where it is, and its line in `ensue --help`, so that the list needs none of them."""


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command and exit. In place of click's own way, which tells errors over several lines and calls a closed
        pipe a failure."""

        def command() -> object:
            with self.make_context("ensue", list(sys.argv[1:] if args is None else args)) as context:
                return self.invoke(context)

        sys.exit(exit_code(command))


def exit_code(command: Callable[[], object]) -> int:
    """Do it; what the process exits with. A failure is told on stderr."""
    try:
        command()
        sys.stdout.flush()
        return OK
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        _tell(error)
        return USAGE
    except Negative as error:
        click.echo(f"ensue: {error}", err=True)
        return NEGATIVE
    except EnsueError as error:
        click.echo(f"ensue: {error}", err=True)
        return _code_of(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads has seen enough. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _tell(error: click.ClickException) -> None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "ensue"
    message = error.format_message()
    if isinstance(error, click.NoSuchOption | click.MissingParameter | click.BadParameter) or context is not None:
        message = f"{message.rstrip('.')}. See `{path} --help`"
    click.echo(f"{path}: {message.rstrip('.')}.", err=True)


def _code_of(error: EnsueError) -> int:
    if isinstance(error, Misuse):
        return USAGE
    return NEGATIVE if isinstance(error, Conflict) else LOG


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"ensue {version('ensue')}")
        context.exit()


@click.group(cls=_Program, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Say which version."
)
def ensue() -> None:
    """Event-driven applications on one log: run them, and see what happened and why.

    \b
    Example:
      $ ensue new bakery && cd bakery
      $ ensue run app:app
      $ ensue log

    The log is the one of --url, else of ENSUE_URL, else of the application (--app, or `app` under [tool.ensue] in
    pyproject.toml), else the one log file in the current folder.

    Exit codes: 0 done; 1 the answer is no; 2 wrong usage; 3 the log cannot be opened, read or written; 130 interrupted.
    """
