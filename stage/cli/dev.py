"""`stage dev`: a stage with fakes of all that is around it, started anew when a file changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from stage.authoring.declaration import StageDeclaration
    from stage.testing.neighbours import Neighbours

HOST: Final = "127.0.0.1"
WATCHED: Final = frozenset({".py", ".sql", ".toml"})
LEFT_OUT: Final = frozenset({"__pycache__", "node_modules", "venv"})
LOOK_SECONDS: Final = 0.5
STOP_SECONDS_MAX: Final = 5.0


@click.command(short_help="Serve a stage to try it, with fakes around it.")
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.option("--port", metavar="PORT", default=8080, type=click.IntRange(0, 65_535))
@click.option(
    "--database",
    metavar="URL",
    default="sqlite:///:memory:",
    help="Where its sagas outlive a change.  [in memory: each start begins anew]",
)
def dev(target: str, port: int, database: str) -> None:
    """Serve a stage on this machine with a fake upstream, downstream and external APIs.

    Nobody is asked for a token. The stage is started anew when a file of Python, SQL or TOML below
    the working directory changes. It prints the requests to try; Ctrl-C ends all of it.
    """
    import asyncio

    from stage.cli.target import find_stage

    stage = find_stage(target)
    saga = _data_of(target, stage)
    with suppress(asyncio.CancelledError):  # SIGTERM
        asyncio.run(_develop(target, stage, port or _free_port(), database, saga))


def _data_of(target: str, stage: StageDeclaration[Any, Any]) -> str:
    """A saga as JSON whose data its model makes up, or the types of what the stage accepts."""
    from random import Random

    import msgspec

    from stage.cli.target import find_model
    from stage.simulation.author import scenario_of

    payload = scenario_of(stage, find_model(target, None), sagas=1).payload
    data = {} if payload is None else payload(Random(1))
    return msgspec.json.encode({"saga_id": "dev-1", "data": data}).decode()


def _free_port() -> int:
    import socket

    with socket.create_server((HOST, 0)) as door:
        return int(door.getsockname()[1])


async def _develop(
    target: str, stage: StageDeclaration[Any, Any], port: int, database: str, saga: str
) -> None:
    import asyncio
    import signal

    from stage.testing import FakeApi
    from stage.testing.neighbours import beside

    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    url = f"http://{HOST}:{port}"
    apis = {step.rules.peer: FakeApi() for step in stage.steps if step.rules.peer}
    async with beside(url, apis) as around:
        _explain(stage.name, around, saga)
        options = [
            *("--auth", "none", "--host", HOST, "--port", str(port), "--database", database),
            *("--upstream", f"upstream={around.upstream}"),
            *("--downstream", f"downstream={around.downstream}"),
        ]
        for name, where in around.apis.items():
            options += ["--external", f"{name}={where}"]
        await _serve_anew(target, options)


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
    click.echo("")


async def _serve_anew(target: str, options: list[str]) -> None:
    """Serve it in a process of its own, and start another one after each change."""
    import asyncio
    import sys

    seen = _stamps()
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stage", "serve", target, *options
        )
        try:
            # Files tell nobody that they have changed.
            while seen == (now := await asyncio.to_thread(_stamps)):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await _stop(process)
        changed = sorted(str(path) for path, _ in seen.items() ^ now.items())
        click.echo(f"{changed[0]} has changed: started anew")
        seen = now


async def _stop(process: Process) -> None:
    """SIGTERM, then SIGKILL; nothing for one that has ended."""
    import asyncio

    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _stamps() -> dict[Path, int]:
    """When each watched file below the working directory was changed last."""
    stamps = {}
    for path in _files(Path()):
        try:
            stamps[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # it went away just now
    return stamps


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        hidden = path.name.startswith(".") or path.name in LEFT_OUT
        if path.is_dir() and not hidden and not path.is_symlink():
            yield from _files(path)
        elif path.suffix in WATCHED:
            yield path
