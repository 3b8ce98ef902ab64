"""The command line: `python -m stage.neighbours.conformance URL --data '{"order_id": "o-1"}'`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from stage.neighbours.conformance.caller import Caller
from stage.neighbours.conformance.laws import LAWS, Broken
from stage.neighbours.shared.tls import add_ca_option
from stage.neighbours.shared.tokens import read_keys
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.problem import WireError
from stage.wire.strict_json import decode_object

PROGRAM = "stage.neighbours.conformance"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a downstream. The exit status is 0 where all laws hold, 1 where one is broken, or 2."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description="Asks a downstream as a stage would, and says which laws it breaks."
        " Give it one to be tried: it is sent sagas that count.",
    )
    parser.add_argument("url", help="the base URL of the downstream")
    parser.add_argument("--data", required=True, metavar="JSON", help="what it accepts as `data`")
    parser.add_argument("--name", default="payment", help="the stage to ask as (%(default)s)")
    parser.add_argument("--token-file", default="", metavar="FILE", help="the token to show it")
    add_ca_option(parser)
    options = parser.parse_args(arguments)
    try:
        data = decode_object(options.data.encode(), DEFAULT_LIMITS)
        keys = read_keys(options.token_file, "", options.ca_file)
    except (WireError, OSError, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    return asyncio.run(judge(Caller(options.url, options.name, keys, data)))


async def judge(caller: Caller) -> int:
    """Print a line for each law; 1 where one is broken."""
    broken = 0
    async with caller.open():
        for law in LAWS:
            name = law.__name__.replace("_", " ")
            try:
                await law(caller)
            except Broken as error:
                broken += 1
                print(f"BROKEN  {name}\n        {error}", flush=True)
            else:
                print(f"holds   {name}", flush=True)
    print(f"{len(LAWS) - broken} of {len(LAWS)} laws hold", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
