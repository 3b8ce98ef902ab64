"""`stage dev`: a stage with fakes of all that is around it, started anew when a file changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from stage.cli.failure import Failure

if TYPE_CHECKING:
    from stage.authoring.declaration import StageDeclaration
    from stage.authoring.steps import ExternalStep
    from stage.testing import FakeApi
    from stage.testing.neighbours import Neighbours

SAGA_ID: Final = "dev-1"
HOST: Final = "127.0.0.1"
PORT_MIN: Final = 20_000
PORT_MAX: Final = 32_000
"""Below the ports that systems hand out by themselves: what is free there stays so."""
HINT: Final = "or start `stage dev` again where the stage calls a new API or downstream"


@click.command(short_help="Serve a stage to try it, with fakes around it.")
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.option("--port", metavar="PORT", default=8080, type=click.IntRange(0, 65_535))
@click.option(
    "--database",
    metavar="URL",
    default="sqlite:///:memory:",
    help="Where its sagas outlive a change.  [in memory: each start begins anew]",
)
def dev(target: str, port: int, database: str) -> int:
    """Serve a stage on this machine with a fake upstream, downstream and external APIs.

    Nobody is asked for a token. The stage is started anew when a file of Python, SQL or TOML below
    the working directory changes, and each time what `stage check` finds in the code is printed. It
    prints the requests to try; Ctrl-C ends all of it.
    """
    import asyncio
    from tempfile import TemporaryDirectory

    from stage.cli.target import find_stage

    stage = find_stage(target)
    saga = _data_of(target, stage)
    with TemporaryDirectory(prefix="stage-dev-") as folder:
        secrets = _make_secrets(stage, folder)
        develop = _develop(target, stage, port or _free_port(), database, saga, secrets)
        return asyncio.run(develop)


def _make_secrets(stage: StageDeclaration[Any, Any], folder: str) -> dict[str, str]:
    """A file with a new secret for each API that has a webhook, by its name."""
    from pathlib import Path
    from secrets import token_hex

    made: dict[str, str] = {}
    for step in _hooked(stage):
        file = Path(folder) / f"{step.rules.peer}-webhook-secret"
        file.touch(mode=0o600)
        file.write_text(f"{token_hex(32)}\n")
        made[step.rules.peer] = str(file)
    return made


def _hooked(stage: StageDeclaration[Any, Any]) -> list[ExternalStep[Any, Any]]:
    """The steps whose API tells by a webhook how they ended."""
    from stage.authoring.steps import ExternalStep

    return [
        step for step in stage.steps if isinstance(step, ExternalStep) and step.hearing is not None
    ]


def _data_of(target: str, stage: StageDeclaration[Any, Any]) -> str:
    """A saga as JSON whose data its model makes up, or the types of what the stage accepts."""
    from random import Random

    import msgspec

    from stage.cli.target import find_model
    from stage.simulation.author import scenario_of

    payload = scenario_of(stage, find_model(target, None), sagas=1).payload
    data = {} if payload is None else payload(Random(1))
    return msgspec.json.encode({"saga_id": SAGA_ID, "data": data}).decode()


def _fakes_of(target: str, stage: StageDeclaration[Any, Any]) -> dict[str, FakeApi]:
    """A fake of each external API: the one in `fakes` of the model, or one for any stage."""
    from stage.cli.target import find_model
    from stage.testing import FakeApi

    module = find_model(target, None)
    own: dict[str, type[FakeApi]] = getattr(module, "fakes", {})
    called = [step.rules.peer for step in stage.steps if step.rules.peer]
    if unknown := sorted(set(own) - set(called)):
        there = ", ".join(sorted(set(called))) or "none"
        raise Failure(
            f"{module.__file__} has a fake of {unknown[0]!r}, which stage {stage.name} never"
            f" calls; it calls: {there}"
        )
    return {peer: own.get(peer, FakeApi)() for peer in called}


def _free_port() -> int:
    """A port that stays free until the stage listens there, and while it is started anew."""
    import random
    import socket
    from contextlib import suppress

    for port in random.sample(range(PORT_MIN, PORT_MAX), 100):
        with suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise Failure(f"no port from {PORT_MIN} to {PORT_MAX} is free: give one with --port")


async def _develop(
    target: str,
    stage: StageDeclaration[Any, Any],
    port: int,
    database: str,
    saga: str,
    secrets: dict[str, str],
) -> int:
    import sys

    from stage.cli.dev_slips import DevSlips
    from stage.cli.watch import Signals, run_anew
    from stage.testing.neighbours import beside

    signals = Signals()
    signals.listen()
    url = f"http://{HOST}:{port}"
    apis = _fakes_of(target, stage)
    signing = {name: _secret_in(file) for name, file in secrets.items()}
    async with beside(url, apis, signing) as around:
        _explain(stage.name, around, saga)
        _explain_webhooks(stage, around, secrets, apis)
        options = [
            *("--auth", "none", "--host", HOST, "--port", str(port), "--database", database),
            *("--upstream", f"upstream={around.upstream}"),
            *("--downstream", f"downstream={around.downstream}"),
        ]
        for name, where in around.apis.items():
            options += ["--external", f"{name}={where}"]
        for name, file in secrets.items():
            options += ["--external", f"{name}.webhook_secret_file={file}"]
        command = [sys.executable, "-m", "stage", "serve", target, *options]
        return await run_anew(command, signals, HINT, DevSlips(target).say)


def _explain(name: str, around: Neighbours, saga: str) -> None:
    """The addresses, and what to try."""
    import shlex

    from stage.bootstrap.console import make_console

    post = f"curl -s {around.stage}/sagas -H 'Content-Type: application/json'"
    click.echo(f"{name:<12} {around.stage}")
    click.echo(f"{'upstream':<12} {around.upstream}")
    click.echo(f"{'downstream':<12} {around.downstream}")
    for api, where in around.apis.items():
        click.echo(f"{api:<12} {where}")
    pages = f"{around.stage}/console"
    click.echo(f"{'console':<12} {pages if make_console() else 'needs saga-stage[console]'}")
    click.echo("")
    click.echo("A saga; another one needs another saga_id:")
    click.echo(f"  {post} -d {shlex.quote(saga)}")
    click.echo("Let downstream refuse the next ones, and put that right again with accept:")
    refuse = shlex.quote('{"script":"refuse"}')
    click.echo(f"  curl -s -X PUT {around.downstream}/script -d {refuse}")
    for api, where in around.apis.items():
        click.echo(f"The effects that stand at {api}:")
        click.echo(f"  curl -s {where}/effects")


def _secret_in(file: str) -> bytes:
    """The secret that the fake signs with, as the stage reads it."""
    from pathlib import Path

    return Path(file).read_bytes().strip()


def _explain_webhooks(
    stage: StageDeclaration[Any, Any],
    around: Neighbours,
    secrets: dict[str, str],
    apis: dict[str, FakeApi],
) -> None:
    """How a call that is pending is ended, and where the secret lies that signs its webhook."""
    from stage.core.ids import Direction, idempotency_key

    for step in _hooked(stage):
        api = step.rules.peer
        key = idempotency_key(SAGA_ID, stage.name, step.name, Direction.EXECUTE)
        click.echo(
            f"Webhooks of {api} come to {around.stage}/webhooks/{api}, signed with the secret"
        )
        click.echo(f"in {secrets[api]}")
        if apis[api].pends:
            click.echo(f"Let {api} end the pending call of that saga, and tell it by its webhook:")
            click.echo(f"  curl -s -X POST {around.apis[api]}/land/{key}")
        else:
            click.echo(
                f"The fake of {api} answers at once: `pends = True` and a method `webhook` in a"
            )
            click.echo(
                "class in `fakes` of the model let it tell later, as FakePsp of the demo does"
            )
    click.echo("")
