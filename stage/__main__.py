"""`stage` and `python -m stage`: the way into the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit status."""
    from stage.cli.root import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
