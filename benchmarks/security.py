"""The cost of names and TLS: a stage that is open, with tokens, and with tokens and TLS everywhere.

python -m benchmarks.security [--rounds N] [--seconds S] [--connections 1,32]

Prints for every width the medians of the rounds' ratios to the open stage: sagas a second, and CPU
a saga. With TLS the load, the external API and downstream speak it too, on kept connections, so
what is measured is the sealing of records: a handshake stands against hundreds of sagas.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import report
from benchmarks.against import ratios
from benchmarks.contestants import STAGE, Contestant, Place, stage_command
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.processes import LOOPBACK, free_port
from benchmarks.throughput import measure, raw
from stage.demo.certificates import Certificates
from stage.demo.tokens import Keys
from stage.wire.tokens import BEARER

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
TOKENS, TLS = "stage-tokens", "stage-tls"
SHOWN = "SAGA_AUTHORIZATION"
"""The environment in which saga.lua finds the header that shows a token."""


def main() -> int:
    """Measure, print the ratios and write the evidence; 2 when a tool is missing."""
    # Long because a measurement is its steps in their order: prepare, measure, write down.
    given = _options().parse_args()
    widths = [int(each) for each in given.connections.split(",")]
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    machine = facts(ROOT)
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        keys = Keys(folder)
        with _neighbours(nginx, folder, keys) as (plain, secure):
            contestants = _contestants(folder, secure, keys)
            samples = list(
                measure(
                    wrk,
                    plain,
                    folder,
                    widths=widths,
                    rounds=given.rounds,
                    seconds=given.seconds,
                    contestants=contestants,
                )
            )
    found = [
        {"contestant": each.name, "connections": width, "rate": rate, "cpu": cpu}
        for width in widths
        for each in contestants[1:]
        for rate, cpu in [ratios(samples, width, each.name, STAGE.name)]
    ]
    for line in found:
        print(
            f"{line['connections']:4} connections, {line['contestant']}:"
            f" rate {line['rate']:.2f}, CPU a saga {line['cpu']:.2f} of the open stage"
        )
    path = report.write(
        given.out,
        "security",
        {"machine": machine, "seconds": given.seconds, "ratios": found, "samples": raw(samples)},
    )
    print(f"written: {path}")
    return 0


@contextmanager
def _neighbours(nginx: str, folder: Path, keys: Keys) -> Iterator[tuple[str, str]]:
    """nginx at two ports, without and with TLS. Writes the keys and the certificates first."""
    keys.write()
    certificates = Certificates(folder, ("nginx", "payment"))
    certificates.write()
    os.environ[SHOWN] = f"{BEARER} {keys.token('order-payment')}"
    port = free_port()
    more = (
        f"listen {LOOPBACK}:{port} ssl; ssl_certificate {folder}/nginx.pem;"
        f" ssl_certificate_key {folder}/nginx.key;"
    )
    with neighbours(nginx, folder / "nginx", free_port(), more) as plain:
        yield plain, f"https://{LOOPBACK}:{port}"


def _contestants(folder: Path, secure: str, keys: Keys) -> tuple[Contestant, ...]:
    named = ("--log-level", "warning", "--auth", "tokens", *keys.of_stage())
    tls = (*named, *Certificates(folder, ("payment",)).of_stage())

    def behind_tls(place: Place, port: int) -> list[str]:
        return stage_command(replace(place, neighbours=secure), port, *tls)

    return (
        STAGE,
        replace(
            STAGE,
            name=TOKENS,
            title="stage, tokens",
            command=lambda place, port: stage_command(place, port, *named),
        ),
        replace(STAGE, name=TLS, title="stage, tokens and TLS", command=behind_tls, scheme="https"),
    )


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.security", description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--connections", default="1,32")
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    return options


if __name__ == "__main__":
    sys.exit(main())
