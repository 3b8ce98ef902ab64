"""`python -m downstream_stub` serves the neighbour of `stage/neighbours/downstream/`."""

from __future__ import annotations

import sys

from stage.neighbours.downstream.__main__ import main

if __name__ == "__main__":
    sys.exit(main(program="downstream_stub"))
