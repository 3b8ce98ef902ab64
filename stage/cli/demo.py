"""`stage demo`: the whole chain on this machine, and nine sagas in it."""

from __future__ import annotations

import click

from stage.cli.failure import Failure


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--keep", is_flag=True, help="Leave the chain running and print its URLs.")
@click.option("--otlp", metavar="URL", help="Send the traces of all services to this collector.")
@click.option(
    "--database",
    type=click.Choice(("sqlite", "postgres")),
    default="sqlite",
    help="Keep the sagas in a file, or in a PostgreSQL server that is started for it.",
)
@click.option(
    "--tls/--no-tls",
    default=None,
    help="Let all services speak TLS: by default where the library cryptography is installed.",
)
def demo(as_json: bool, keep: bool, otlp: str | None, database: str, tls: bool | None) -> int:
    """Run nine stories in a whole chain, balance the books.

    Exit status 0 only if every story ended as expected.
    """
    if otlp is not None:
        from stage.cli.remote import checked_url

        otlp = checked_url(otlp, "option --otlp")

    from stage.demo.certificates import can_be_made
    from stage.demo.run import Asked, main

    if tls and not can_be_made():
        raise Failure("--tls needs the library cryptography: pip install 'saga-stage[encryption]'")
    tls = can_be_made() if tls is None else tls
    return main(Asked(json=as_json, keep=keep, otlp=otlp, postgres=database == "postgres", tls=tls))
