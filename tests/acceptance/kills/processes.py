"""One process of the trial: started, killed with SIGKILL, started again on the same port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[3]
IMPORT_SECONDS_MAX = 60.0
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0


class DidNotStart(Exception):
    """A process did not come, or did not come back; the message holds what it said."""


class Server:
    """A process that says `listening on` when it serves, one child of a zygote after the other."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.pid = 0
        """The id of the child that lives, or 0."""
        self.ends: list[int] = []
        """How its children have ended: exit statuses, signals as negative numbers."""
        self.listening = asyncio.Event()
        """Set while the child serves."""
        self.ended = asyncio.Event()
        """Set while there is no child."""
        self.ended.set()
        self._module = module
        self._arguments = arguments
        self._log = log
        self._environment = dict(environment or {})
        self._forked: asyncio.Future[int] | None = None
        self._zygote: Process | None = None
        self._ear: asyncio.Task[None] | None = None

    def become(self, *words: str) -> None:
        """Give the next child these first arguments in place of as many."""
        self._arguments = [*words, *self._arguments[len(words) :]]

    async def prepare(self) -> None:
        """Import the program. Raises DidNotStart."""
        with self._log.open("ab") as log:
            self._zygote = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.acceptance.kills.zygote", self._module),
                cwd=ROOT,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env={
                    **os.environ,
                    "STAGE_LOG_FORMAT": "json",
                    "STAGE_LOG_LEVEL": "error",
                    **self._environment,
                },
            )
        assert self._zygote.stdout is not None
        async with asyncio.timeout(IMPORT_SECONDS_MAX):
            if b"\nready\n" != await self._zygote.stdout.read(len(b"\nready\n")):
                raise DidNotStart(f"{self.name}: {self._last_words()}")
        self._ear = asyncio.create_task(self._listen(self._zygote.stdout))

    async def spawn(self, *, held: bool = False) -> int:
        """Start it and do not wait until it serves; its pid."""
        assert self._zygote is not None and self._zygote.stdin is not None
        assert self.ended.is_set(), f"{self.name} lives"
        self._forked = asyncio.get_running_loop().create_future()
        order = json.dumps({"run": list(self._arguments), "held": held})
        self._zygote.stdin.write(order.encode() + b"\n")
        async with asyncio.timeout(START_SECONDS_MAX):
            return await self._forked

    async def start(self) -> None:
        """Start it and return when it serves. Raises DidNotStart."""
        await self.spawn()
        await self.until_listening()

    async def until_listening(self) -> None:
        """Return when it serves. Raises DidNotStart."""
        waits = [asyncio.create_task(each.wait()) for each in (self.listening, self.ended)]
        await asyncio.wait(waits, timeout=START_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if not self.listening.is_set():
            raise DidNotStart(f"{self.name} did not start: {self._last_words()}")

    async def kill(self) -> None:
        """SIGKILL, and return when it is gone."""
        self.send(signal.SIGKILL)
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await self.ended.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self) -> int | None:
        """SIGTERM; its exit status, or None when it had to be killed."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self.ended.wait()
        except TimeoutError:
            await self.kill()
            return None
        return self.ends[-1] if self.ends else None

    async def close(self) -> None:
        """Kill it if it lives, and let go of the zygote."""
        if self._zygote is None:
            return
        if self._zygote.returncode is None:
            await self.kill()
            self._zygote.kill()
        await self._zygote.wait()
        if self._ear is not None:
            await self._ear

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        while line := (await stdout.readline()).decode(errors="replace"):
            word, _, rest = line.strip().partition(" ")
            if word == "forked":
                self.pid = int(rest)
                self.ended.clear()
                assert self._forked is not None
                self._forked.set_result(self.pid)
            elif word == "listening":
                self.listening.set()
            elif word == "ended":
                self.pid = 0
                self.ends.append(int(rest.split()[1]))
                self.listening.clear()
                self.ended.set()

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace")[-2_000:].strip()
        return said or "it said nothing"
