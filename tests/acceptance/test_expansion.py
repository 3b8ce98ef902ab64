"""A schema that grows while the stage is up, and code that is taken back afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.author_bench import Bench, running_bench
from tests.forked import stage

EXPANSION = "ALTER TABLE payment ADD COLUMN iban TEXT;"


async def upgrade(bench: Bench) -> tuple[int, str]:
    """`stage db upgrade` beside the stage: its status, and what it says."""
    command = ("db", "upgrade", "author:stage", "--database")
    url = f"sqlite:///{bench.folder / 'stage.db'}"
    done = await asyncio.to_thread(stage, *command, url, cwd=bench.folder)
    return done.status, done.out + done.err


async def test_an_expansion_is_applied_while_sagas_run_and_the_old_code_starts_on_it(
    tmp_path: Path,
) -> None:
    """No saga fails meanwhile; the release before the expansion serves on it and starts on it."""
    file = tmp_path / "sql" / "0002_iban.expand.sql"
    async with running_bench(tmp_path, "--wait-seconds-max", "15") as bench:
        enough = asyncio.Event()
        codes: list[int] = []

        async def send(client: int) -> None:
            while not enough.is_set():
                codes.append(await bench.post(f"s-{client}-{len(codes)}"))

        async with asyncio.TaskGroup() as group:
            for client in range(4):
                group.create_task(send(client))
            file.write_text(EXPANSION)
            status, said = await upgrade(bench)
            before = len(codes)
            while len(codes) < before + 20:  # noqa: ASYNC110 - the clients count
                await asyncio.sleep(0.02)
            enough.set()
        assert (0, "applied sql/0002_iban.expand\n") == (status, said)
        assert {200} == set(codes), codes
        with closing(sqlite3.connect(tmp_path / "stage.db")) as books:
            assert (
                len(codes) == books.execute("SELECT count(iban IS NULL) FROM payment").fetchone()[0]
            )
        file.unlink()  # the code is taken back
        bench.process.terminate()
        assert 0 == await bench.process.wait()
        await bench.start()
        assert 200 == await bench.post("s-after")
