"""The command line: `ensue`, a thin program over the library.

`program.py` knows the commands, their exit codes and how an error is told; `target.py` which log is meant; `output.py` how
things look on a terminal and in a pipe. Each command is a module of its own, imported when it is used. Commands that look
open the log for reading only: they create nothing and write nothing.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    from ensue.cli.program import ensue

    ensue.main()
