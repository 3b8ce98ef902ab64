"""`stage new`: write a project with a stage that runs, to be changed into another."""

from __future__ import annotations

import keyword
from pathlib import Path

import click

from stage.cli.failure import Failure
from stage.core.names import STAGE_NAME


@click.command(short_help="Write a project with a stage of that name.")
@click.argument("name")
@click.option("--in", "folder", metavar="FOLDER", help="Where to write it.  [NAME]")
def new(name: str, folder: str | None) -> None:
    """Write a stage with its model, migrations, tests, settings, Makefile and Dockerfile.

    Its tests pass and its `make demo` runs as they are. Nothing is ever overwritten.
    """
    from stage.cli.project import write_project

    package = name.replace("-", "_")
    if (
        not STAGE_NAME.fullmatch(name)
        or keyword.iskeyword(package)
        or package in ("stage", "tests")
    ):
        raise Failure(
            f"{name!r} cannot be the name of a stage and of its package: use 1 to 48 of a-z 0-9 _"
            " -, starting with a letter, and no word of Python's or of ours, such as payment"
        )
    where = Path(name if folder is None else folder)
    try:
        for path in write_project(where, name):
            click.echo(f"wrote {path}")
    except FileExistsError as error:
        raise Failure(
            f"{error} is there already, and nothing was written: give another folder with --in"
        ) from None
    except OSError as error:
        raise Failure(f"{where} cannot be written: {error.strerror or error}") from error
    click.echo(f"next: cd {where} && make test demo")
