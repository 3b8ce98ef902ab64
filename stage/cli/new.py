"""`stage new`: write a project with a stage that runs, to be changed into another."""

from __future__ import annotations

import importlib.util
import keyword
import sys
import sysconfig
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
    if hidden := _hidden_by(package):
        raise Failure(
            f"{name!r} cannot be the name of a stage: its package would hide {package!r}, which is"
            f" {hidden}; take another name, such as {name}-stage"
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


def _hidden_by(package: str) -> str:
    """The kind of thing that a package of that name would hide, or be hidden by; empty for none.

    The project would not run.
    """
    from stage.cli.project import taken_names

    if package in sys.stdlib_module_names:
        return "a module of Python's"
    if package in taken_names():
        return "a name in the project"
    found = importlib.util.find_spec(package)
    if found is None:
        return ""
    where = [*(found.submodule_search_locations or ()), found.origin or ""]
    places = [sysconfig.get_path(scheme) for scheme in ("purelib", "platlib")]
    installed = any(Path(each).is_relative_to(place) for each in where for place in places)
    return "an installed package" if installed else ""
