"""`python -m ensue.cli` is the same as `ensue`."""

from ensue.cli import main

if __name__ == "__main__":
    main()
