"""`stage serve --workers N`: several processes with a file each serve as one stage.

The bank keeps its own books. Each worker has a door of its own beside its file, by which a test
asks one of them and no other; the port leads to any.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.demo.chain import free_ports
from stage.engine.workers.placement import home_of
from stage.wire.tokens import accept_line
from tests.forked import ROOT
from tests.forked import stage as forked
from tests.processes import children, lives

HOST = "127.0.0.1"
LIMIT_SECONDS = 60.0
CLIENTS = 8
AT_ONCE = 4
KILLS = 4
TOKEN = "t-" + "o" * 43
JSON = {"Content-Type": "application/json"}


class Bank:
    """The API that charges: how often each key was charged and refunded."""

    def __init__(self) -> None:
        self.charges: Counter[str] = Counter()
        self.refunds: Counter[str] = Counter()
        self.url = ""

    async def charge(self, request: web.Request) -> web.Response:
        """Charge, however often it was asked before: a second time would be seen."""
        self.charges[request.headers["Idempotency-Key"]] += 1
        return web.json_response({"id": "c-1"})

    async def find(self, request: web.Request) -> web.Response:
        """The charge of a key."""
        found = self.charges[request.match_info["key"]]
        return web.json_response({"id": "c-1"}, status=200 if found else 404)

    async def refund(self, request: web.Request) -> web.Response:
        """Refund."""
        self.refunds[(await request.json())["key"]] += 1
        return web.json_response({"refunded": 1})


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    books = Bank()
    app = web.Application()
    app.router.add_post("/charges", books.charge)
    app.router.add_get("/charges/by-key/{key}", books.find)
    app.router.add_post("/refunds", books.refund)
    async with TestServer(app) as server:
        books.url = str(server.make_url("")).rstrip("/")
        yield books


class Serving:
    """`stage serve`, with its log."""

    def __init__(self, process: Process, log: Path, url: str) -> None:
        self.process = process
        self.url = url
        self._log = log

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines that are events."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def workers(self) -> list[int]:
        """The processes that its parent has started."""
        return children(self.process.pid)

    async def stop(self) -> int:
        """SIGTERM, and its exit status."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.process.wait()


TARGET = "stage.demo.payment:payment"


def command(folder: Path, bank: Bank, *more: str, target: str = TARGET) -> tuple[str, ...]:
    return (
        *("-m", "stage", "serve", target, "--port", "0"),
        *("--database", f"sqlite:///{folder / 'payment.db'}", "--external", f"psp={bank.url}"),
        *more,
    )


