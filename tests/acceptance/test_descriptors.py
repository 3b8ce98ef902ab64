"""A stage that may open few files, and a caller that opens many connections."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from stage.demo.chain import LOOPBACK, Chain, free_ports, url
from stage.demo.client import Client

DESCRIPTORS = 256
CONNECTIONS = 300
LIMIT_SECONDS = 60.0


@asynccontextmanager
async def stage_of_few_files(chain: Chain, folder: Path, port: int) -> AsyncIterator[Process]:
    command = [
        *(sys.executable, "-m", "stage", "serve", "stage.demo.payment:payment"),
        *("--auth", "none", "--port", str(port), "--database", f"sqlite:///{folder / 'few.db'}"),
        *("--downstream", f"shipping={chain.shipping.url}", "--external", f"psp={chain.psp.url}"),
        *("--downstream", f"shipping.token_file={chain.keys.token_file('payment-shipping')}"),
    ]
    limited = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh", *command]
    with (folder / "few.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *limited, stdin=DEVNULL, stdout=PIPE, stderr=log,
            env={**os.environ, "STAGE_LOG_FORMAT": "json"},
        )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_SECONDS):
        await process.stdout.readline()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()  # until its pipe is closed too


async def test_more_connections_than_descriptors_stop_no_saga(
    processes: Chain, client: Client, tmp_path: Path
) -> None:
    """They have places of their own: requests to peers find a descriptor, and 20 of 20 sagas end
    well. Before, good requests were dead, and sagas ended with "too many open files"."""
    [port] = free_ports(1)
    async with stage_of_few_files(processes, tmp_path, port) as process:
        held = []
        for _ in range(CONNECTIONS):
            async with asyncio.timeout(LIMIT_SECONDS):
                held.append(await asyncio.open_connection(LOOPBACK, port))
        for _, writer in held[: CONNECTIONS // 2]:
            writer.write(b"GET /hea")
        await asyncio.sleep(1.0)
        data = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
        replies = [
            await client.post(f"{url(port)}/sagas", {"saga_id": f"few-{n}", "data": data})
            for n in range(20)
        ]
        assert [200] * 20 == [reply.status for reply in replies], replies[0].body
        process.terminate()
        async with asyncio.timeout(LIMIT_SECONDS):
            await process.wait()
        for _, writer in held:
            writer.close()
    log = (tmp_path / "few.log").read_text()
    events = [json.loads(line)["event"] for line in log.splitlines() if line[:1] == "{"]
    assert "open files" not in log, log
    assert "defect" not in events
