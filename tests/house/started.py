"""`python -m tests.house.started`: prints what it is, and ends with 7 or waits to be killed."""

from __future__ import annotations

import json
import os
import signal
import sys


def main() -> None:
    """Tell it as one line of JSON."""
    print(
        json.dumps(
            {
                "arguments": sys.argv[1:],
                "cwd": os.getcwd(),
                "environ": {name: os.environ.get(name) for name in ("WORD", "HOME")},
                "path": sys.path,
                "name": __name__,
                "parent": os.getppid(),
                "pid": os.getpid(),
                "read": "" if "--wait" in sys.argv else sys.stdin.read(),
                "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
            }
        ),
        flush=True,
    )
    print("and to stderr", file=sys.stderr)
    if "--wait" in sys.argv:
        signal.pause()
    sys.exit(7)


if __name__ == "__main__":
    main()
