"""`make backend`: a real OTLP backend gets the demo's spans, and is asked for them.

The backend is Arize Phoenix: it takes OTLP over HTTP, keeps spans in a database of its own and has
a query API. Where chromium is installed, the picture of docs/tracing.md is made anew.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from stage.demo.chain import free_ports
from stage.testing import Spans, SpanSeen
from tests.acceptance.test_otlp import COMPLETED, IN_DOUBT, LATE_FAILURE, OVERTAKEN, REFUSED

ROOT = Path(__file__).resolve().parents[2]
PHOENIX = ROOT / ".venv-backend" / "bin" / "phoenix"
PICTURE = ROOT / "docs" / "pictures" / "late-failure.png"
START_SECONDS_MAX = 120.0
SPANS_MAX = 1_000
TREES = {
    "completed": COMPLETED,
    "refused": REFUSED,
    "in-doubt": IN_DOUBT,
    "late-failure": LATE_FAILURE,
    "overtaken": OVERTAKEN,
}
"""The stories whose whole tree is known; of the others see test_otlp."""
OF_EACH_PROCESS = {
    "five-times": {"story five-times", "saga payment", "POST /charges"},
    "killed": {"story killed", "POST /orders", "saga payment", "POST /charges"},
}


class StoredSpans(Spans):
    """Spans that the backend gave back."""

    def __init__(self, spans: list[SpanSeen]) -> None:
        self._spans = tuple(spans)

    def _now(self) -> tuple[SpanSeen, ...]:
        return self._spans


@asynccontextmanager
async def backend(folder: Path) -> AsyncIterator[str]:
    """Its URL while it runs, with everything it keeps in that folder."""
    port = free_ports(1)[0]
    settings = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_ports(1)[0]),
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    process = await asyncio.create_subprocess_exec(
        PHOENIX, "serve", env={"PATH": "/usr/bin:/bin", **settings}, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(START_SECONDS_MAX), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{url}/healthz") as answer:
                        if 200 == answer.status:
                            break
                except aiohttp.ClientError:
                    assert process.returncode is None, "the backend ended"
                await asyncio.sleep(0.2)  # it tells nobody when it is ready
        yield url
    finally:
        process.terminate()
        await process.wait()


async def demo(url: str) -> dict[str, Any]:
    """Run the demo against the backend: its stories by name."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stage", "demo", "--json", "--otlp", url, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    assert 0 == process.returncode, (out, err)
    return {story["name"]: story for story in msgspec.json.decode(out)["stories"]}


async def of_trace(
    session: aiohttp.ClientSession, url: str, trace_id: str, names: int
) -> StoredSpans:
    """The spans of one trace; it stores them some time after it took them."""
    asked = f"{url}/v1/projects/default/spans/otlpv1"
    query = {"trace_id": trace_id, "limit": str(SPANS_MAX)}
    spans: list[SpanSeen] = []
    for _ in range(100):
        async with session.get(asked, params=query) as answer:
            assert 200 == answer.status, await answer.text()
            spans = [seen(span) for span in (await answer.json())["data"]]
        if len(spans) >= names:
            break
        await asyncio.sleep(0.1)
    return StoredSpans(spans)


def seen(span: Mapping[str, Any]) -> SpanSeen:
    """One span of its answer. It keeps no resource: there is no service in it."""
    return SpanSeen(
        name=span["name"],
        kind=span["kind"].removeprefix("SPAN_KIND_").lower(),
        trace_id=span["trace_id"],
        span_id=span["span_id"],
        parent_id=span["parent_span_id"] or "",
        began=span["start_time_unix_nano"],
        ended=span["end_time_unix_nano"],
    )


def shape(tree: str) -> list[str]:
    """The lines of a tree with the names of the spans alone."""
    return [re.sub(r"(?<=\S)  +.*$", "", line).rstrip() for line in tree.splitlines()]


async def photograph(url: str, trace_id: str) -> None:
    """Save how the backend shows one trace."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/projects") as answer:
        (project,) = (await answer.json())["data"]
    chromium = shutil.which("chromium")
    assert chromium is not None
    PICTURE.parent.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--window-size=1500,1500", "--virtual-time-budget=15000", f"--screenshot={PICTURE}",
        f"{url}/projects/{project['id']}/traces/{trace_id}",
        stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    assert 0 == await process.wait()


@pytest.mark.timeout(400)
@pytest.mark.blocking
async def test_a_backend_finds_the_spans_of_all_processes_under_one_trace_id(
    tmp_path: Path,
) -> None:
    """Asked by trace id it gives back each story whole, from the client to the provider."""
    async with backend(tmp_path) as url, aiohttp.ClientSession() as session:
        stories = await demo(url)
        for name, tree in TREES.items():
            wanted = shape(tree)
            spans = await of_trace(session, url, stories[name]["trace_id"], len(wanted))
            assert wanted == shape(spans.tree(times=False)), name
        for name, some in OF_EACH_PROCESS.items():
            spans = await of_trace(session, url, stories[name]["trace_id"], 13)
            assert some <= {span.name for span in spans}, name
        if shutil.which("chromium") is not None:
            await photograph(url, stories["late-failure"]["trace_id"])
            print(f"saved: {PICTURE.relative_to(ROOT)}")
