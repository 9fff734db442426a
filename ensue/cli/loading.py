"""From `module:app` to the application: what is not there, is not one, or raises while it is imported, said plainly."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import tomllib
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import click

import ensue
from ensue.cli.failures import WrongUsage

if TYPE_CHECKING:
    from ensue.app import App
    from ensue.patterns import Pattern

__all__ = ["declared_app", "load_app", "load_pattern", "show_traceback"]


def declared_app(folder: Path) -> str | None:
    """What `app` under [tool.ensue] in the folder's pyproject.toml says. Errors: `WrongUsage` for a file that is no TOML."""
    file = folder / "pyproject.toml"
    if not file.is_file():
        return None
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file.name} cannot be read: {error}") from None
    tool: Any = tables.get("tool", {})
    declared: Any = tool.get("ensue", {}).get("app") if isinstance(tool, dict) else None
    if declared is not None and not isinstance(declared, str):
        raise WrongUsage(f'{file.name}: app under [tool.ensue] is {declared!r}; write app = "module:app"')
    return declared


def load_app(text: str) -> App:
    """The application that `module:name` names; the module is looked for in the current folder first.

    Errors: `WrongUsage`. When the module itself raises, its own part of the traceback is printed before.
    """
    from ensue.app import App

    name, attribute, module, found = _named(text, "an application", "app")
    if isinstance(found, App):
        return found
    apps = [f"{name}:{key}" for key, value in vars(module).items() if isinstance(value, App)]
    hint = f"it has {', '.join(apps)}" if apps else "it has no App at its top level"
    if found is _NOTHING:
        raise WrongUsage(f"the module {name} has no {attribute!r}; {hint}")
    kind = "a function" if callable(found) and not isinstance(found, type) else f"a {type(found).__name__}"
    raise WrongUsage(f"{text} is {kind}, not an App; {hint}")


def load_pattern(text: str) -> type[Pattern]:
    """The pattern class that `module:Name` names, looked for as an application is. Errors: as `load_app`."""
    from ensue.patterns import Join, Pattern, Window

    name, attribute, module, found = _named(text, "a pattern", "Unpaid")
    if isinstance(found, type) and issubclass(found, Pattern) and found is not Pattern:
        return found
    if isinstance(found, type) and issubclass(found, Window | Join):
        kind = "window" if issubclass(found, Window) else "join"
        raise WrongUsage(
            f"{text} is a {kind}, and this is for patterns alone; find({attribute}, events) of ensue.patterns gives the answers of a {kind}"
        )
    patterns = [
        f"{name}:{key}"
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Pattern) and value is not Pattern
    ]
    hint = f"it has {', '.join(patterns)}" if patterns else "it has no Pattern at its top level"
    said = f"the module {name} has no {attribute!r}" if found is _NOTHING else f"{text} is not a Pattern"
    raise WrongUsage(f"{said}; {hint}")


def _named(text: str, what: str, example: str) -> tuple[str, str, ModuleType, Any]:
    """The module and attribute that `module:name` says, with what they are. Errors: as `load_app`."""
    name, _, attribute = text.partition(":")
    if not name or not attribute or not all(part.isidentifier() for part in name.split(".")):
        said = f"{text!r} does not name {what}"
        guess = name.removesuffix(".py").replace("/", ".").strip(".") or "app"
        raise WrongUsage(f"{said}; write module:name, such as {guess}:{attribute or example}")
    module = _module(name)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, _NOTHING)
    return name, attribute, module, found


_NOTHING = object()


def _module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise WrongUsage(f"there is no module {error.name!r} in {folder}, nor is one installed") from None
        raise _raised(name, error) from None
    except (Exception, SystemExit) as error:
        raise _raised(name, error) from None


def _raised(name: str, error: BaseException) -> WrongUsage:
    show_traceback(error)
    return WrongUsage(f"the module {name} raised {type(error).__name__} while it was imported, see above")


def show_traceback(error: BaseException) -> None:
    """Where the user's own code went wrong, on stderr, without the frames that only led there."""
    trace = error.__traceback__
    while trace is not None and _led_there(trace):
        trace = trace.tb_next
    click.echo("".join(traceback.format_exception(type(error), error.with_traceback(trace), trace)).rstrip(), err=True)


def _led_there(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return file.startswith(("<frozen importlib", contextlib.__file__, *_FOLDERS))


_FOLDERS = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (ensue, asyncio, importlib))
