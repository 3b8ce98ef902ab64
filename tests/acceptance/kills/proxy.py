"""A faulty network: one TCP proxy a link, which knows where a request and an answer end.

    python -m tests.acceptance.kills.proxy --seed 1 --record faults.jsonl \\
        --link order-payment=9001:8001 ...

By the dice of its link a request is cut before it is forwarded, cut after it was forwarded (the
answer is read and dropped), cut in the middle of the answer, delayed (also beyond the patience of
who asked), or sent twice: the same bytes on a second connection, at once or seconds later.
SIGUSR1 heals the network. Every fault is a line of the record with the saga it struck, and so is
every target that went away with a request in its hands.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.acceptance.kills.http1 import Broken, Connection, Message, listen, read_message

FAULTS = {
    "cut_before": 0.010,
    "cut_after": 0.012,
    "cut_mid_answer": 0.008,
    "delay": 0.010,
    "delay_long": 0.004,
    "duplicate": 0.010,
    "duplicate_late": 0.006,
}
"""The share of requests that each fault strikes."""
DELAY_SECONDS = (0.02, 0.3)
DELAY_LONG_SECONDS = (1.0, 2.5)
DUPLICATE_LATE_SECONDS = (0.3, 4.0)
DUPLICATES_MAX = 500
"""Late duplicates that may wait at the same time."""
SAGA_ID = re.compile(rb"k\d+-\d+")


class Record:
    """The lines that say what was done to whom."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, link: str, what: str, request: Message) -> None:
        """One line, for those who look for a saga."""
        found = SAGA_ID.search(request.raw)
        saga_id = "" if found is None else found.group().decode()
        fault = {"at": time.time(), "link": link, "what": what, "saga_id": saga_id}
        self._file.write(json.dumps({**fault, "request": request.start}) + "\n")


class Link:
    """One direction between two neighbours: who asks connects here, who answers is behind it."""

    def __init__(self, name: str, target: int, seed: int, record: Record) -> None:
        self._name = name
        self._target = target
        self._dice = random.Random(f"{seed}/proxy/{name}")
        self._record = record
        self._duplicates: set[asyncio.Task[None]] = set()
        self.healed = False

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the requests of one connection until a fault, or until either side is gone."""
        behind: Connection | None = None
        try:
            while (request := await read_message(reader)) is not None:
                fault = self._draw(request)
                if fault == "cut_before":
                    return
                await self._delay(fault)
                self._duplicate(fault, request)
                if behind is None or not behind.usable:
                    if behind is not None:
                        behind.close()
                    behind = await Connection.to(self._target)
                answer = await self._carry(behind, request)
                if fault == "cut_after":
                    return
                if fault == "cut_mid_answer":
                    writer.write(answer.raw[: self._dice.randrange(1, len(answer.raw))])
                    await writer.drain()
                    return
                writer.write(answer.raw)
                await writer.drain()
        finally:
            if behind is not None:
                behind.close()

    def _draw(self, request: Message) -> str:
        """The fault of this request, or nothing. The dice fall once a request, healed or not."""
        number = self._dice.random()
        if self.healed:
            return ""
        for fault, share in FAULTS.items():
            number -= share
            if number < 0:
                self._record.write(self._name, fault, request)
                return fault
        return ""

    async def _delay(self, fault: str) -> None:
        if fault == "delay":
            await asyncio.sleep(self._dice.uniform(*DELAY_SECONDS))
        elif fault == "delay_long":
            await asyncio.sleep(self._dice.uniform(*DELAY_LONG_SECONDS))

    def _duplicate(self, fault: str, request: Message) -> None:
        if not fault.startswith("duplicate") or len(self._duplicates) >= DUPLICATES_MAX:
            return
        late = self._dice.uniform(*DUPLICATE_LATE_SECONDS) if fault == "duplicate_late" else 0.0
        task = asyncio.get_running_loop().create_task(self._send_again(request, late))
        self._duplicates.add(task)
        task.add_done_callback(self._duplicates.discard)

    async def _send_again(self, request: Message, seconds: float) -> None:
        await asyncio.sleep(seconds)
        try:
            connection = await Connection.to(self._target)
        except Broken:
            return
        try:
            async with asyncio.timeout(30.0):
                await connection.ask(request.raw)
        except (Broken, TimeoutError):
            pass
        finally:
            connection.close()

    async def _carry(self, behind: Connection, request: Message) -> Message:
        try:
            return await behind.ask(request.raw)
        except Broken:
            self._record.write(self._name, "target_went_away", request)
            raise


async def serve(links: Sequence[tuple[str, int, int]], seed: int, record: Path) -> None:
    """Carry until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    with record.open("a", buffering=1) as file:
        carried = [Link(name, target, seed, Record(file)) for name, _, target in links]

        def heal() -> None:
            for link in carried:
                link.healed = True

        loop.add_signal_handler(signal.SIGUSR1, heal)
        servers = [
            await listen(link.converse, port)
            for link, (_, port, _) in zip(carried, links, strict=True)
        ]
        print("listening on all links", flush=True)
        await stop.wait()
        for server in servers:
            server.close()


def link_of(text: str) -> tuple[str, int, int]:
    """`NAME=PORT:TARGET`, a link and its two ports."""
    name, _, ports = text.partition("=")
    port, _, target = ports.partition(":")
    return name, int(port), int(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and carry."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.kills.proxy")
    parser.add_argument("--link", type=link_of, action="append", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.link, options.seed, options.record))


if __name__ == "__main__":
    main()