@asynccontextmanager
async def serving(
    folder: Path, bank: Bank, *more: str, target: str = TARGET
) -> AsyncIterator[Serving]:
    """The stage, once every worker listens."""
    log = folder / "serve.log"
    with log.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command(folder, bank, *more, target=target)),
            cwd=folder,
            env={**os.environ, "STAGE_LOG_FORMAT": "json", "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            line = (await process.stdout.readline()).decode()
        assert "listening on " in line, log.read_text()
        yield Serving(process, log, line.removeprefix("listening on ").strip())
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()  # until its pipe is closed too


async def refused(folder: Path, bank: Bank, *more: str) -> str:
    """The words of a start that is refused."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command(folder, bank, *more)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        _, err = await process.communicate()
    assert 2 == process.returncode
    return err.decode().splitlines()[-1]


def order(saga_id: str) -> dict[str, Any]:
    data = {"order_id": saga_id, "amount": 100, "currency": "KRW"}
    return {"saga_id": saga_id, "data": data, "trail": [{"stage": "order", "at": AT}]}


AT = "2026-11-23T02:29:58.120Z"


class Door:
    """The door of one worker, for the user of this machine."""

    def __init__(self, folder: Path, worker: int) -> None:
        file = "payment.db" if worker == 0 else f"payment.{worker}.db"
        self._session = aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(path=str(folder / f"{file}.sock"))
        )

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The code and the bytes of an answer."""
        async with self._session.request(method, path, json=body, headers=JSON) as answer:
            return answer.status, await answer.read()

    async def get(self, path: str) -> Any:
        status, body = await self.ask("GET", path)
        assert 200 == status, body
        return json.loads(body)

    async def close(self) -> None:
        await self._session.close()


@asynccontextmanager
async def doors(folder: Path, workers: int) -> AsyncIterator[list[Door]]:
    opened = [Door(folder, worker) for worker in range(workers)]
    try:
        yield opened
    finally:
        for each in opened:
            await each.close()


IDS = [f"s-{number:02}" for number in range(12)]


async def begun(url: str, saga_id: str) -> tuple[int, bytes]:
    """The answer to a start on a connection of its own, which the kernel gives to any worker."""
    async with (
        aiohttp.ClientSession(url) as session,
        session.post("/sagas", json=order(saga_id)) as answer,
    ):
        return answer.status, await answer.read()


async def ended(url: str, saga_id: str) -> tuple[int, bytes]:
    """The answer to a start that is repeated while a busy stage takes none, or is not done."""
    while (answer := await begun(url, saga_id))[0] in (202, 503):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return answer


async def begin_all(url: str) -> dict[str, bytes]:
    """Each saga begun several times at once, at whichever worker; its one answer."""

    async def begin(saga_id: str) -> bytes:
        answers = await asyncio.gather(*(ended(url, saga_id) for _ in range(AT_ONCE)))
        assert {200} == {status for status, _ in answers}, answers
        (body,) = {body for _, body in answers}
        return body

    return dict(zip(IDS, await asyncio.gather(*map(begin, IDS)), strict=True))


async def same_everywhere(opened: list[Door], saga_id: str) -> None:
    """The answers have the same bytes, at every worker."""
    for path in (
        *("/sagas?limit=500", "/sagas?state=completed&limit=5", f"/sagas/{saga_id}"),
        *(f"/sagas/{saga_id}?view={view}" for view in ("journal", "plan", "verbs")),
        *("/pauses", "/sweeps", "/audit", f"/audit?target={saga_id}"),
        "/sagas?since=2020-01-01T00:00:00Z&with=order",
    ):
        answers = [await each.ask("GET", path) for each in opened]
        assert [(200, answers[0][1])] * len(answers) == answers, path


async def pages(door: Door, path: str, items: str) -> list[Any]:
    """All items of a list, page by page."""
    found: list[Any] = []
    after = ""
    while True:
        page = await door.get(f"{path}{after}")
        found += page[items]
        if page["next"] is None:
            return found
        after = f"&{'before' if items == 'acts' else 'after'}={page['next']}"


async def swept(door: Door, number: int) -> Any:
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            if (sweep := await door.get(f"/sweeps/{number}"))["state"] == "done":
                return sweep
            await asyncio.sleep(0.1)  # nobody tells


async def compensated_anywhere(opened: list[Door], saga_id: str) -> None:
    undo = {"requested_by": "order", "reason": "withdrawn"}
    for door in opened:
        status, body = await door.ask("POST", f"/sagas/{saga_id}/compensate", undo)
        assert (200, "compensated") == (status, json.loads(body)["outcome"])


async def paused_everywhere(url: str, opened: list[Door]) -> None:
    """A pause that one worker was given holds at all, until another one is given its end."""
    order = {"target": "intake", "reason": "ticket 7", "actor": "kim"}
    assert 200 == (await opened[1].ask("POST", "/pauses", {**order, "seconds": 60}))[0]
    held = [await begun(url, f"n-{number}") for number in range(9)]
    assert {503} == {status for status, _ in held}
    assert 200 == (await opened[2].ask("POST", "/pauses/end", order))[0]


async def all_swept(opened: list[Door]) -> None:
    """A sweep that one worker was given is done to the sagas of all."""
    sweep = {
        "verb": "compensate",
        "where": {"state": "completed"},
        "actor": "kim",
        "reason": "ticket 8",
        "rate_per_second": 50,
    }
    assert 200 == (await opened[2].ask("POST", "/sweeps", sweep))[0]
    done = await swept(opened[1], 1)
    assert (len(IDS) - 1, 0) == (done["done"], done["refused"])


async def listed_whole(opened: list[Door]) -> None:
    """Sagas in the order of their ids and acts in that of time, each once over all pages."""
    listed = await pages(opened[1], "/sagas?limit=5", "sagas")
    assert IDS == [each["saga_id"] for each in listed]
    acts = await pages(opened[2], "/audit?limit=2", "acts")
    at = [each["at"] for each in acts]
    assert sorted(at, reverse=True) == at
    counts = Counter(each["act"] for each in acts)
    assert (1, 1) == (counts["paused"], counts["resumed"])
    for door in opened:
        (group,) = (await door.get("/groups"))["groups"]
        assert (12, "tell_upstream") == (group["sagas"], group["step"])
    now = await opened[2].get("/now")
    assert (12, True) == (now["sagas"]["compensated"], now["ready"])


async def scraped_once(url: str) -> None:
    """One scrape has the metrics of all, and the console is there."""
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/metrics") as scraped:
            lines = (await scraped.text()).splitlines()
        async with session.get("/console") as page:
            assert 200 == page.status
    ended = [line for line in lines if line.startswith("stage_sagas{")]
    assert 12 == sum(float(line.split()[-1]) for line in ended if 'state="compensated"' in line)
    assert 1 == lines.count("# TYPE stage_sagas gauge")
    assert 3 == sum(line.startswith("stage_worker_up{") for line in lines)


async def test_workers_are_one_stage(tmp_path: Path, bank: Bank) -> None:
    """Lists, verbs, pauses, sweeps, the audit and metrics are those of all, at each of them."""
    async with serving(tmp_path, bank, "--auth", "none", "--workers", "3") as stage:
        async with doors(tmp_path, 3) as opened:
            await begin_all(stage.url)
            assert {1} == set(bank.charges.values())
            assert len(IDS) == len(bank.charges)
            assert {0, 1, 2} == {home_of(saga_id, 3) for saga_id in IDS}
            await compensated_anywhere([*opened, *opened], IDS[0])
            assert [1] == list(bank.refunds.values())
            await paused_everywhere(stage.url, opened)
            await all_swept(opened)
            assert len(IDS) == len(bank.refunds)
            await listed_whole(opened)
            await same_everywhere(opened, IDS[1])
        await scraped_once(stage.url)
        assert 0 == await stage.stop()


class Clients:
    """Each places one saga after the other at the port, like a neighbour that repeats a request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.ended: dict[str, bytes] = {}
        self.codes: Counter[int] = Counter()
        self.enough = False

    async def place(self, client: int) -> None:
        """Place sagas until it is enough, each until it has an end."""
        number = 0
        while not self.enough:
            number += 1
            saga_id = f"s-{client}-{number}"
            while (await self.ask(saga_id)) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def ask(self, saga_id: str) -> int:
        """The code of the answer; 0 for a connection that was lost."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            async with (
                aiohttp.ClientSession(self._url, headers=headers) as session,
                session.post("/sagas", json=order(saga_id)) as answer,
            ):
                status, body = answer.status, await answer.read()
        except aiohttp.ClientError:
            status, body = 0, b""
        self.codes[status] += 1
        if status == 200:
            assert body == self.ended.setdefault(saga_id, body)
        return status

    async def further(self, count: int) -> None:
        """Return when so many more have an end."""
        until = len(self.ended) + count
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(self.ended) < until:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_killed_worker_loses_nothing(tmp_path: Path, bank: Bank) -> None:
    """It is started anew; every saga has one end and one charge. Callers are who they were."""
    accept = tmp_path / "order.accept"
    accept.write_text(accept_line(TOKEN) + "\n")
    accept.chmod(0o600)
    upstream = ("--upstream", "order=http://127.0.0.1:1", "--upstream")
    given = (*upstream, f"order.accept_file={accept}", "--workers", "2")
    async with serving(tmp_path, bank, *given) as stage:
        clients = Clients(stage.url)
        tasks = [asyncio.create_task(clients.place(client)) for client in range(CLIENTS)]
        for number in range(KILLS):
            await clients.further(20)
            victim = stage.workers[number % 2]
            os.kill(victim, signal.SIGKILL)
            async with asyncio.timeout(LIMIT_SECONDS):
                while victim in stage.workers or len(stage.workers) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # nobody tells
        await clients.further(20)
        clients.enough = True
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.gather(*tasks)
        assert set() == set(clients.codes) - {0, 200, 202, 503}, clients.codes
        assert {1} == set(bank.charges.values())
        assert len(clients.ended) == len(bank.charges)
        for saga_id in clients.ended:
            assert 200 == await clients.ask(saga_id)
        async with aiohttp.ClientSession(stage.url) as session:
            for number in range(8):  # on both workers, for sagas of both
                async with session.post("/sagas", json=order(f"stranger-{number}")) as answer:
                    assert 401 == answer.status
        async with doors(tmp_path, 2) as opened:
            found = await pages(opened[1], "/sagas?limit=500", "sagas")
            assert sorted(clients.ended) == [each["saga_id"] for each in found]
        assert KILLS == sum(line["event"] == "worker_ended" for line in stage.log)
        assert 0 == await stage.stop()


