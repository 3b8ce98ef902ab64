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

from stage.demo.chain import free_ports
from tests.acceptance.image import DOCKERFILE, read_image

COMPOSE = DOCKERFILE.with_name("compose.yaml")
ON_POSTGRES = DOCKERFILE.with_name("compose.postgres.yaml")
HOST = "127.0.0.1"
SECONDS_MAX = 40.0


class Services:
    """Processes in place of containers: names of services are ports, volumes are folders."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self._services: Any = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        if database:  # the second file goes over the first one, as compose merges them
            over = yaml.safe_load(ON_POSTGRES.read_text(encoding="utf-8"))["services"]
            for name, service in over.items():
                first = self._services.setdefault(name, {})
                merged = {**first.get("environment", {}), **service.get("environment", {})}
                self._services[name] = {**first, **service, "environment": merged}
        self._database = database
        self._folder = folder
        self._image = read_image()
        self._ports: dict[str, int] = {}
        self.running: list[Process] = []

    def port(self, number: str) -> int:
        """The port that stands for that one of a container."""
        return self._ports.setdefault(number, free_ports(1)[0])

    def forget(self, *numbers: str) -> None:
        """Let other ports stand for these from now on."""
        for number in numbers:
            self._ports.pop(number, None)

    def _here(self, text: str) -> str:
        """Addresses, ports, volumes and the server as they are here."""
        if text.startswith("postgresql:"):
            assert re.fullmatch(r"postgresql://stage:stage@postgres:5432/stage", text)
            return self._database
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
async def test_a_saga_goes_through_two_replicas_on_postgresql(
    tmp_path: Path, postgres_url: str
) -> None:
    """A duplicate that reaches the other replica gets the same bytes."""
    services = Services(tmp_path, postgres_url)
    for volume in ("stage", "keys"):
        os.mkdir(tmp_path / volume)
    try:
        assert 0 == await (await services.start("keys")).wait()
        for name in ("psp", "shipping", "order"):
            await services.listening(name)
        doors = []
        for name in ("payment", "payment-2"):
            services.forget("8080", "9080")  # each replica has ports of its own
            await services.listening(name)
            doors.append(services.port("8080"))
        assert doors[0] != doors[1]
        order = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
        trail = [{"stage": "order", "at": "2026-11-23T02:29:58.120Z"}]
        saga = {"saga_id": "o-1", "data": order, "trail": trail}
        token = (tmp_path / "keys" / "order-payment.token").read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {token}", "Host": "payment"}
        answers = []
        async with aiohttp.ClientSession(headers=headers) as session:
            for door in doors:
                async with session.post(f"http://{HOST}:{door}/sagas", json=saga) as answer:
                    assert 200 == answer.status, await answer.text()
                    answers.append(await answer.read())
        assert answers[0] == answers[1]
    finally:
        for process in services.running:
            if process.returncode is None:
                process.kill()
            await process.communicate()


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
