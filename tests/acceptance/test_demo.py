"""`stage demo` as a user runs it: real processes, one of them killed with SIGKILL."""

from __future__ import annotations

import asyncio
import ssl
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from stage.cli.demo import demo as command
from stage.demo import certificates, run
from stage.demo.chain import NAMES as SERVICES
from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.stories import place

NAMES = [
    "completed",
    "refused",
    "in-doubt",
    "late-failure",
    "overtaken",
    "five-times",
    "killed",
    "gateway",
    "pending",
]


async def demo(*arguments: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stage", "demo", *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(100):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()  # until its pipes are closed too
    assert process.returncode is not None
    return process.returncode, out, err


@pytest.mark.execs
@pytest.mark.timeout(110)
async def test_the_nine_stories_end_as_expected_and_the_books_balance() -> None:
    """Exit status 0, nine stories, no effect that is not accounted for."""
    status, out, err = await demo("--json")
    assert 0 == status, (out, err)
    report = msgspec.json.decode(out)
    assert NAMES == [story["name"] for story in report["stories"]]
    assert all(story["ok"] for story in report["stories"])
    assert (0, True) == (report["unaccounted_effects"], report["ok"])
    assert report["tls"]
    for story in report["stories"]:
        assert {"name", "saga_id", "trace_id", "outcome", "states", "charges", "ok"} == set(story)
        assert {"order", "payment", "shipping"} == set(story["states"])
        assert 32 == len(story["trace_id"]), story["name"]
    charges = {story["name"]: story["charges"] for story in report["stories"]}
    assert {"made": 1, "standing": 1} == charges["killed"]
    assert {"made": 1, "standing": 0} == charges["late-failure"]


async def plain_answer(port: int) -> bytes:
    """The answer to a request without TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.execs
@pytest.mark.timeout(110)
async def test_no_service_of_the_demo_speaks_without_tls(tmp_path: Path) -> None:
    """A saga goes through all of them; each shows its own name, and a plain request gets none."""
    chain = Chain(tmp_path, tls=True)
    try:
        await chain.start()
        trusted = chain.trusted()
        async with Client(chain.payment.url, chain.keys, trusted) as client:
            assert 200 == (await place(chain, client, "s-1")).status
        for service in chain.services:
            assert service.url.startswith("https:")
            assert b"HTTP/1.1 2" not in await plain_answer(service.port), service.name
            _, writer = await asyncio.open_connection(
                "127.0.0.1", service.port, ssl=trusted, server_hostname=service.name
            )
            shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert shown.version() in ("TLSv1.2", "TLSv1.3")
            writer.transport.abort()
    finally:
        await chain.stop()


def test_the_keys_of_the_demo_are_for_their_owner_alone(tmp_path: Path) -> None:
    """One for each service; the authority's own is written nowhere."""
    certificates.Certificates(tmp_path, SERVICES).write()
    keys = sorted(tmp_path.glob("*.key"))
    assert sorted(f"{name}.key" for name in SERVICES) == [file.name for file in keys]
    assert {0o600} == {file.stat().st_mode & 0o777 for file in keys}
    assert 1 + 2 * len(SERVICES) == len([*tmp_path.iterdir()])


def test_the_demo_does_without_tls_only_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By default there is TLS where the library is; without it, --tls says what to install."""
    asked: list[run.Asked] = []
    monkeypatch.setattr(run, "main", asked.append)
    CliRunner().invoke(command, [])
    CliRunner().invoke(command, ["--no-tls"])
    monkeypatch.setattr(certificates, "can_be_made", lambda: False)
    CliRunner().invoke(command, [])
    assert [True, False, False] == [each.tls for each in asked]
    refused = CliRunner().invoke(command, ["--tls"])
    assert 0 != refused.exit_code
    assert "saga-stage[encryption]" in str(refused.exception) + refused.output
    assert 3 == len(asked)
