"""The world outside the chain: an API that charges, whose books survive its own death.

    python -m tests.acceptance.kills.world --port 8090 --books world.db --seed 1

A charge is named by the `Idempotency-Key` that made it: it is made once, a refund by key closes
the key for ever, and a look-up by key says what stands. The books are a SQLite file written
before the answer leaves; `synchronous=OFF`, because they have to survive SIGKILL and no more.

The books also say what should never be: a key that came back with another body, or a saga that
came with two keys. A share of the keys is declined, and a share of the requests fails with 500
before or after its effect.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote
from zlib import crc32

import msgspec

from tests.acceptance.kills.http1 import Message, answer_bytes, listen, read_message

DECLINED_PERCENT = 3
FAILS_BEFORE = 0.004
FAILS_AFTER = 0.004
SCHEMA = """
CREATE TABLE IF NOT EXISTS charge (
    key        TEXT PRIMARY KEY,
    saga_id    TEXT NOT NULL,
    body       BLOB,
    answer     BLOB,
    status     INTEGER,
    made       INTEGER NOT NULL DEFAULT 0,
    refunded   INTEGER NOT NULL DEFAULT 0,
    closed     INTEGER NOT NULL DEFAULT 0,
    asked      INTEGER NOT NULL DEFAULT 0,
    undone     INTEGER NOT NULL DEFAULT 0,
    probed     INTEGER NOT NULL DEFAULT 0,
    mismatched INTEGER NOT NULL DEFAULT 0,
    refund_key TEXT
) WITHOUT ROWID
"""


class Refund(msgspec.Struct):
    """The body of `POST /refunds`."""

    key: str
    charge_id: str | None = None


class World:
    """The books, and the one conversation that writes them."""

    def __init__(self, books: Path, seed: int, *, fails: bool = True) -> None:
        self._books = sqlite3.connect(books, isolation_level=None)
        self._books.execute("PRAGMA journal_mode = WAL")
        self._books.execute("PRAGMA synchronous = OFF")
        self._books.execute(SCHEMA)
        self._fails = fails
        # A start is part of the seed, so that a restarted world does not repeat its failures.
        self._dice = random.Random(f"{seed}/world/{os.getpid()}")

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while (request := await read_message(reader)) is not None:
            fate = self._dice.random() if self._fails else 1.0
            if fate < FAILS_BEFORE:
                status, body = 500, b'{"error":"fell over before"}'
            else:
                status, body = self.answer(request)
                if fate < FAILS_BEFORE + FAILS_AFTER:
                    status, body = 500, b'{"error":"fell over after"}'
            writer.write(answer_bytes(status, body))
            await writer.drain()

    def close(self) -> None:
        """Close the books."""
        self._books.close()

    def standing(self) -> dict[str, int]:
        """Charges that stand, by saga."""
        return dict(
            self._books.execute("SELECT saga_id, sum(made - refunded) FROM charge GROUP BY saga_id")
        )

    def answer(self, request: Message) -> tuple[int, bytes]:
        """Write the books, then say what follows."""
        method, path, _ = request.start.split(" ", 2)
        own = request.header("Idempotency-Key")
        if (method, path) == ("POST", "/charges"):
            return self._charge(own, request.body)
        if (method, path) == ("POST", "/refunds"):
            return self._refund(own, msgspec.json.decode(request.body, type=Refund).key)
        if method == "GET" and path.startswith("/charges/by-key/"):
            return self._look_up(unquote(path.removeprefix("/charges/by-key/")))
        return 404, b"{}"

    def _charge(self, key: str, body: bytes) -> tuple[int, bytes]:
        self._books.execute("BEGIN IMMEDIATE")
        try:
            self._open(key)
            before, status, answer, closed = self._books.execute(
                "SELECT body, status, answer, closed FROM charge WHERE key = ?", (key,)
            ).fetchone()
            if before is not None and before != body:
                self._books.execute(
                    "UPDATE charge SET mismatched = mismatched + 1 WHERE key = ?", (key,)
                )
                return 422, b'{"error":"another body under this key"}'
            made = 0
            if status is None and closed:
                status, answer = 410, b'{"code":"closed_key"}'
            elif status is None:
                status, answer, made = self._decide(key)
            self._books.execute(
                "UPDATE charge SET body = ?, status = ?, answer = ?, made = made + ?,"
                " asked = asked + 1 WHERE key = ?",
                (body, status, answer, made, key),
            )
            return status, answer
        finally:
            self._books.execute("COMMIT")

    def _decide(self, key: str) -> tuple[int, bytes, int]:
        if crc32(key.encode()) % 100 < DECLINED_PERCENT:
            return 402, b'{"code":"declined"}', 0
        return 201, msgspec.json.encode({"id": f"ch_{crc32(key.encode()):08x}"}), 1

    def _refund(self, own: str, key: str) -> tuple[int, bytes]:
        self._books.execute("BEGIN IMMEDIATE")
        try:
            self._open(key)
            self._books.execute(
                "UPDATE charge SET refunded = made, closed = 1, undone = undone + 1,"
                " mismatched = mismatched + (coalesce(refund_key, ?2) <> ?2), refund_key = ?2"
                " WHERE key = ?1",
                (key, own),
            )
            return 200, b'{"standing":0}'
        finally:
            self._books.execute("COMMIT")

    def _look_up(self, key: str) -> tuple[int, bytes]:
        self._books.execute("UPDATE charge SET probed = probed + 1 WHERE key = ?", (key,))
        found = self._books.execute(
            "SELECT answer FROM charge WHERE key = ? AND made = 1", (key,)
        ).fetchone()
        return (404, b'{"code":"unknown_key"}') if found is None else (200, found[0])

    def _open(self, key: str) -> None:
        saga_id = key.partition(":")[0]
        self._books.execute(
            "INSERT INTO charge (key, saga_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (key, saga_id),
        )


async def serve(port: int, books: Path, seed: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await listen(World(books, seed).converse, port)
    print(f"listening on {port}", flush=True)
    await stop.wait()
    server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.kills.world")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    asyncio.run(serve(options.port, options.books, options.seed))


if __name__ == "__main__":
    main()
