"""`stage` and `python -m stage`: the way into the command line."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line and return its exit status."""
    search_here_last()
    from stage.cli.root import run

    return run()


def search_here_last() -> None:
    """Take the working directory from the head of the path, where `python -m stage` puts it.

    A `secrets.py` that somebody left there would run in place of the standard library's. A folder
    that PYTHONPATH names keeps its place.
    """
    here = os.getcwd()
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        sys.path[:] = [folder for folder in sys.path if folder not in ("", here)]


if __name__ == "__main__":
    sys.exit(main())