async def test_another_number_of_workers_leaves_each_saga_where_it_is(
    tmp_path: Path, bank: Bank
) -> None:
    """From one process to three, and to two: nothing is begun anew, and all is listed."""
    auth = ("--auth", "none")
    async with serving(tmp_path, bank, *auth) as stage:
        answers = await begin_all(stage.url)
    for workers, processes in ((3, 3), (2, 3)):
        given = (*auth, "--workers", str(workers))
        async with serving(tmp_path, bank, *given) as stage, doors(tmp_path, processes) as opened:
            assert processes == len(stage.workers)
            assert answers == await begin_all(stage.url)
            more = [f"w{workers}-{number}" for number in range(6)]
            for saga_id in more:
                assert 200 == (await ended(stage.url, saga_id))[0]
            listed = await pages(opened[workers - 1], "/sagas?limit=4", "sagas")
            assert {*IDS, *more} <= {each["saga_id"] for each in listed}
            for saga_id in more[:2]:
                await compensated_anywhere(opened, saga_id)
    assert {1} == set(bank.charges.values())
    assert len(IDS) + 12 == len(bank.charges)
    assert 4 == len(bank.refunds)


async def test_workers_on_postgresql_are_replicas(
    tmp_path: Path, bank: Bank, postgres_url: str
) -> None:
    """One is killed: the others go on with its sagas. One scrape has the metrics of both."""
    given = ("--auth", "none", "--database", postgres_url, "--lease-seconds", "2", "--workers", "2")
    async with serving(tmp_path, bank, *given) as stage:
        answers = await begin_all(stage.url)
        os.kill(stage.workers[0], signal.SIGKILL)
        for saga_id in IDS:
            while (found := await begun_or_lost(stage.url, saga_id)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert answers[saga_id] == found
        assert {1} == set(bank.charges.values())
        async with aiohttp.ClientSession(stage.url) as session, session.get("/metrics") as scraped:
            lines = (await scraped.text()).splitlines()
        assert {'stage_worker_up{worker="0"}', 'stage_worker_up{worker="1"}'} <= {
            line.split()[0] for line in lines if line and line[0] != "#"
        }
        assert 0 == await stage.stop()


async def begun_or_lost(url: str, saga_id: str) -> bytes | None:
    """The answer with a saga's end; None where there is none yet, or the connection was lost."""
    try:
        status, body = await begun(url, saga_id)
    except aiohttp.ClientError:
        return None
    return body if status == 200 else None


async def test_a_set_of_files_is_served_whole_or_not_at_all(tmp_path: Path, bank: Bank) -> None:
    """A file that is missing or another one, and a file that is served alone, are refused."""
    given = ("--auth", "none", "--workers", "2", "--database-must-exist")
    assert "there is no database" in await refused(tmp_path, bank, *given)
    init = ("db", "init", "stage.demo.payment:payment", "--workers", "2")
    made = await asyncio.to_thread(
        forked, *init, "--database", f"sqlite:///{tmp_path / 'payment.db'}"
    )
    assert 2 == made.out.count("made "), made
    async with serving(tmp_path, bank, *given):
        assert "in use" in await refused(tmp_path, bank, "--auth", "none", "--workers", "4")
    first, second = tmp_path / "payment.db", tmp_path / "payment.1.db"
    kept = second.rename(tmp_path / "kept")
    assert "payment.1.db of worker 1 is missing" in await refused(tmp_path, bank, *given)
    second.write_bytes(first.read_bytes())
    assert "is the file of worker 0" in await refused(tmp_path, bank, *given)
    kept.rename(second)
    (tmp_path / "payment.db.workers").rename(kept)
    assert "worker 0 of several" in await refused(tmp_path, bank, "--auth", "none")


async def test_every_worker_is_ready_when_the_stage_listens(tmp_path: Path, bank: Bank) -> None:
    """A load balancer that asks at once is not told that it is not."""
    async with (
        serving(tmp_path, bank, "--auth", "none", "--workers", "4"),
        doors(tmp_path, 4) as opened,
    ):
        asked = await asyncio.gather(*(each.ask("GET", "/readyz") for each in opened))
    assert [200] * 4 == [status for status, _ in asked], asked


async def test_workers_whose_parent_is_killed_leave_no_folder(
    tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They drain, and the last one takes the folder of their sockets with it."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    async with serving(tmp_path, bank, "--auth", "none", "--workers", "2") as stage:
        assert 1 == len(os.listdir(folder))
        workers = stage.workers
        stage.process.kill()
        async with asyncio.timeout(LIMIT_SECONDS):
            while any(map(lives, workers)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nobody tells
    assert [] == os.listdir(folder)


async def test_workers_that_wait_for_their_files_end_at_once(tmp_path: Path, bank: Bank) -> None:
    """In order: the kernel keeps the default action from the first process of a container."""
    async with serving(tmp_path, bank, "--auth", "none", "--workers", "2"):
        waiting = await asyncio.create_subprocess_exec(
            *(sys.executable, *command(tmp_path, bank, "--auth", "none", "--workers", "3")),
            *("--lock-wait-seconds", "600"),
            env={**os.environ, "STAGE_LOG_FORMAT": "json"},
            stderr=asyncio.subprocess.PIPE,
        )
        assert waiting.stderr is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            while b"database_awaited" not in await waiting.stderr.readline():
                pass
            waiting.terminate()
            assert 0 == await waiting.wait()


AUTHORED = """
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

payment = Stage("payment", accepts=Order, migrations="sql")

@payment.transaction(compensation=None, reason="it reads")
async def look(tx, saga) -> None: ...
"""


async def test_a_worker_is_not_started_anew_with_other_code(tmp_path: Path, bank: Bank) -> None:
    """The files of the next release are there, and the stage was not restarted: others go on.

    It would apply the migrations of that release under the code of this one.
    """
    (tmp_path / "pay.py").write_text(AUTHORED)
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT, more INT);")
    following = tmp_path / "sql" / "0002_less.contract.sql"
    given = ("--auth", "none", "--workers", "2")
    async with serving(tmp_path, bank, *given, target="pay:payment") as stage:
        following.write_text("ALTER TABLE payment DROP COLUMN more;")
        first, second = stage.workers
        os.kill(second, signal.SIGKILL)
        async with asyncio.timeout(LIMIT_SECONDS):
            while not (said := refusals(stage)) and stage.workers in (  # noqa: ASYNC110
                [first],
                [first, second],
            ):
                await asyncio.sleep(0.05)  # nobody tells
        assert said and str(following) in said[0] and "restart the stage" in said[0]
        assert [first] == stage.workers
        following.unlink()
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(stage.workers) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nobody tells
    for file in ("payment.db", "payment.1.db"):
        with closing(sqlite3.connect(tmp_path / file)) as connection:
            connection.execute("SELECT more FROM payment")


def refusals(stage: Serving) -> list[str]:
    """The reasons for which a worker was not started anew."""
    reasons = [line["reason"] for line in stage.log if line["event"] == "worker_ended"]
    return [each for each in reasons if not each.startswith("status")]


STOPPED_EARLY = """
import os, signal, sys
from pathlib import Path
from stage.bootstrap import workers
from stage.config import Config
from stage.demo.payment import payment

parent, heard = os.getpid(), signal.set_wakeup_fd

def signalled(fd, **given):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
    return heard(fd, **given)

signal.set_wakeup_fd = signalled
config = Config(database=f"sqlite:///{Path(sys.argv[1]) / 'p.db'}", auth="none", workers=2)
try:
    workers.serve_workers(payment, config, lambda *_: print("serves", flush=True))
except Exception as error:
    print(error, flush=True)
"""


async def test_a_signal_is_not_lost_while_a_worker_begins(tmp_path: Path) -> None:
    """It comes when the worker has not yet taken off the actions of its parent."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STOPPED_EARLY, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        said, _ = await process.communicate()
    assert f"ended with status {-signal.SIGTERM}" in said.decode(), said
    assert "serves" not in said.decode()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A collector that answers nothing."""
    with suppress(OSError):
        await reader.read()
    writer.close()


async def test_the_next_workers_take_over_the_port(tmp_path: Path, bank: Bank) -> None:
    """They wait for the files, also where the end of the former ones waits for its collector."""
    (port,) = free_ports(1)
    collector = await asyncio.start_server(silent, HOST, 0)
    otlp = ("--otlp-endpoint", f"http://{HOST}:{collector.sockets[0].getsockname()[1]}")
    given = ("--auth", "none", "--workers", "2", "--port", str(port), "--lock-wait-seconds", "30")
    async with collector, serving(tmp_path, bank, *given, *otlp) as former:
        answers = await begin_all(former.url)
        following = await asyncio.create_subprocess_exec(
            *(sys.executable, *command(tmp_path, bank, *given)),
            env={**os.environ, "STAGE_LOG_FORMAT": "json"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert following.stdout is not None and following.stderr is not None
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                while b"database_awaited" not in await following.stderr.readline():
                    pass
                former.process.terminate()
                said = await following.stdout.readline()
            assert said.startswith(b"listening on "), await following.stderr.read()
            assert answers == await begin_all(former.url)
        finally:
            with suppress(ProcessLookupError):
                following.terminate()
            await following.wait()
    assert {1} == set(bank.charges.values())
