"""The image, outside of a container: its start command, its environment, its health check.

Replaced are the addresses and the folder of the volume, as `docker run -e` would. Everything else
is what the Dockerfile says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from stage.config import SETTINGS
from stage.demo.chain import free_ports
from tests.acceptance.image import Image, read_image
from tests.certificates import Authority

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_SECONDS_MAX = 30.0
PYTHON_PATH = "PYTHONPATH"


@pytest.fixture
def image() -> Image:
    return read_image()


@pytest.fixture
def environment(image: Image, tmp_path: Path) -> dict[str, str]:
    """That of the image; addresses, volume and the place of Python are those of the test."""
    found = {
        **image.environment,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "STAGE_HOST": HOST,
        "STAGE_PORT": str(free_ports(1)[0]),
        "STAGE_ADMIN_PORT": str(free_ports(1)[0]),
        "STAGE_DATABASE": f"sqlite:///{tmp_path / 'stage.db'}",
        "STAGE_EXTERNAL": "psp=http://127.0.0.1:9",
    }
    if PYTHON_PATH in os.environ:
        found[PYTHON_PATH] = os.environ[PYTHON_PATH]
    return found


async def run(
    environment: Mapping[str, str], folder: Path, *command: str
) -> tuple[int | None, str]:
    """Run a command to its end: its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=folder, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(START_SECONDS_MAX):
        said, complained = await process.communicate()
    return process.returncode, (said + complained).decode()


@asynccontextmanager
async def serving(
    image: Image, environment: Mapping[str, str], folder: Path
) -> AsyncIterator[Process]:
    """The start command of the image, once it listens."""
    process = await asyncio.create_subprocess_exec(
        *image.entrypoint, *image.command, env=environment, cwd=folder, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS_MAX):
            while not (line := await process.stdout.readline()).startswith(b"listening on"):
                assert line, "it ended before it listened"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_start_command_of_the_image_serves(
    image: Image, environment: dict[str, str], tmp_path: Path
) -> None:
    """Without a database it is refused; with one it serves, is healthy, and ends in order."""
    code = tmp_path / "app"
    code.mkdir()
    status, said = await run(environment, code, *image.entrypoint, *image.command)
    assert 2 == status
    assert "there is no database" in said and "stage db init" in said
    assert ["app"] == os.listdir(tmp_path)  # not even a lock file
    sick, _ = await run(environment, code, *image.health)
    assert sick
    init = ("db", "init", image.command[-1])
    status, said = await run(environment, code, *image.entrypoint, *init)
    assert 0 == status, said
    async with serving(image, environment, code) as process:
        healthy, said = await run(environment, code, *image.health)
        assert 0 == healthy, said
        process.terminate()
        async with asyncio.timeout(START_SECONDS_MAX):
            assert 0 == await process.wait()
    assert [] == os.listdir(code)  # it writes into its volume alone


@pytest.mark.parametrize("by", ["variables", "settings"])
async def test_the_image_is_healthy_with_a_certificate(
    image: Image, environment: dict[str, str], tmp_path: Path, by: str
) -> None:
    """Every port speaks TLS then, under names that are none of loopback. No proxy is asked."""
    cert, key = Authority(tmp_path).sign("payment", "payment.internal")
    given = {"tls_cert": str(cert), "tls_key": str(key)}
    environment["http_proxy"] = environment["https_proxy"] = "http://127.0.0.1:9"
    if by == "variables":
        environment |= {f"STAGE_{name.upper()}": value for name, value in given.items()}
    else:
        settings = tmp_path / "stage.toml"
        settings.write_text("".join(f"{name} = '{value}'\n" for name, value in given.items()))
        environment["STAGE_CONFIG"] = str(settings)
    init = ("db", "init", image.command[-1])
    status, said = await run(environment, tmp_path, *image.entrypoint, *init)
    assert 0 == status, said
    async with serving(image, environment, tmp_path):
        healthy, said = await run(environment, tmp_path, *image.health)
        assert 0 == healthy, said


async def test_the_start_command_of_the_image_serves_on_postgresql(
    image: Image, environment: dict[str, str], tmp_path: Path, postgres_url: str
) -> None:
    """Its database is made by `db init` as well, and nothing is written into its folder."""
    code = tmp_path / "app"
    code.mkdir()
    environment["STAGE_DATABASE"] = postgres_url
    status, said = await run(environment, code, *image.entrypoint, *image.command)
    assert 2 == status and "that of no stage yet" in said and "stage db init" in said
    status, said = await run(environment, code, *image.entrypoint, "db", "init", image.command[-1])
    assert 0 == status, said
    async with serving(image, environment, code) as process:
        healthy, said = await run(environment, code, *image.health)
        assert 0 == healthy, said
        process.terminate()
        async with asyncio.timeout(START_SECONDS_MAX):
            assert 0 == await process.wait()
    assert [] == os.listdir(code) and ["app"] == os.listdir(tmp_path)


def test_every_variable_of_the_image_is_a_setting(image: Image) -> None:
    """A misspelt one would be ignored with a warning."""
    known = {setting.variable for setting in SETTINGS}
    given = {name for name in image.environment if name.startswith("STAGE_")}
    assert given and set() == given - known


def test_the_image_runs_without_rights_on_a_volume(image: Image) -> None:
    """By number, so that a platform can see that it is not root."""
    user, _, group = image.user.partition(":")
    assert int(user) >= 10_000 and int(group) >= 10_000
    assert "true" == image.environment["STAGE_DATABASE_MUST_EXIST"]
    assert image.environment["STAGE_DATABASE"].startswith("sqlite:////var/lib/stage/")


async def test_the_image_lists_what_is_in_it(image: Image, tmp_path: Path) -> None:
    """The bill of materials has every package that the environment has, by name and version."""
    environment = dict(os.environ)
    script = str(ROOT / "deploy" / "sbom.py")
    status, said = await run(environment, tmp_path, sys.executable, script)
    assert 0 == status, said
    found = msgspec.json.decode(said)
    named = {each["name"]: each for each in found["components"]}
    assert ("CycloneDX", "1.6") == (found["bomFormat"], found["specVersion"])
    assert "saga-stage" == found["metadata"]["component"]["name"]
    assert "saga-stage" not in named
    assert {"aiohttp", "aiosqlite", "msgspec", "python", "structlog"} <= set(named)
    assert all(each["version"] for each in named.values())
    assert f"pkg:pypi/msgspec@{msgspec.__version__}" == named["msgspec"]["purl"]
    assert image.labels["org.cyclonedx.sbom"].endswith(".cdx.json")
