"""The services of the compose file, run as it says, outside of containers: a saga goes through."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp.test_utils import unused_port

from tests.acceptance.image import DOCKERFILE, read_image

COMPOSE = DOCKERFILE.with_name("compose.yaml")
HOST = "127.0.0.1"
SECONDS_MAX = 40.0


class Services:
    """Processes in place of containers: names of services are ports, volumes are folders."""

    def __init__(self, folder: Path) -> None:
        self._services: Any = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        self._folder = folder
        self._image = read_image()
        self._ports: dict[str, int] = {}
        self.running: list[Process] = []

    def port(self, number: str) -> int:
        """The port that stands for that one of a container."""
        return self._ports.setdefault(number, unused_port())

    def _here(self, text: str) -> str:
        """Addresses, ports and volumes as they are here."""
        for volume in ("/var/lib/stage", "/etc/stage/keys"):
            text = text.replace(volume, str(self._folder / Path(volume).name))
        text = re.sub(r"http://[a-z]+:(\d+)", lambda m: f"http://{HOST}:{self.port(m[1])}", text)
        if re.fullmatch(r"\d{4}", text):
            return str(self.port(text))
        return text.replace("0.0.0.0", HOST)

    def _environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        given = {**self._image.environment, **service.get("environment", {})}
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        python = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return {
            **{name: self._here(value) for name, value in given.items()},
            "PATH": path,
            **python,
        }

    async def start(self, name: str) -> Process:
        """Start the service of that name."""
        service = self._services[name]
        entrypoint = service.get("entrypoint", self._image.entrypoint)
        command = service.get("command", self._image.command)
        process = await asyncio.create_subprocess_exec(
            *(self._here(each) for each in (*entrypoint, *command)),
            env=self._environment(service),
            stdout=PIPE,
        )
        self.running.append(process)
        return process

    async def listening(self, name: str) -> None:
        """Start the service of that name, and return when it listens."""
        process = await self.start(name)
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS_MAX):
            while not (line := await process.stdout.readline()).startswith(b"listening on"):
                assert line, f"{name} did not start"


@pytest.mark.timeout(180)
async def test_a_saga_goes_through_the_services_of_the_compose_file(tmp_path: Path) -> None:
    """Commands, tokens, names of hosts and settings fit each other."""
    services = Services(tmp_path)
    for volume in ("stage", "keys"):
        os.mkdir(tmp_path / volume)
    try:
        assert 0 == await (await services.start("keys")).wait()
        for name in ("psp", "shipping", "order", "payment"):
            await services.listening(name)
        order = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
        url = f"http://{HOST}:{services.port('8081')}/orders"
        async with aiohttp.ClientSession() as session, session.post(url, json=order) as answer:
            assert 200 == answer.status, await answer.text()
        payment = services.running[-1]
        payment.terminate()
        async with asyncio.timeout(SECONDS_MAX):
            assert 0 == await payment.wait()
    finally:
        for process in services.running:
            if process.returncode is None:
                process.kill()
            await process.communicate()
