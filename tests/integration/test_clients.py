"""Clients that others' generators make from our OpenAPI document send sagas to a real stage."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from tests.scenario.chain import Chain, running_chain

HERE = Path(__file__).parent / "clients"
NPM = shutil.which("npm")
NODE = shutil.which("node")
needs_npm = pytest.mark.skipif(NPM is None or NODE is None, reason="npm or node is not installed")
UNREACHABLE = re.compile(r"code (ECONN\w+|ENOTFOUND|EAI_AGAIN|E\w*TIMEDOUT|E\w+UNREACH|E5\d\d)\b")
"""How npm names an error of the network, or of a registry that is down."""
PYTHON_SENDER = """
import asyncio, json, sys
from generated import Client
from generated.api.default import execute, query
from generated.models import Data, Envelope, Executed, Saga

async def main(base_url, saga_id):
    async with Client(base_url=base_url) as client:
        envelope = Envelope(
            saga_id=saga_id, data=Data(order_id="o-1", amount=100, currency="KRW")
        )
        sent = await execute.asyncio_detailed(client=client, body=envelope, prefer="wait=10")
        assert isinstance(sent.parsed, Executed), sent
        saga = await query.asyncio(saga_id, client=client)
        assert isinstance(saga, Saga), saga
        found = {"status": sent.status_code, "answer": sent.parsed.to_dict(), "state": saga.state}
        print(json.dumps(found))

asyncio.run(main(*sys.argv[1:]))
"""


async def run(*words: str, cwd: Path) -> bytes:
    """The output of a command, which must succeed."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert 0 == process.returncode, f"{' '.join(words)}: {(out + errors).decode()}"
    return out


async def document_of(chain: Chain, folder: Path) -> Path:
    """The document as the stage serves it, in a file."""
    _, _, body = await chain.request("GET", f"{chain.stage}/openapi.json")
    path = folder / "openapi.json"
    path.write_bytes(body)
    return path


async def check(chain: Chain, saga_id: str, out: bytes) -> None:
    """The client got its answer, and the saga is where it went."""
    printed = msgspec.json.decode(out)
    assert (200, "executed", "completed") == (
        printed["status"],
        printed["answer"]["outcome"],
        printed["state"],
    )
    assert "charge_id" in printed["answer"]["data"]["payment"]
    assert (1, 1) == await chain.charges()
    assert await chain.shipped(saga_id) is not None


async def test_a_client_of_openapi_python_client_sends_a_saga(tmp_path: Path) -> None:
    async with running_chain(tmp_path) as chain:
        path = await document_of(chain, tmp_path)
        settings = tmp_path / "settings.yml"
        settings.write_text("post_hooks: []\n")
        generator = str(Path(sys.executable).with_name("openapi-python-client"))
        out = await run(
            generator, "generate", "--path", str(path), "--config", str(settings),
            "--meta", "none", "--output-path", str(tmp_path / "generated"), "--fail-on-warning",
            cwd=tmp_path,
        )  # fmt: skip
        assert b"WARNING" not in out
        out = await run(sys.executable, "-c", PYTHON_SENDER, chain.stage, "py-1", cwd=tmp_path)
        await check(chain, "py-1", out)


async def installed(cache: Path) -> Path:
    """The pinned generator and compiler, installed once for each version of the pins."""
    assert NPM is not None
    pins = (HERE / "package-lock.json").read_bytes()
    folder = cache / hashlib.sha256(pins).hexdigest()[:16]
    if not (folder / ".ready").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        try:
            await run(NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
        except AssertionError as failed:
            if UNREACHABLE.search(str(failed)):
                pytest.skip("npm cannot reach its registry")
            raise
        (folder / ".ready").touch()
    return folder / "node_modules"


@needs_npm
async def test_a_client_of_openapi_typescript_sends_a_saga(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """It compiles under `tsc --strict`, and node sends one."""
    assert NODE is not None
    assert pytestconfig.cache is not None
    modules = await installed(pytestconfig.cache.mkdir("clients"))
    for name in ("package.json", "tsconfig.json", "send.ts"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(modules)
    async with running_chain(tmp_path) as chain:
        path = await document_of(chain, tmp_path)
        bins = modules / ".bin"
        api = str(tmp_path / "api.d.ts")
        await run(str(bins / "openapi-typescript"), str(path), "-o", api, cwd=tmp_path)
        await run(str(bins / "tsc"), "--strict", "-p", ".", cwd=tmp_path)
        out = await run(NODE, str(tmp_path / "out/send.js"), chain.stage, "ts-1", cwd=tmp_path)
        await check(chain, "ts-1", out)
