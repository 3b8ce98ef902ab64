"""`make fuzz`: schemathesis sends what our OpenAPI document allows, and what it does not (F10).

Once where everybody is believed, so that every request gets in, and once to a stage that asks for
names and gets none. It has some 30 requirements of its own, and so an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from stage.demo.chain import Chain, free_ports, url

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / ".venv-fuzz" / "bin" / "st"
EXAMPLES = int(os.environ.get("EXAMPLES", "400"))
"""Of each operation and phase."""
SEED = os.environ.get("SEED", "1")
CHECKS = (
    "explained_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance"
)
EVIDENCE = ROOT / "docs" / "evidence" / "fuzz.json"


@asynccontextmanager
async def believing(chain: Chain, folder: Path) -> AsyncIterator[str]:
    """A stage that believes every name, before the psp and the shipping of the chain."""
    [port] = free_ports(1)
    command = [
        *(sys.executable, "-m", "stage", "serve", "stage.demo.payment:payment"),
        *("--auth", "none", "--port", str(port), "--database", f"sqlite:///{folder / 'f.db'}"),
        *("--downstream", f"shipping={chain.shipping.url}", "--external", f"psp={chain.psp.url}"),
        *("--downstream", f"shipping.token_file={chain.keys.token_file('payment-shipping')}"),
        *("--wait-seconds-max", "0.2", "--compensation-patience-seconds", "5"),
    ]
    with (folder / "fuzz.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=log,
            env={**os.environ, "STAGE_LOG_FORMAT": "json"},
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            await process.stdout.readline()
        yield url(port)
    finally:
        process.kill()
        await process.communicate()  # until its pipe is closed too


def judged(document: Path, address: str) -> int:
    """Run the tool; how many cases it made, all of which it has nothing against."""
    command = [
        *(str(TOOL), "run", str(document), "--url", address, "--checks", CHECKS),
        *("-n", str(EXAMPLES), "--seed", SEED, "--continue-on-failure", "--no-color"),
        *("--generation-database", "none"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("api_checks.py"))}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **hooks}
    )
    assert 0 == done.returncode, done.stdout[-6_000:]
    found = re.search(r"(\d+) generated", done.stdout)
    assert found is not None, done.stdout[-2_000:]
    return int(found[1])


@pytest.mark.timeout(7_200)
async def test_every_answer_fits_the_document(processes: Chain, tmp_path: Path) -> None:
    """No 5xx that is not explained, no answer beside the document, and no defect in the log."""
    document = tmp_path / "openapi.json"
    async with believing(processes, tmp_path) as address:
        async with aiohttp.ClientSession() as asking, asking.get(f"{address}/openapi.json") as got:
            document.write_bytes(await got.read())
        believed = await asyncio.to_thread(judged, document, address)
    nameless = await asyncio.to_thread(judged, document, processes.payment.url)

    log = (tmp_path / "fuzz.log").read_text(encoding="utf-8")
    assert '"event":"defect"' not in log
    cases = {"believed": believed, "nameless": nameless}
    found = {"seed": SEED, "examples": EXAMPLES, "cases": cases, "unexplained": 0}
    EVIDENCE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
