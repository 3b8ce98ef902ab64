"""The command line: `python -m stage.neighbours.downstream --port 8082 --upstream URL`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stage.neighbours.downstream.app import make_app
from stage.neighbours.downstream.script import Script, ScriptName
from stage.neighbours.shared import command


def main(
    arguments: Sequence[str] | None = None, *, program: str = "stage.neighbours.downstream"
) -> int:
    """Read the command line and serve. The exit status is 2 if the port is not available."""
    parser = command.make_parser(
        program,
        "A small neighbour downstream, with scripted misbehaviour.",
        port=8082,
        name="shipping",
    )
    parser.add_argument("--upstream", required=True, metavar="URL", help="the stage before it")
    parser.add_argument(
        "--script",
        default=ScriptName.ACCEPT.value,
        choices=[name.value for name in ScriptName],
        help="how it behaves until PUT /script says otherwise (%(default)s)",
    )
    options = parser.parse_args(arguments)
    return command.run(
        program,
        options,
        lambda provider, keys: make_app(
            keys=keys,
            name=options.name,
            upstream=options.upstream,
            script=Script(ScriptName(options.script)),
            tracer_provider=provider,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
