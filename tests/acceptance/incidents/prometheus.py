"""A real Prometheus with the rules that we ship, scraping stages on loopback."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from stage.demo.chain import free_ports

PROMETHEUS = shutil.which("prometheus")
HOST = "127.0.0.1"
RULES = Path(__file__).resolve().parents[3] / "examples/prometheus/alerts.yaml"
START_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.5


class Prometheus:
    """Its API, as far as it is asked here."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        async with self._session.get(
            f"{self._url}/api/v1/query", params={"query": expression}
        ) as answer:
            result: list[dict[str, Any]] = (await answer.json())["data"]["result"]
            return result

    async def scraped(self, targets: Iterable[str], times: int) -> None:
        """Return when each of them was scraped so many times."""
        wanted = set(targets)
        await self._until(
            lambda found: wanted <= {each["metric"]["instance"] for each in found},
            f"count_over_time(up[1h]) >= {times} and up == 1",
        )

    async def fired(self, alert: str, instance: str, seconds: float) -> float | None:
        """How long it took until that alert fires, in seconds; None for not in time."""
        began = time.monotonic()
        expression = f'ALERTS{{alertname="{alert}",alertstate="firing",instance="{instance}"}}'
        while not await self.query(expression):
            if time.monotonic() - began > seconds:
                return None
            await asyncio.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    async def firing(self) -> dict[str, set[str]]:
        """The alerts that fire, by instance."""
        found: dict[str, set[str]] = {}
        for each in await self.query('ALERTS{alertstate="firing"}'):
            metric = each["metric"]
            found.setdefault(metric["instance"], set()).add(metric["alertname"])
        return found

    async def _until(self, holds: Any, expression: str) -> None:
        async with asyncio.timeout(START_SECONDS_MAX):
            while True:
                try:
                    if holds(await self.query(expression)):
                        return
                except (aiohttp.ClientError, KeyError, json.JSONDecodeError):
                    pass  # it starts
                await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def running_prometheus(
    folder: Path, schemes: Mapping[str, str], interval_seconds: int
) -> AsyncIterator[Prometheus]:
    """Start one that scrapes these targets, `host:port` with the scheme of each."""
    assert PROMETHEUS is not None
    scraped = [
        {
            "job_name": f"stage-{scheme}",
            "scheme": scheme,
            "tls_config": {"insecure_skip_verify": True},
            "static_configs": [
                {"targets": [target for target, its in schemes.items() if its == scheme]}
            ],
        }
        for scheme in sorted(set(schemes.values()))
    ]
    every = f"{interval_seconds}s"
    times = {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every}
    config = folder / "prometheus.yml"  # JSON is YAML
    config.write_text(
        json.dumps({"global": times, "rule_files": [str(RULES)], "scrape_configs": scraped})
    )
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={HOST}:{port}",
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, f"http://{HOST}:{port}")
    finally:
        process.kill()
        await process.wait()
