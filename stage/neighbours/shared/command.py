"""The command line of a neighbour: the options that both have, and serving until a signal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable

from aiohttp import web
from opentelemetry.trace import TracerProvider

from stage.neighbours.shared.serve import serve
from stage.neighbours.shared.spans import make_provider, shut_down
from stage.neighbours.shared.tls import add_ca_option, add_listener_options, listener_context
from stage.neighbours.shared.tokens import Keys, read_keys
from stage.wire.envelope import STAGE_NAME_RE

MakeApp = Callable[[TracerProvider | None, Keys], web.Application]


def make_parser(program: str, description: str, *, port: int, name: str) -> argparse.ArgumentParser:
    """A parser with the options that both neighbours have; `port` and `name` are defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=port, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--name", type=_stage_name, default=name, help="its stage name (%(default)s)"
    )
    parser.add_argument(
        "--otlp-endpoint", default="", metavar="URL", help="base URL of an OTLP/HTTP collector"
    )
    parser.add_argument(
        "--token-file", default="", metavar="FILE", help="the token that it shows the stage"
    )
    parser.add_argument(
        "--accept-file", default="", metavar="FILE", help="hashes of what the stage may show"
    )
    add_listener_options(parser)
    add_ca_option(parser)
    return parser


def run(program: str, options: argparse.Namespace, make_app: MakeApp) -> int:
    """Serve the application until a signal.

    The exit status is 0, or 2 if a file cannot be used or the port is not available.
    """
    try:
        keys = read_keys(options.token_file, options.accept_file, options.ca_file)
        tls = listener_context(options)
    except (OSError, ValueError) as error:
        print(f"{program}: its keys cannot be used: {error}", file=sys.stderr)
        return 2
    provider = None
    if options.otlp_endpoint:
        provider = make_provider(options.name, options.otlp_endpoint)
    try:
        asyncio.run(serve(make_app(provider, keys), options.host, options.port, tls))
    except (OSError, OverflowError) as error:
        where = f"{options.host}:{options.port}"
        print(f"{program}: cannot listen on {where}: {error}", file=sys.stderr)
        return 2
    finally:
        if provider is not None:
            shut_down(provider)
    return 0


def _stage_name(text: str) -> str:
    if not STAGE_NAME_RE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a stage name: use {STAGE_NAME_RE.pattern}"
        )
    return text
