"""The command line: `ensue`, a thin program over the library.

`program.py` knows the commands, their exit codes and how an error is told; `target.py` which log is meant; `output.py` how
things look on a terminal and in a pipe. Each command is a module of its own, imported when it is used. Commands that look
open the log for reading only: they create nothing and write nothing.

What `run` does is in `serving.py` for one process. For many, `supervision.py` decides, `supervisor.py` and `worker.py` are the
two ends; `probes.py` answers how they are.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names, and exit with its code."""
    import sys
    from io import TextIOWrapper

    from ensue.cli.program import ensue

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what a terminal cannot show must not end the command
            stream.reconfigure(errors="replace")
    ensue.main()
