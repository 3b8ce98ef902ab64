"""The command line: `python -m stage.demo.psp --port 8090`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from stage.demo.psp.app import make_app
from stage.demo.psp.webhooks import Webhooks
from stage.neighbours.shared.serve import serve
from stage.neighbours.shared.tls import add_listener_options, listener_context
from stage.telemetry import sdk

SUMMARY = "A payment provider that keeps its own books and can misbehave."


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and serve. The exit status is 2 if the port is not available."""
    parser = argparse.ArgumentParser(prog="python -m stage.demo.psp", description=SUMMARY)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--otlp-endpoint", default="", metavar="URL", help="base URL of an OTLP/HTTP collector"
    )
    parser.add_argument(
        "--webhook-url", default="", metavar="URL", help="notified of pending charges"
    )
    parser.add_argument("--webhook-secret-file", metavar="FILE", help="signs the webhooks")
    parser.add_argument(
        "--webhook-ca-file", default="", metavar="FILE", help="who is trusted there"
    )
    add_listener_options(parser)
    options = parser.parse_args(arguments)
    try:
        tls = listener_context(options)
    except ValueError as error:
        print(f"psp: its certificate cannot be used: {error}", file=sys.stderr)
        return 2
    secret = b""
    if options.webhook_secret_file:
        secret = Path(options.webhook_secret_file).read_bytes().strip()
    webhooks = Webhooks(options.webhook_url, secret, options.webhook_ca_file)
    sdk.setup("psp", endpoint=options.otlp_endpoint)
    try:
        asyncio.run(serve(make_app(webhooks=webhooks), options.host, options.port, tls))
    except (OSError, OverflowError) as error:
        print(f"psp: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 2
    finally:
        sdk.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
