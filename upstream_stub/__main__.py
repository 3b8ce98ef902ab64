"""`python -m upstream_stub` serves the neighbour of `stage/neighbours/upstream/`."""

from __future__ import annotations

import sys

from stage.neighbours.upstream.__main__ import main

if __name__ == "__main__":
    sys.exit(main(program="upstream_stub"))
