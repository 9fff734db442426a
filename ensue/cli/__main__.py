"""`python -m ensue.cli` is the same as `ensue`."""

from ensue.cli import main

main()
