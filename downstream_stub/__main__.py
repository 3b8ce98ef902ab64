"""The command line: `python -m downstream_stub --port 8082 --name shipping --upstream URL`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from downstream_stub.app import make_app
from downstream_stub.script import Script, ScriptName
from downstream_stub.serve import serve
from downstream_stub.spans import make_provider, shut_down
from stage.wire.envelope import STAGE_NAME_RE


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and serve. 2 when the port cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m downstream_stub",
        description="A small neighbour downstream, with scripted misbehaviour.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8082, help="0 takes a free one (%(default)s)")
    parser.add_argument("--name", default="shipping", help="its stage name (%(default)s)")
    parser.add_argument("--upstream", required=True, metavar="URL", help="the stage before it")
    parser.add_argument(
        "--script",
        default=ScriptName.ACCEPT.value,
        choices=[name.value for name in ScriptName],
        help="how it behaves until PUT /script says otherwise (%(default)s)",
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
        upstream=options.upstream,
        script=Script(ScriptName(options.script)),
        tracer_provider=provider,
    )
    try:
        asyncio.run(serve(app, options.host, options.port))
    except (OSError, OverflowError) as error:
        where = f"{options.host}:{options.port}"
        print(f"downstream_stub: cannot listen on {where}: {error}", file=sys.stderr)
        return 2
    finally:
        if provider is not None:
            shut_down(provider)
    return 0


if __name__ == "__main__":
    sys.exit(main())
