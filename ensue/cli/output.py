"""How things look: in colour and in tables on a terminal, as plain tab-separated text in a pipe, as JSON when asked for.

Escape codes are written to a terminal only, and never with NO_COLOR. Texts that come from a log are cleaned of control
characters first: a customer's name must not move anybody's cursor.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

import click
import msgspec

from ensue.events.recorded import instant

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Progress",
    "clean",
    "coloured",
    "columns",
    "console",
    "duration",
    "exact_time",
    "fit",
    "flush",
    "local_time",
    "many",
    "on_terminal",
    "paint",
    "pass_colours_on",
    "print_json",
    "say",
    "table",
]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "red bold": "1;31"}
_encode = msgspec.json.Encoder(decimal_format="string").encode
_TRANSLATED = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))}
_KEPT = {**_TRANSLATED, 10: "\n", 9: "    "}


def on_terminal(stream: IO[str] | None = None) -> bool:
    return (stream or sys.stdout).isatty()


_passed_on = False


def pass_colours_on() -> None:
    """What this process writes is passed on to a terminal by another one: use colours as if it was one."""
    global _passed_on
    _passed_on = True


def coloured(stream: IO[str]) -> bool:
    """Whether escape codes are written there."""
    return (_passed_on or stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: IO[str] | None = None) -> str:
    """The text in a style, where that can be seen."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if text and style and coloured(stream or sys.stdout) else text


def columns() -> int:
    """The width of the terminal."""
    return shutil.get_terminal_size().columns


def clean(text: str, *, lines: bool = False) -> str:
    """Without control characters; with `lines`, line ends and tabs stay."""
    return text.translate(_KEPT if lines else _TRANSLATED)


def fit(text: str, width: int) -> str:
    """The text in at most `width` characters, with a mark where something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…" if width > 0 else ""


def say(text: str = "") -> None:
    """One line on stdout."""
    sys.stdout.write(text + "\n")


def flush() -> None:
    sys.stdout.flush()


def print_json(value: object, *, pretty: bool = False) -> None:
    """One JSON value: on one line, or indented."""
    data = _encode(value)
    say((msgspec.json.format(data, indent=2) if pretty else data).decode())


def console() -> Console:
    from rich.console import Console

    return Console(color_system="auto" if coloured(sys.stdout) else None, highlight=False, soft_wrap=False)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), wide: Sequence[str] = ()
) -> None:
    """Columns under headings. Those of `right` hold numbers; those of `wide` give way when the terminal is narrow.

    A cell may begin with a style in brackets that `_STYLES` knows: `[red]tripped`.
    """
    if not on_terminal():
        for cells in (headings, *rows):
            say("\t".join(clean(_bare(cell)) for cell in cells))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    for number, heading in enumerate(headings):
        shown.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=heading not in wide,
            overflow="fold" if heading in wide else "ellipsis",
            min_width=min(12, max(len(_bare(cells[number])) for cells in (headings, *rows))),
        )
    for cells in rows:
        shown.add_row(*(Text(clean(_bare(cell)), style=_style(cell)) for cell in cells))
    console().print(shown)


def _style(cell: str) -> str:
    style = cell[1:].partition("]")[0] if cell.startswith("[") else ""
    return style if style in _STYLES else ""


def _bare(cell: str) -> str:
    style = _style(cell)
    return cell[len(style) + 2 :] if style else cell


# ------------------------------------------------------------------------------------------------- times and counts


def local_time(time: int) -> str:
    """For people: local time, to the millisecond."""
    try:
        return instant(time).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError):  # a damaged log
        return f"{time} µs"


def exact_time(time: int | None) -> str | None:
    """For programs: ISO 8601 in UTC, to the microsecond; None for none, and for one that is no time."""
    try:
        return None if time is None else instant(time).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:  # a damaged log
        return None


def duration(seconds: float) -> str:
    """For people: 850 µs, 12 ms, 3.4 s, 5 min, 2.5 h, 3 d."""
    if seconds < 0:
        return "0 s"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (90, 1, "s"), (5400, 1 / 60, "min")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.4g} d"


def many(count: int, one: str, several: str = "") -> str:
    """`1 event`, `1,204 events`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


class Progress:
    """One line on stderr that says how far a long piece of work is; on a terminal only, and gone when it ends."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(1, total)
        if percent != self._shown and sys.stderr.isatty():
            self._shown = percent
            bar = "█" * (percent // 5) + "░" * (20 - percent // 5)
            click.echo(f"\r{self._work} {bar} {percent:3d} %  {done:,} of {total:,}", nl=False, err=True)

    def end(self) -> None:
        if self._shown >= 0:
            click.echo("\r\x1b[K" if os.environ.get("TERM") != "dumb" else "", nl=False, err=True)
