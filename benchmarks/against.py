"""This checkout against another one of the same project, side by side in one run.

python -m benchmarks.against CHECKOUT [--rounds N] [--seconds S] [--connections 1,32]

Prints, for every width, the median of the rounds' ratios: this checkout's sagas a second over the
other's, and the same of CPU a saga. It says whether a change costs speed, which two runs at
different times cannot say on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.contestants import STAGE, Contestant, Place
from benchmarks.figures import cpu, of_rounds, rate
from benchmarks.machine import Missing, check_disk, tool
from benchmarks.neighbours import neighbours
from benchmarks.processes import free_port
from benchmarks.throughput import Sample, measure

ROOT = Path(__file__).resolve().parent.parent
OWN_COMMAND_SECONDS_MAX = 30.0
OWN_COMMAND = """
import json, pathlib, sys
from benchmarks.contestants import STAGE, Place
place = Place(folder=pathlib.Path(sys.argv[1]), neighbours=sys.argv[2])
print(json.dumps(STAGE.command(place, int(sys.argv[3]))))
"""


def main() -> int:
    """Measure, and print the ratios; 2 when a tool is missing."""
    given = _options().parse_args()
    widths = [int(each) for each in given.connections.split(",")]
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    ours, theirs = of_checkout("this", ROOT), of_checkout("other", given.checkout.resolve())
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            samples = list(
                measure(
                    wrk,
                    url,
                    folder,
                    widths=widths,
                    rounds=given.rounds,
                    seconds=given.seconds,
                    contestants=(ours, theirs),
                )
            )
    for width in widths:
        faster, dearer = ratios(samples, width)
        print(
            f"{width:4} connections: rate {faster:.3f}, CPU a saga {dearer:.3f} of {given.checkout}"
        )
    return 0


def of_checkout(name: str, checkout: Path) -> Contestant:
    """The stage as that checkout has it, run by the interpreter of this one."""
    environment = {**STAGE.environment, "PYTHONPATH": str(checkout)}

    def command(place: Place, port: int) -> list[str]:
        python, *words = _own_command(environment, place, port)
        return [python, "-P", *words]  # without -P the working directory would come first

    return replace(STAGE, name=name, title=name, command=command, environment=environment)


def _own_command(environment: Mapping[str, str], place: Place, port: int) -> list[str]:
    """The command line as the checkout itself writes it: options come and go between two."""
    found = subprocess.run(
        [sys.executable, "-P", "-c", OWN_COMMAND, place.folder, place.neighbours, str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
        timeout=OWN_COMMAND_SECONDS_MAX,
    )
    return [str(word) for word in json.loads(found.stdout)]


def ratios(
    samples: Sequence[Sample], width: int, this: str = "this", other: str = "other"
) -> tuple[float, float]:
    """The medians of the rounds' ratios at that width: of the rates, and of CPU a saga."""
    return (
        median(of_rounds(samples, this, other, width, rate)),
        median(of_rounds(samples, this, other, width, cpu)),
    )


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    options.add_argument("checkout", type=Path, help="the folder of the other checkout")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--connections", default="1,32")
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    return options


if __name__ == "__main__":
    sys.exit(main())
