"""The command line: `python -m upstream_stub --port 8081 --name order --stage URL`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from stage.wire.envelope import STAGE_NAME_RE
from upstream_stub.app import BUDGET_SECONDS, PATIENCE_SECONDS, make_app
from upstream_stub.script import Script, ScriptName
from upstream_stub.serve import serve
from upstream_stub.spans import make_provider, shut_down

SECONDS_MAX = 604_800


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and serve. 2 when the port cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m upstream_stub",
        description="A small neighbour upstream: it takes orders and starts their sagas.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8081, help="0 takes a free one (%(default)s)")
    parser.add_argument("--name", default="order", help="its stage name (%(default)s)")
    parser.add_argument("--stage", required=True, metavar="URL", help="the stage behind it")
    parser.add_argument(
        "--budget",
        type=_seconds,
        default=BUDGET_SECONDS,
        metavar="SECONDS",
        help="how long a saga may take forward (%(default)g)",
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help="how long one request to the stage may take (%(default)g)",
    )
    parser.add_argument(
        "--script",
        default=ScriptName.ACCEPT.value,
        choices=[name.value for name in ScriptName],
        help="how it compensates until PUT /script says otherwise (%(default)s)",
    )
    parser.add_argument(
        "--otlp-endpoint", default="", metavar="URL", help="base URL of an OTLP/HTTP collector"
    )
    options = parser.parse_args(arguments)
    if not STAGE_NAME_RE.fullmatch(options.name):
        parser.error(f"--name {options.name!r} is no stage name: use {STAGE_NAME_RE.pattern}")
    provider = None
    if options.otlp_endpoint:
        provider = make_provider(options.name, options.otlp_endpoint)
    app = make_app(
        name=options.name,
        stage=options.stage,
        budget_seconds=options.budget,
        patience_seconds=options.patience,
        script=Script(ScriptName(options.script)),
        tracer_provider=provider,
    )
    try:
        asyncio.run(serve(app, options.host, options.port))
    except (OSError, OverflowError) as error:
        where = f"{options.host}:{options.port}"
        print(f"upstream_stub: cannot listen on {where}: {error}", file=sys.stderr)
        return 2
    finally:
        if provider is not None:
            shut_down(provider)
    return 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {SECONDS_MAX} seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
