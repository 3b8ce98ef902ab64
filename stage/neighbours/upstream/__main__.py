"""The command line: `python -m stage.neighbours.upstream --port 8081 --name order --stage URL`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stage.neighbours.shared import command
from stage.neighbours.upstream.app import BUDGET_SECONDS, PATIENCE_SECONDS, make_app
from stage.neighbours.upstream.script import Script, ScriptName

SECONDS_MAX = 604_800


def main(
    arguments: Sequence[str] | None = None, *, program: str = "stage.neighbours.upstream"
) -> int:
    """Read the command line and serve. The exit status is 2 if the port is not available."""
    # Long because each option is a call of its own.
    parser = command.make_parser(
        program,
        "A small neighbour upstream: it takes orders and starts their sagas.",
        port=8081,
        name="order",
    )
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
    options = parser.parse_args(arguments)
    return command.run(
        program,
        options,
        lambda provider, keys: make_app(
            keys=keys,
            name=options.name,
            stage=options.stage,
            budget_seconds=options.budget,
            patience_seconds=options.patience,
            script=Script(ScriptName(options.script)),
            tracer_provider=provider,
        ),
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"more than 0 and at most {SECONDS_MAX} seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
