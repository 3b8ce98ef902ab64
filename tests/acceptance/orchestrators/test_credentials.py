"""Stage and worker show their API key and their certificate to a Temporal that checks both.

The dev server asks for nothing, so a real nginx stands before it and refuses whoever is wrong.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from temporalio.client import Client as TemporalClient

from examples.temporal.processes import NoServer, TemporalServer, Worker, program
from stage.demo.chain import LOOPBACK, free_ports, url
from stage.orchestrators.temporal.client import Chain, end_of
from tests.acceptance.gateway.nginx import NGINX
from tests.acceptance.orchestrators.gate import Gate
from tests.acceptance.orchestrators.parts import ORDER, STAGES, Parts
from tests.certificates import Authority

UNTIL_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
FIRST, SECOND = "first-key", "second-key"


class Guarded:
    """Temporal behind a gate, and the files of those that it lets in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = TemporalServer(folder)
        self.gate = Gate(folder / "gate", self.server.address, api_key=FIRST)
        self.key = folder / "api-key"
        self.key.write_text(FIRST)
        self.cert, self.private = folder / "worker.pem", folder / "worker.key"
        self.renew(self.gate.authority)

    def renew(self, authority: Authority) -> None:
        """Write a new certificate and its key, one after the other as any renewal does."""
        cert, private = authority.sign("worker", "worker", file="renewed")
        shutil.copy(cert, self.cert)
        shutil.copy(private, self.private)

    def files(self) -> dict[str, str]:
        """The settings that name the files."""
        return {
            "temporal_ca_file": str(self.gate.authority.file),
            "temporal_client_cert": str(self.cert),
            "temporal_client_key": str(self.private),
            "temporal_api_key_file": str(self.key),
        }

    def rotate(self) -> None:
        """Another key and another authority from here on, here and at the gate."""
        (self.folder / "later").mkdir()
        later = Authority(self.folder / "later")
        self.key.write_text(SECOND)
        self.renew(later)
        self.gate.admit(api_key=SECOND, trusted=later)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Guarded]:
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    if NGINX is None:
        pytest.skip("nginx is not installed")
    made = Guarded(tmp_path)
    try:
        await made.server.start()
        await made.gate.start()
        yield made
    finally:
        await made.gate.stop()
        await made.server.kill()


@pytest.fixture
async def driven(guarded: Guarded) -> AsyncIterator[Parts]:
    """A stage whose sagas Temporal runs, behind the gate. Its port is open, its worker may not."""
    options = [("--temporal-address", guarded.gate.address), ("--engine", "temporal")]
    options += [(f"--{name.replace('_', '-')}", file) for name, file in guarded.files().items()]
    given = [each for option in options for each in option]
    (door,) = free_ports(1)
    parts = Parts(guarded.folder, caller="order", door=url(door), engine=given)
    try:
        await parts.client.__aenter__()
        await parts.psp.start()
        yield parts
    finally:
        await parts.stop()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Return when something holds that no event announces."""
    async with asyncio.timeout(UNTIL_SECONDS_MAX):
        while not await true():  # noqa: ASYNC110 - other processes
            await asyncio.sleep(POLL_SECONDS)


async def begin(parts: Parts, saga_id: str) -> None:
    """Have the stage accept a saga."""
    data = {"saga_id": saga_id, "data": ORDER}
    headers = {"Prefer": "respond-async", "Saga-Budget-Ms": "120000"}
    assert 202 == (await parts.client.post(f"{parts.payment.url}/sagas", data, headers)).status


async def until_completed(parts: Parts, saga_id: str) -> None:
    """Return when the saga is."""

    async def completed() -> bool:
        saga = await parts.client.saga(parts.payment, saga_id)
        return saga is not None and saga["state"] == "completed"

    await until(completed)


async def test_a_stage_is_let_in_with_the_key_alone(guarded: Guarded, driven: Parts) -> None:
    """With another one it is refused, and its sagas wait; the right one is read without a start."""
    guarded.key.write_text("of-somebody-else")
    await driven.payment.start()
    await begin(driven, "keyed-1")

    async def refused() -> bool:
        return "401" in guarded.gate.answers()

    await until(refused)
    assert {"401"} == guarded.gate.answers()
    saga = await driven.client.saga(driven.payment, "keyed-1")
    assert saga is not None and "active" == saga["state"]

    guarded.key.write_text(FIRST)
    await until_completed(driven, "keyed-1")
    assert "200" in guarded.gate.answers()


async def test_a_stage_shows_a_new_key_and_a_new_certificate(
    guarded: Guarded, driven: Parts
) -> None:
    """The gate ends its connections and believes the former ones no more."""
    await driven.payment.start()
    await begin(driven, "renewed-1")
    await until_completed(driven, "renewed-1")
    guarded.rotate()
    await begin(driven, "renewed-2")
    await until_completed(driven, "renewed-2")


async def test_a_worker_of_a_chain_shows_a_new_key_and_a_new_certificate(guarded: Guarded) -> None:
    """Its activities and its door use the new connection."""
    (door,) = free_ports(1)
    parts = Parts(guarded.folder, caller="temporal", door=url(door))
    file = guarded.folder / "chain.toml"
    settings = {"address": guarded.gate.address, **guarded.files()}
    settings |= {"listen": f"{LOOPBACK}:{door}", "auth": "none"}
    lines = [f'{name} = "{value}"' for name, value in settings.items()]
    lines += [f'[stages.{name}]\nurl = "{where}"' for name, where in parts.urls().items()]
    file.write_text("\n".join(lines))
    worker = Worker(file)
    try:
        await parts.start()
        await worker.start()
        client = await TemporalClient.connect(guarded.server.address)
        chain = Chain(client, STAGES, task_queue="sagas")
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            assert "executed" == (await end_of(await chain.start("w-1", ORDER))).outcome
        guarded.rotate()
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            assert "executed" == (await end_of(await chain.start("w-2", ORDER))).outcome
        asked = {"requested_by": "payment", "reason": "a late failure"}

        async def taken() -> bool:
            where = f"{url(door)}/sagas/w-2/compensate"
            return 202 == (await parts.client.post(where, asked)).status

        async def undone() -> bool:
            return "compensated" == (await end_of(chain.find("w-2"))).outcome

        await until(taken)
        await until(undone)
    finally:
        await worker.stop()
        await parts.stop()
