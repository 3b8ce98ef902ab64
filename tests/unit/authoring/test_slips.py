"""The slips that the source of a stage shows: each is found with its line and its fix.

Beside each slip stands the same function as it should be, of which nothing is said.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples.inventory.stage import inventory
from stage import Stage
from stage.authoring.slips import slips_in
from stage.bootstrap.check import Level, check_stage
from stage.cli.project import write_project
from stage.config import Config
from stage.demo.payment import payment
from stage.testing import assert_no_slips

HEAD = """
import asyncio, contextlib, random, sqlite3, threading, time, uuid, os
from datetime import datetime, UTC
from pathlib import Path
from typing import Any
import aiohttp, asyncpg, httpx, msgspec
from stage import Http, Pending, Refused, Saga, Stage, Transient, Tx

class Order(msgspec.Struct):
    order_id: str
    amount: int
    card: str = ""

class Charge(msgspec.Struct):
    charge_id: str

SEEN: dict[str, int] = {}
COUNT = 0
SESSION = None

def fetch_rate():
    time.sleep(1)

async def push(what): ...

class Count:
    last = 0

NUMBERS = iter(range(9))

def body_by_dice(saga):
    return {"n": random.random()}

async def ask(client):
    return await client.post("/charges")

async def believe(client, of):
    answer = await client.post("/charges", json={"n": of.input.amount})
    if answer.status == 404:
        raise Refused("no")
    return answer

async def drop_all(tx):
    await tx.execute("DELETE FROM payment")

async def measured(client):
    answer = await client.get("/charges")
    return answer.elapsed

async def noted(tx, of):
    await tx.execute("INSERT INTO payment VALUES ($1)", of.run_id)

async def post_elsewhere():
    async with aiohttp.ClientSession() as session:
        await session.post("http://psp/charges")

async def no_of(http, code):
    return Refused(f"code {code}")

BOOKS = sqlite3.connect(":memory:")

class Declined(Refused): ...

pay = Stage("pay", accepts=Order, migrations="sql")
"""
MIGRATION = "CREATE TABLE payment (id TEXT);\nCREATE TABLE stock (id INTEGER, free INTEGER);\n"

TRANSACTION = """
@pay.transaction(compensation=None, reason="of a test")
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    HERE
"""
CALL = """
@pay.call(to="psp", compensation=None, reason="of a test")
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    HERE
    return Charge(answer.json()["id"])
"""
ANY_CALL = """
@pay.call(to="psp", compensation=None, reason="of a test")
async def charge(http: Http, saga: Saga[Order]):
    HERE
"""
CHARGE = """
@pay.call(to="psp")
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    answer = await http.post("/charges", json={})
    return Charge(answer.json()["id"])
"""
UNDO = """
@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
    HERE
    if "refunded" not in answer.json():
        raise Transient("not refunded")
"""
PROBE = """
@charge.probe
async def find(http: Http, saga: Saga[Order]) -> Charge | None:
    HERE
    return Charge(answer.json()["id"])
"""
PROBE_BY_ID = PROBE.replace("HERE", 'answer = await http.get(f"/charges/{saga.id}")')
RIGHT_UNDO = UNDO.replace(
    "HERE", 'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})'
)
EFFECT = """
@pay.effect(to="s3", compensation=None, reason="of a test")
async def upload(saga: Saga[Order]) -> str:
    HERE
    return "x"
"""
OUTPUT = """
@pay.output
def out(saga: Saga[Order]) -> Charge:
    return Charge(HERE)
"""
APPROVAL = """
@pay.approval("risk")
def risk(saga: Saga[Order]):
    return HERE
"""
POST = 'answer = await http.post("/charges", json={})'
ASKED = 'answer = await http.post("/charges", json={})\n    '

# A slip: the frame of its function, what stands in it, what is said, and what should stand there.
SLIPS: dict[str, tuple[str, str, str, str]] = {
    "a client in a transaction": (
        TRANSACTION,
        "await post_elsewhere()",
        r"error: pay\.py:\d+: aiohttp\.ClientSession\(\.\.\.\) talks to .*move it to a call",
        'await tx.execute("INSERT INTO payment VALUES ($1)", saga.id)',
    ),
    "a client in a call": (
        CALL,
        f"await post_elsewhere()\n    {POST}",
        "warning: .* no intent in the journal and no idempotency key. Use http, or make an effect",
        POST,
    ),
    "a connection of its own": (
        TRANSACTION,
        'sqlite3.connect("pay.db")',
        "error: .*another connection to a database.*use tx",
        'await tx.fetchval("SELECT 1")',
    ),
    "a connection by a name of its own": (
        TRANSACTION,
        'from sqlite3 import connect\n    connect("pay.db")',
        "error: .*another connection to a database.*use tx",
        'await tx.fetchval("SELECT 1")',
    ),
    "a pool of connections": (
        CALL,
        f'await asyncpg.create_pool("postgresql://")\n    {POST}',
        "warning: .*another connection to a database.*make a transaction of it",
        POST,
    ),
    "a connection of the process": (
        TRANSACTION,
        'BOOKS.execute("DELETE FROM payment")',
        "error: .*another connection to a database.*use tx",
        'await tx.fetchval("SELECT 1")',
    ),
    "a function that blocks": (
        TRANSACTION,
        "fetch_rate()",
        r"error: pay\.py:2\d: time\.sleep\(\.\.\.\) blocks.*move it to a call",
        'await tx.fetchval("SELECT 1")',
    ),
    "a task that is left": (
        EFFECT,
        "asyncio.create_task(push(saga.id))",
        "warning: .*create_task.* is not over when the step ends.*await it, or make a step",
        "await asyncio.create_task(push(saga.id))",
    ),
    "a task that is kept and left": (
        EFFECT,
        "task = asyncio.create_task(push(saga.id))",
        "warning: .*create_task.* is not over when the step ends",
        "task = asyncio.create_task(push(saga.id))\n    await task",
    ),
    "a thread that is left": (
        EFFECT,
        "threading.Thread(target=fetch_rate).start()",
        "warning: .*Thread.*start.* is not over when the step ends",
        "await asyncio.to_thread(fetch_rate)",
    ),
    "a file in a transaction": (
        TRANSACTION,
        'open("x", "w").write(saga.id)',
        r"warning: .*open\(\.\.\.\) writes a file.*write it in an effect",
        'open("x").read()',
    ),
    "a text file in a transaction": (
        TRANSACTION,
        'Path("x").write_text(saga.id)',
        "warning: .*writes a file",
        'Path("x").read_text()',
    ),
    "a value that is not awaited": (
        TRANSACTION,
        'free = tx.fetchval("SELECT 1")\n    if not free:\n        return',
        r"error: .*tx\.fetchval\(\.\.\.\) is not awaited: write await",
        'free = await tx.fetchval("SELECT 1")\n    if not free:\n        return',
    ),
    "a condition that is not awaited": (
        TRANSACTION,
        'if tx.fetchval("SELECT 1"):\n        return',
        r"error: .*tx\.fetchval\(\.\.\.\) is not awaited",
        'if await tx.fetchval("SELECT 1"):\n        return',
    ),
    "an answer that is not awaited": (
        CALL,
        'answer = http.post("/charges", json={})',
        r"error: .*http\.post\(\.\.\.\) is not awaited",
        'asked = http.post("/charges", json={})\n    answer = await asked',
    ),
    "a path of dice": (
        CALL,
        'answer = await http.put(f"/charges/{uuid.uuid4()}")',
        r"warning: .*uuid\.uuid4\(\) makes another request at .*name a thing by saga\.key",
        'answer = await http.put(f"/charges/{saga.key}")',
    ),
    "a body by the clock": (
        CALL,
        'body = {"at": str(datetime.now(UTC))}\n    answer = await http.post("/c", json=body)',
        r"warning: .*datetime\.now\(UTC\) makes another request",
        'body = {"n": saga.input.amount}\n    answer = await http.post("/c", json=body)',
    ),
    "an effect of dice": (
        EFFECT,
        "await push(uuid.uuid4())",
        r"warning: .*uuid4\(\) is another value.*a second effect: take saga\.key",
        "await push(saga.key)",
    ),
    "an output by the clock": (
        OUTPUT,
        "str(time.time())",
        r"warning: .*time\.time\(\) gives another value.* the output",
        "saga.input.order_id",
    ),
    "an approval by dice": (
        APPROVAL,
        '{"n": random.random()}',
        r"warning: .*random\.random\(\) gives another.* risk",
        '{"n": saga.input.amount}',
    ),
    "a global": (
        TRANSACTION,
        "global COUNT\n    COUNT += 1",
        "warning: .*global COUNT changes what belongs to the process.*Write it by tx",
        'await tx.execute("INSERT INTO payment VALUES ($1)", saga.id)',
    ),
    "a dictionary of the process": (
        TRANSACTION,
        "SEEN[saga.id] = 1",
        r"warning: .*SEEN\[saga\.id\] changes what belongs",
        "seen = {}\n    seen[saga.id] = SEEN.get(saga.id)",
    ),
    "a method of the dictionary": (
        TRANSACTION,
        "SEEN.update({saga.id: 1})",
        r"warning: .*SEEN\.update.* changes what belongs",
        "seen = {}\n    seen.update(SEEN)",
    ),
    "a changed input": (
        CALL,
        f"saga.input.amount = 5\n    {POST}",
        r"warning: .*saga\.input\.amount changes a copy",
        f"amount = saga.input.amount\n    {POST}",
    ),
    "an error of the database that is swallowed": (
        TRANSACTION,
        (
            'try:\n        await tx.execute("INSERT INTO payment VALUES (1)")\n'
            "    except Exception:\n        pass"
        ),
        "warning: .*takes every error of the database for a success: name the one",
        (
            'try:\n        await tx.execute("INSERT INTO payment VALUES (1)")\n'
            "    except sqlite3.IntegrityError:\n        pass"
        ),
    ),
    "an error of a call that is swallowed": (
        CALL,
        f"try:\n        {POST}\n    except Exception:\n        answer = None",
        "warning: .*takes every error for a success, a page of a gateway too",
        f'try:\n        {POST}\n    except Exception:\n        raise Transient("no")',
    ),
    "an error that is suppressed": (
        CALL,
        f"with contextlib.suppress(Exception):\n        {POST}",
        r"warning: .*suppress\(Exception\) takes every error, a gateway's too, for a success",
        f"with contextlib.suppress(KeyError):\n        {POST}",
    ),
    "an answer that is taken for another": (
        CALL,
        f'{ASKED}try:\n        n = answer.json()["n"]\n    except Exception:\n        n = 0',
        "warning: .*takes every error for a success, a page of a gateway too",
        f'{ASKED}try:\n        n = answer.json()["n"]\n    except KeyError:\n        n = 0',
    ),
    "an attempt in a path": (
        CALL,
        'answer = await http.put(f"/charges/{saga.id}-{saga.attempt}")',
        r"warning: .*saga\.attempt makes another request at each attempt",
        'answer = await http.put(f"/charges/{saga.key}")',
    ),
    "an attempt in a key": (
        EFFECT,
        'await push(f"{saga.key}-{saga.attempt}")',
        r"warning: .*saga\.attempt is another value.*a second effect: take saga\.key",
        'log.info("attempt %s", saga.attempt)\n    await push(saga.key)',
    ),
    "a member of the process": (
        TRANSACTION,
        "Count.last = saga.input.amount",
        r"warning: .*Count\.last changes what belongs to the process",
        "count = Count()\n    count.last = saga.input.amount",
    ),
    "a counter of the process": (
        TRANSACTION,
        "next(NUMBERS)",
        r"warning: .*next\(NUMBERS\) changes what belongs to the process",
        "next(iter([1]))",
    ),
    "a refusal that is not raised": (
        TRANSACTION,
        'if saga.input.amount < 1:\n        Refused("nothing")',
        r"error: .*Refused\(\.\.\.\) is not raised, and says nothing: write raise Refused",
        'if saga.input.amount < 1:\n        raise Refused("nothing")',
    ),
    "a refusal of its own type that is not raised": (
        TRANSACTION,
        'if saga.input.amount < 1:\n        Declined("nothing")',
        r"error: .*Declined\(\.\.\.\) is not raised, and says nothing: write raise Declined",
        'if saga.input.amount < 1:\n        raise Declined("nothing")',
    ),
    "a doubt that is returned": (
        CHARGE + UNDO,
        (
            'answer = await http.post("/r", json={"key": saga.key_of(charge)})\n'
            '    if answer.status == 409:\n        return Transient("not yet")'
        ),
        r"error: .*Transient\(\.\.\.\) is not raised",
        'answer = await http.post("/r", json={"key": saga.key_of(charge)})',
    ),
    "a condition of which nobody asks": (
        TRANSACTION,
        'await tx.execute("UPDATE stock SET free = free - 1 WHERE id = 1 AND free >= 1")',
        "warning: .*changes no row where its condition does not hold, .*raise Refused",
        (
            "if await tx.execute("
            '"UPDATE stock SET free = free - 1 WHERE id = 1 AND free >= 1") == 0:\n'
            '        raise Refused("none left")\n'
            '    await tx.execute("UPDATE stock SET free = 1 WHERE id = 1 AND free <> 2")'
        ),
    ),
    "a probe of any saga": (
        CHARGE + RIGHT_UNDO + PROBE,
        'answer = await http.get("/charges/latest")',
        "warning: .*the probe asks for the same whatever the saga is.*look it up by saga.key",
        'answer = await http.get(f"/charges/{saga.key}")',
    ),
    "a time-out that is swallowed": (
        EFFECT,
        "try:\n        await push(1)\n    except asyncio.CancelledError:\n        pass",
        "warning: .*catches CancelledError.*clean up in finally",
        "try:\n        await push(1)\n    finally:\n        SEEN.get(1)",
    ),
    "a bare except": (
        EFFECT,
        "try:\n        await push(1)\n    except:\n        pass",
        "warning: .*catches CancelledError",
        "try:\n        await push(1)\n    except:\n        raise",
    ),
    "a path without a slash": (
        CALL,
        'answer = await http.post("charges")',
        "error: .*the path 'charges' does not begin with one slash.*--external psp=URL",
        'answer = await http.post("/charges")',
    ),
    "a path that is a URL": (
        CALL,
        'answer = await http.request("POST", f"https://psp/{saga.id}")',
        "error: .*the path 'https://psp/' does not begin with one slash",
        'answer = await http.request("POST", f"/{saga.id}")',
    ),
    "a key of its own": (
        CALL,
        'answer = await http.post("/c", headers={"Idempotency-Key": saga.id})',
        "error: .*header 'Idempotency-Key' is refused.*the engine sets it: leave it out",
        'answer = await http.post("/c", headers={"Api-Version": "2"})',
    ),
    "credentials of its own": (
        CALL,
        'answer = await http.post("/c", headers={"Authorization": "Bearer x"})',
        r"error: .*credentials are the operator's.*bearer_file.*\[externals\.psp\]",
        'answer = await http.post("/c", headers={"Accept": "x"})',
    ),
    "a no by a range of codes": (
        CALL,
        f'{ASKED}if answer.status >= 400:\n        raise Refused("no")',
        r"warning: .*answer\.status >= 400 believes a code alone.*would not be compensated",
        (
            f'{ASKED}if answer.status == 409 and answer.json()["code"] == "declined":\n'
            '        raise Refused("no")'
        ),
    ),
    "a no by a case": (
        CALL,
        f'{ASKED}match answer.status:\n        case 404 | 409:\n            raise Refused("no")',
        r"warning: .*case \[404, 409\] believes a code alone",
        f'{ASKED}match answer.status:\n        case 402:\n            raise Refused("no")',
    ),
    "a request in a loop": (
        CALL,
        'for _ in range(3):\n        answer = await http.post("/charges")',
        "warning: .*a request in a loop.*Make it once",
        POST,
    ),
    "an answer that nobody reads": (
        CALL,
        'await http.post("/charges")\n    answer = SESSION',
        "warning: .*its answer is not looked at",
        POST,
    ),
    "a probe that believes a 404": (
        CHARGE + PROBE + RIGHT_UNDO,
        (
            'answer = await http.get(f"/c/{saga.key}")\n'
            "    if answer.status == 404:\n        return None"
        ),
        "warning: .*answer.status == 404 believes a code alone.*would be made again",
        (
            'answer = await http.get(f"/c/{saga.key}")\n'
            '    if answer.status == 404 and answer.json()["code"] == "none":\n        return None'
        ),
    ),
    "a probe with an effect": (
        CHARGE + PROBE + RIGHT_UNDO,
        'answer = await http.post(f"/c/{saga.key}")',
        r"warning: .*http\.post\(\.\.\.\) may leave another effect. Ask by http\.get",
        'answer = await http.get(f"/c/{saga.key}")',
    ),
    "an undo that does nothing without a result": (
        CHARGE + UNDO,
        (
            "if made is None:\n        return\n"
            '    answer = await http.post("/refunds", json={"id": made.charge_id})'
        ),
        r"warning: .*made is None when the answer was lost.*undo it by saga\.key_of\(charge\)",
        'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})',
    ),
    "an undo that takes the result for granted": (
        CHARGE + UNDO,
        'answer = await http.post("/refunds", json={"id": made.charge_id})',
        "warning: .*made is None when the answer was lost: the compensation would raise for days",
        (
            "known = made.charge_id if made is not None else saga.key_of(charge)\n"
            '    answer = await http.post("/refunds", json={"id": known})'
        ),
    ),
    "an undo by its own key": (
        CHARGE + UNDO,
        'answer = await http.post("/refunds", json={"key": saga.key})',
        r"warning: .*saga\.key is the key of the undo.*write saga\.key_of\(charge\)",
        'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})',
    ),
    "an undo that asks for its result": (
        CHARGE + UNDO,
        'answer = await http.post("/refunds", json={"id": saga.result(charge).charge_id})',
        "warning: .*charge has no result when its answer was lost",
        'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})',
    ),
    "an undo that finds nothing by a code": (
        CHARGE + UNDO,
        (
            'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})\n'
            "    if answer.status == 404:\n        return"
        ),
        "warning: .*believes a code alone.*in a saga that is called compensated",
        (
            'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})\n'
            '    if answer.status == 402:\n        raise Refused("declined")'
        ),
    ),
    "a statement with a value in it": (
        TRANSACTION,
        """await tx.execute(f"DELETE FROM payment WHERE id = '{saga.input.order_id}'")""",
        "error: .*holds a value of the saga in its text.*give it as a parameter",
        'await tx.execute("DELETE FROM payment WHERE id = $1", saga.input.order_id)',
    ),
    "a statement with a value that is formatted": (
        TRANSACTION,
        """await tx.execute("DELETE FROM payment WHERE id = '{}'".format(saga.input.order_id))""",
        "error: .*holds a value of the saga in its text.*give it as a parameter",
        (
            'places = ", ".join(f"${n}" for n in range(1, len(saga.input.order_id) + 1))\n'
            '    await tx.execute(f"DELETE FROM payment WHERE id IN ({places})", "a")'
        ),
    ),
    "a tuple of parameters": (
        TRANSACTION,
        'await tx.execute("DELETE FROM payment WHERE id = ?", (saga.id,))',
        "error: .*stand in a tuple: give each by itself",
        'await tx.execute("DELETE FROM payment WHERE id = ?", saga.id)',
    ),
    "places of another driver": (
        TRANSACTION,
        'await tx.execute("DELETE FROM payment WHERE id = %s", saga.id)',
        r"error: .*write \$1, \$2 where the values go",
        'await tx.execute("DELETE FROM payment WHERE id = $1", saga.id)',
    ),
    "a statement without a where": (
        TRANSACTION,
        "await tx.execute(\"UPDATE payment SET id = 'x'\")",
        r"warning: .*UPDATE changes every row of payment.*add WHERE saga_id = \$1",
        "await tx.execute(\"UPDATE payment SET id = 'x' WHERE id = $1\", saga.id)",
    ),
    "a value that is read and written back": (
        TRANSACTION,
        (
            'free = await tx.fetchval("SELECT free FROM stock WHERE id = 1")\n'
            '    await tx.execute("UPDATE stock SET free = $1 WHERE id = 1", free - 1)'
        ),
        "warning: .*read and then written back, and on PostgreSQL.*FOR UPDATE",
        (
            'if await tx.execute("UPDATE stock SET free = free - 1 WHERE free > 0") < 1:\n'
            '        raise Refused("none left")'
        ),
    ),
    "a card in the words of a no": (
        CALL,
        f'{ASKED}if answer.status == 402:\n        raise Refused(f"no: {{saga.input.card}}")',
        r"warning: .*saga\.input\.card stands in the words of Refused.*redact=",
        f'{ASKED}if answer.status == 402:\n        raise Refused("declined")',
    ),
    "an answer in the words of a no": (
        CALL,
        f"{ASKED}if answer.status == 402:\n        raise Refused(answer.text())",
        r"warning: .*answer\.text stands in the words of Refused",
        f'{ASKED}if answer.status == 402:\n        raise Refused(answer.json()["code"])',
    ),
    "a payload on the terminal": (
        TRANSACTION,
        "print(saga.input)",
        r"warning: .*saga\.input stands in a log line",
        "print(saga.id)",
    ),
    "a path that another name holds": (
        CALL,
        (
            "ref = str(uuid.uuid4())\n    body: dict = {}\n    body['ref'] = ref\n"
            '    answer = await http.post("/charges", json=body)'
        ),
        r"warning: .*uuid\.uuid4\(\) makes another request",
        (
            "ref = saga.key\n    body: dict = {}\n    body['ref'] = ref\n"
            '    answer = await http.post("/charges", json=body)'
        ),
    ),
    "a path of a hash": (
        CALL,
        'answer = await http.put(f"/charges/{hash(saga.id)}")',
        r"warning: .*hash\(saga\.id\) makes another request",
        'answer = await http.put(f"/charges/{len(saga.id)}")',
    ),
    "a body by a function of dice": (
        CALL,
        'answer = await http.post("/charges", json=body_by_dice(saga))',
        r"warning: pay\.py:3\d: random\.random\(\) makes another request",
        'answer = await http.post("/charges", json={"n": saga.key})\n    body_by_dice(saga)',
    ),
    "a decision by the clock": (
        CALL,
        (
            "now = time.time()\n    if now > saga.input.amount:\n"
            f'        raise Refused("too late")\n    {POST}'
        ),
        r"warning: .*time\.time\(\) decides otherwise when this runs again.*read saga\.result",
        f"now = time.time()\n    {ASKED}print(time.time() - now)",
    ),
    "a probe by the clock": (
        CHARGE + PROBE + RIGHT_UNDO,
        (
            'answer = await http.get(f"/c/{saga.key}")\n'
            "    if time.time() > saga.input.amount:\n        return None"
        ),
        r"warning: .*time\.time\(\) decides otherwise",
        'answer = await http.get(f"/c/{saga.key}")',
    ),
    "a task for a request": (
        CALL,
        (
            'answer, _ = await asyncio.gather(http.post("/charges"), asyncio.sleep(0))\n'
            "    SEEN.get(1)"
        ),
        r"error: .*asyncio\.gather\(\.\.\.\) puts a request into a task.*together='word'",
        f"await asyncio.gather(asyncio.sleep(0))\n    {POST}",
    ),
    "a task for a function that asks": (
        CALL,
        "answer = await asyncio.create_task(ask(http))",
        r"error: .*asyncio\.create_task\(\.\.\.\) puts a request into a task",
        "answer = await ask(http)",
    ),
    "a task for a request that is kept": (
        CALL,
        'asked = http.post("/charges")\n    (answer,) = await asyncio.gather(asked)',
        r"error: .*asyncio\.gather\(\.\.\.\) puts a request into a task",
        'asked = http.post("/charges")\n    answer = await asked',
    ),
    "an answer that is returned whatever it says": (
        ANY_CALL,
        f"{ASKED}return answer.json()",
        r"warning: .*return answer\.json\(\) takes every JSON for a success.*\.json\(\)\['id'\]",
        f"{ASKED}return answer.json()['id']",
    ),
    "a member that may be missing": (
        ANY_CALL,
        f'{ASKED}return answer.json().get("id")',
        r"warning: .*takes every JSON for a success",
        f'{ASKED}if answer.status != 201:\n        raise Transient("no")\n    return answer.json()',
    ),
    "a code that a function of its own believes": (
        CALL,
        "answer = await believe(http, saga)",
        r"warning: pay\.py:3\d: answer\.status == 404 believes a code alone",
        "answer = await ask(http)",
    ),
    "a statement of a function of its own": (
        TRANSACTION,
        "await drop_all(tx)",
        r"warning: pay\.py:4\d: DELETE changes every row of payment.*with saga\.id",
        "await tx.execute('DELETE FROM payment WHERE id = $1', saga.id)",
    ),
    "a commit": (
        TRANSACTION,
        "await tx.commit()",
        r"error: .*tx has no commit\(\): the stage commits with the journal entry.*leave it out",
        'await tx.fetchval("SELECT 1")',
    ),
    "a method of another driver": (
        TRANSACTION,
        'await tx.fetchrow("SELECT 1")',
        r"error: .*tx has no fetchrow\(\): it has execute, executemany, fetchall, fetchone",
        'await tx.fetchone("SELECT 1")',
    ),
    "a method of another client": (
        CALL,
        f'await http.head("/charges")\n    {POST}',
        r"error: .*http has no head\(\): it has delete, get, patch, post, put, request",
        POST,
    ),
    "a member of another client": (
        CALL,
        f'http.headers["X-Order"] = "1"\n    {POST}',
        "error: .*http has no headers: give headers= to each request",
        'answer = await http.post("/charges", headers={"X-Order": "1"})',
    ),
    "a member of another driver": (
        TRANSACTION,
        "tx.row_factory = dict\n    print(tx.connection)",
        "error: .*tx has no connection: it has execute, executemany",
        'await tx.fetchval("SELECT 1")',
    ),
    "a status of another client": (
        CALL,
        f"{POST}\n    if answer.status_code != 201:\n        raise Transient('no')",
        r"error: .*answer\.status_code: an answer has no status_code: write answer\.status",
        f"{POST}\n    if answer.status != 201:\n        raise Transient('no')",
    ),
    "an answer that raises by itself": (
        CALL,
        f"{POST}\n    answer.raise_for_status()",
        "error: .*has no raise_for_status: look at answer.status and the body, and raise Refused",
        f"{POST}\n    if answer.status != 201:\n        raise Transient('no')",
    ),
    "an answer with an annotation": (
        CALL,
        'answer: Any = await http.post("/charges", json={})\n    print(answer.ok)',
        r"error: .*has no ok: compare answer\.status",
        'answer: Any = await http.post("/charges", json={})\n    print(answer.status)',
    ),
    "an answer in a condition": (
        CALL,
        'if (answer := await http.post("/charges", json={})).content == b"":\n        return None',
        r"error: .*has no content: write answer\.body, or answer\.json\(\)",
        'if (answer := await http.post("/charges", json={})).body == b"":\n        return None',
    ),
    "an answer without a name": (
        ANY_CALL,
        'print((await http.get("/charges/1")).reason_phrase)',
        "error: .*has no reason_phrase: .*leave it out",
        'print((await http.get("/charges/1")).status)',
    ),
    "a member that nobody knows": (
        CALL,
        f"{POST}\n    print(answer.receipt)",
        r"error: .*has no receipt: it has body, headers, json\(\), status, text\(\)",
        f"{POST}\n    print(answer.headers)",
    ),
    "an answer in brackets": (
        CALL,
        f"{POST}\n    print(answer['ref'])",
        r"error: .*no members in brackets: write answer\.json\(\)\['ref'\]",
        f"{POST}\n    print(answer.json()['ref'])",
    ),
    "JSON that is awaited": (
        CALL,
        f"{POST}\n    return Charge((await answer.json())['ref'])",
        "error: .*nothing is to be awaited: leave the await out",
        f"{POST}\n    return Charge(answer.json()['ref'])",
    ),
    "a text without brackets": (
        CALL,
        f"{POST}\n    if 'declined' in answer.text:\n        raise Refused('declined')",
        r"error: .*text is a method: write answer\.text\(\)",
        f"{POST}\n    if 'declined' in answer.text():\n        raise Refused('declined')",
    ),
    "a status with brackets": (
        CALL,
        f"{POST}\n    print(answer.status())",
        "error: .*status is a value: leave the brackets out",
        f"{POST}\n    print(answer.status)",
    ),
    "a header by its capital letters": (
        CALL,
        f"{POST}\n    print(answer.headers.get('Location'))",
        "error: .*names of headers are in lower case here: write 'location'",
        f"{POST}\n    print(answer.headers.get('location'))",
    ),
    "an answer of a probe": (
        CHARGE + PROBE_BY_ID.replace("    return", "    HERE\n    return") + RIGHT_UNDO,
        "print(answer.is_success)",
        "error: .*has no is_success: compare answer.status",
        "print(answer.status)",
    ),
    "an answer of an undo": (
        CHARGE + RIGHT_UNDO.replace("    if", "    HERE\n    if"),
        "answer.raise_for_status()",
        "error: .*has no raise_for_status",
        "print(answer.status)",
    ),
    "an answer of a function of its own": (
        CALL,
        f"await measured(http)\n    {POST}",
        r"error: pay\.py:\d+: answer\.elapsed: an answer has no elapsed: .*leave it out",
        POST,
    ),
    "a body of another client": (
        CALL,
        'answer = await http.post("/charges", body={"n": 1})',
        r"error: .*http\.post\(\.\.\.\) takes no body=: write json=, or data= for bytes",
        'answer = await http.post("/charges", json={"n": 1})',
    ),
    "a time-out of a request": (
        CALL,
        'answer = await http.post("/charges", json={}, timeout=5)',
        r"error: .*takes no timeout=: write timeout= at @stage\.call",
        POST,
    ),
    "a credential of a request": (
        CALL,
        'answer = await http.post("/charges", json={}, auth=("a", "b"))',
        r"error: .*takes no auth=: it is the operator's, in \[externals\.NAME\]",
        POST,
    ),
    "an option that nobody knows": (
        CALL,
        'answer = await http.request("POST", "/charges", jsn={})',
        "error: .*takes no jsn=: it takes json=, data=, params=, headers=",
        'answer = await http.request("POST", "/charges", json={})',
    ),
    "a body by position": (
        CALL,
        'answer = await http.post("/charges", {"n": 1})',
        "error: .*takes only the path by position: write json= or data=",
        'answer = await http.post("/charges", json={"n": 1})',
    ),
    "an answer that is entered": (
        ANY_CALL,
        'async with http.get("/charges/1") as answer:\n        return answer.status',
        r"error: .*write answer = await http\.get\(\.\.\.\)",
        'answer = await http.get("/charges/1")\n    return answer.status',
    ),
    "an id of another framework": (
        TRANSACTION,
        'await tx.execute("INSERT INTO payment VALUES ($1)", saga.saga_id)',
        r"error: .*saga has no saga_id: write saga\.id",
        'await tx.execute("INSERT INTO payment VALUES ($1)", saga.id)',
    ),
    "a context of another framework": (
        EFFECT,
        "print(saga.context.get('x'))",
        r"error: .*saga has no context: write saga\.data",
        "print(saga.data.get('x'))",
    ),
    "a member that no saga has": (
        EFFECT,
        "print(saga.inptu)",
        r"error: .*saga has no inptu: it has attempt, budget, data, .*key_of\(\)",
        "print(saga.attempt)",
    ),
    "a saga of a function of its own": (
        TRANSACTION,
        "await noted(tx, of=saga)",
        r"error: pay\.py:\d+: of has no run_id: write saga\.id",
        'await tx.fetchval("SELECT 1")',
    ),
    "an input in brackets": (
        EFFECT,
        "print(saga.input['order_id'])",
        r"error: .*it is Order, no dictionary: write saga\.input\.order_id",
        "print(saga.input.order_id)",
    ),
    "a member that an input does not have": (
        EFFECT,
        "order = saga.input\n    print(order.amuont)",
        r"error: .*order\.amuont: Order has no amuont: it has amount, card, order_id",
        "order = saga.input\n    print(order.amount)",
    ),
    "a member that an input of an output does not have": (
        OUTPUT,
        "saga.input.orderid",
        "error: .*Order has no orderid: it has amount, card, order_id",
        "saga.input.order_id",
    ),
    "a member that an input of an approval does not have": (
        APPROVAL,
        "saga.input.sum > 5",
        "error: .*Order has no sum: it has amount, card, order_id",
        "saga.input.amount > 5",
    ),
    "a step by its name": (
        CHARGE + RIGHT_UNDO + TRANSACTION,
        "print(saga.result('charge'))",
        r"error: .*takes the function of a step itself: write saga\.result\(charge\)",
        "print(saga.result(charge))",
    ),
    "a key by the name of a step": (
        CHARGE + RIGHT_UNDO + TRANSACTION,
        "print(saga.key_of('charge'))",
        r"error: .*takes the function of a step itself: write saga\.key_of\(charge\)",
        "print(saga.key_of(charge))",
    ),
    "a statement that a name holds": (
        TRANSACTION,
        (
            "order = saga.input\n"
            """    sql = "DELETE FROM payment WHERE id = '%s'" % order.order_id\n"""
            "    await tx.execute(sql)"
        ),
        "error: .*holds a value of the saga in its text.*give it as a parameter",
        (
            "order = saga.input\n"
            '    table = "payment" if order.card else "stock"\n'
            '    sql = f"DELETE FROM {table} WHERE id = $1"\n'
            "    await tx.execute(sql, order.order_id)"
        ),
    ),
    "an error of a call that is a no": (
        CALL,
        f'try:\n        {POST}\n    except Exception:\n        raise Refused("no") from None',
        "warning: .*takes an answer that nobody understood, or none, for a no.*let other errors",
        f'try:\n        {POST}\n    except Exception:\n        raise Transient("no") from None',
    ),
    "an answer that cannot be read and is a no": (
        CALL,
        (
            f'{ASKED}try:\n        n = answer.json()["n"]\n'
            '    except (KeyError, ValueError):\n        raise Refused("no")'
        ),
        "warning: .*takes an answer that nobody understood, or none, for a no",
        f'{ASKED}try:\n        n = answer.json()["n"]\n    except KeyError:\n        raise',
    ),
    "a time-out of an effect that is a no": (
        EFFECT,
        'try:\n        await push(1)\n    except TimeoutError:\n        raise Refused("no")',
        "warning: .*takes an answer that nobody understood, or none, for a no",
        'try:\n        await push(1)\n    except LookupError:\n        raise Refused("no")',
    ),
    "a time-out of an effect that is a yes": (
        EFFECT,
        "try:\n        await push(1)\n    except (TimeoutError, OSError):\n        pass",
        "warning: .*takes a time-out or a broken connection for an end.*let it out",
        "try:\n        await push(1)\n    except TimeoutError:\n        await push(2)",
    ),
    "a probe that finds nothing in a page": (
        CHARGE + PROBE + RIGHT_UNDO,
        (
            'answer = await http.get(f"/c/{saga.key}")\n'
            "    try:\n        answer.json()['id']\n    except KeyError:\n        return None"
        ),
        'warning: .*takes an answer that nobody understood for "not there"',
        (
            'answer = await http.get(f"/c/{saga.key}")\n'
            "    try:\n        answer.json()['id']\n    except KeyError:\n        raise"
        ),
    ),
    "a search that finds nothing in a page": (
        CHARGE + PROBE + RIGHT_UNDO,
        (
            'answer = await http.get("/c", params={"key": saga.key})\n'
            '    found = answer.json().get("data", [])\n    if not found:\n        return None'
        ),
        r"warning: .*finds nothing in a page of a gateway.*read answer\.json\(\)\['data'\]",
        (
            'answer = await http.get("/c", params={"key": saga.key})\n'
            '    found = answer.json()["data"]\n    if not found:\n        return None'
        ),
    ),
    "a search whose body a name holds": (
        CHARGE + PROBE + RIGHT_UNDO,
        (
            'answer = await http.get("/c", params={"key": saga.key})\n'
            '    body = answer.json()\n    if not (body.get("data") or []):\n        return None'
        ),
        r"warning: .*finds nothing in a page of a gateway.*read body\['data'\]",
        (
            'answer = await http.get("/c", params={"key": saga.key})\n'
            '    body = answer.json()\n    if not body["data"]:\n        return None'
        ),
    ),
    "an amount that is divided": (
        CALL,
        'answer = await http.post("/charges", json={"amount": saga.input.amount / 100})',
        r"warning: .*saga\.input\.amount / 100 makes a float of a whole number of money",
        'answer = await http.post("/charges", json={"amount": saga.input.amount // 100})',
    ),
    "an amount that is made a float": (
        CALL,
        'answer = await http.post("/charges", json={"amount": float(saga.input.amount)})',
        r"warning: .*float\(saga\.input\.amount\) makes a float of a whole number of money",
        'answer = await http.post("/charges", json={"amount": int(saga.input.amount)})',
    ),
    "a share of an amount": (
        TRANSACTION,
        'total = saga.input.amount\n    await tx.fetchval("SELECT $1", round(total * 0.029))',
        r"warning: .*total \* 0\.029 makes a float of a whole number of money",
        'total = saga.input.amount\n    await tx.fetchval("SELECT $1", total * 29 // 1000)',
    ),
    "an undo without a look": (
        CHARGE.replace('"psp"', '"psp", idempotent=False') + PROBE_BY_ID + UNDO,
        'answer = await http.post("/refunds", json={"key": saga.key_of(charge)})',
        r"warning: .*charge says idempotent=False, and its undo is asked again.*Look first",
        (
            'answer = await http.get(f"/refunds/{saga.key_of(charge)}")\n'
            '    if "refunded" not in answer.json():\n'
            '        answer = await http.post("/refunds", json={"key": saga.key_of(charge)})'
        ),
    ),
    "a secret of the environment": (
        CALL,
        'answer = await http.post("/c", json={"key": os.environ["PSP_KEY"]})',
        r"warning: .*os\.environ stands in a request.*bearer_file in \[externals\.psp\]",
        'answer = await http.post("/c", json={"key": saga.key})',
    ),
}

# Functions as they should be, of which an error was said once: the frame, and what stands in it.
RIGHT: dict[str, tuple[str, str]] = {
    "an answer, or something else": (
        ANY_CALL,
        "answer = SESSION\n    answer = answer or await http.get('/a')\n    return answer.ok",
    ),
    "an answer of which it is asked what it is": (
        ANY_CALL,
        (
            "answer = await http.get('/a')\n    if hasattr(answer, 'ok'):\n"
            "        return answer.ok\n    return answer.status"
        ),
    ),
    "an answer that has been given a member": (
        ANY_CALL,
        "answer = await http.get('/a')\n    answer.ok = answer.status < 300\n    return answer.ok",
    ),
    "an answer whose member is tried": (
        ANY_CALL,
        (
            "answer = await http.get('/a')\n    try:\n        return answer.ok\n"
            "    except AttributeError:\n        return answer.status"
        ),
    ),
    "an answer under the name of another thing": (
        ANY_CALL,
        (
            "answer = await http.get('/a')\n    print(answer.status)\n"
            "    return [answer.ok for answer in answer.json()]"
        ),
    ),
    "a client of its own that looks like http": (
        ANY_CALL,
        "http = SESSION\n    return (await http.get('/b', timeout=5)).status_code",
    ),
    "options that only the run knows": (
        ANY_CALL,
        "options = {'json': {}}\n    return (await http.get(*['/a'], **options)).status",
    ),
    "all that an answer has": (
        ANY_CALL,
        (
            "answer = await http.get('/a', params={}, headers={})\n    method = answer.json\n"
            "    'location' in answer.headers, answer.headers['location'], answer.body[:1]\n"
            "    return method(), answer.json(Order).card, answer.text().lower(), answer.status"
        ),
    ),
    "a saga in a function of another": (
        ANY_CALL,
        "return [saga.saga_id for saga in (await http.get('/a')).json(list[Any])]",
    ),
    "an input that may have more members": (
        (
            "class Loose(msgspec.Struct, dict=True):\n    id: str\n"
            'pay = Stage("pay", accepts=Loose, migrations="sql")' + EFFECT
        ),
        "print(saga.input.more)",
    ),
    "an input whose members are made": (
        (
            "class Made(msgspec.Struct):\n    id: str\n"
            "    def __getattr__(self, name): return name\n"
            'pay = Stage("pay", accepts=Made, migrations="sql")' + EFFECT
        ),
        "print(saga.input.more)",
    ),
    "a dataclass that adds to itself": (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass Made:\n    id: str\n"
            "    def __post_init__(self): self.more = 1\n"
            'pay = Stage("pay", accepts=Made, migrations="sql")' + EFFECT
        ),
        "print(saga.input.more, saga.input.id)",
    ),
    "a property and a method of an input": (
        (
            "class Sum(msgspec.Struct):\n    id: str\n    @property\n"
            "    def half(self): return 1\n    def whole(self): return 2\n"
            'pay = Stage("pay", accepts=Sum, migrations="sql")' + EFFECT
        ),
        "print(saga.input.half, saga.input.whole(), saga.input.__class__)",
    ),
    "a request in each arm of a condition": (
        CALL,
        ('answer = (await http.post("/a")) if saga.input.amount else (await http.post("/b"))'),
    ),
    "a request where the first one found nothing": (
        PROBE.replace("charge.probe", 'pay.call(to="psp", compensation=None, reason="r")'),
        'answer = (await http.get(f"/a/{saga.id}")) or (await http.get(f"/b/{saga.id}"))',
    ),
    "requests in a list that may be empty": (
        CALL,
        (
            "answers = [await http.get(path) for path in ()]\n    "
            'answer = await http.post("/c", json={"n": len(answers)})'
        ),
    ),
    "a value of a driver": (
        TRANSACTION,
        'await tx.execute("INSERT INTO payment VALUES ($1)", sqlite3.Binary(b"1"))',
    ),
    "a range of a driver": (
        TRANSACTION,
        'await tx.execute("INSERT INTO payment VALUES ($1)", asyncpg.Range(1, 2))',
    ),
    "values of a client": (
        CALL,
        (
            "path = httpx.URL('https://psp').copy_with(path='/c').path\n    "
            "aiohttp.BasicAuth('kim', 'pw'), aiohttp.ClientTimeout(1)\n    "
            "answer = await http.post(path)"
        ),
    ),
    "a result that is called as an outcome": (
        (
            "class Pending(msgspec.Struct):\n    charge_id: str\n"
            '@pay.call(to="psp", compensation=None, reason="r")\n'
            "async def charge(http: Http, saga: Saga[Order]) -> Pending:\n    HERE"
        ),
        f'{ASKED}return Pending(answer.json()["id"])',
    ),
    "an outcome that another function raises": (
        CALL,
        (
            f"{ASKED}if 'id' not in answer.json():\n"
            "        raise await no_of(http, answer.json()['code'])"
        ),
    ),
    "an error that is called as an outcome": (
        "class Refused(Exception): ...\n" + CALL,
        f'{ASKED}if answer.status == 404:\n        raise Refused("in doubt")',
    ),
    "an error that is called as an outcome, behind an except": (
        "class Refused(Exception): ...\n" + CALL,
        f"try:\n        {POST}\n    except Exception:\n        raise Refused('in doubt')",
    ),
}

JUDGED = ANY_CALL.replace("HERE", f"{ASKED}HERE")
LOOKED_UP = (
    CHARGE
    + """
@charge.probe
async def find(http: Http, saga: Saga[Order]) -> Charge | None:
    answer = await http.get(f"/charges/{saga.id}")
    HERE
"""
    + RIGHT_UNDO
)
YES = "return Charge(answer.json()['id'])"
# A no for every other code than those that are named: the frame, and what stands in it.
OTHER_CODES: dict[str, tuple[str, str]] = {
    "behind an if": (
        JUDGED,
        f"if answer.status == 201:\n        {YES}\n    raise Refused('declined')",
    ),
    "behind an if, with the body at hand": (
        JUDGED,
        (
            "body = answer.json()\n    if answer.status // 100 == 2:\n"
            "        return Charge(body['id'])\n    raise Refused('declined')"
        ),
    ),
    "behind several": (
        JUDGED,
        (
            f"if answer.status == 201:\n        {YES}\n    if answer.status in (408, 409):\n"
            "        raise Transient('later')\n    raise Declined('declined')"
        ),
    ),
    "in an else": (
        JUDGED,
        (
            f"if answer.status == 201:\n        {YES}\n    elif answer.status == 402:\n"
            "        raise Refused('declined')\n    else:\n        raise Refused('no')"
        ),
    ),
    "in a case": (
        JUDGED,
        (
            f"match answer.status:\n        case 200 | 201:\n            {YES}\n"
            "        case _:\n            raise Refused('declined')"
        ),
    ),
    "behind a match": (
        JUDGED,
        (
            f"match answer.status:\n        case 201:\n            {YES}\n"
            "    raise Refused('declined')"
        ),
    ),
    "of a probe behind an if": (
        LOOKED_UP,
        f"if answer.status == 200:\n        {YES}\n    return None",
    ),
    "of a probe in an else": (
        LOOKED_UP,
        f"if answer.status < 300:\n        {YES}\n    else:\n        return None",
    ),
}
# The same, where it is no such slip.
OWN_WORDS: dict[str, tuple[str, str]] = {
    "the code that no gateway gives": (
        JUDGED,
        f"if answer.status != 402:\n        {YES}\n    raise Refused('declined')",
    ),
    "the code that is left": (
        JUDGED,
        (
            "if answer.status not in (201, 402):\n        raise ValueError('in doubt')\n"
            f"    if answer.status == 201:\n        {YES}\n    raise Refused('declined')"
        ),
    ),
    "the case that is left": (
        JUDGED,
        (
            f"match answer.status:\n        case 201:\n            {YES}\n"
            "        case 402:\n            raise Refused('declined')\n"
            "        case _:\n            raise ValueError('in doubt')"
        ),
    ),
    "a member in the no": (
        JUDGED,
        (
            f"if answer.status == 201:\n        {YES}\n"
            "    raise Refused(f\"code {answer.json()['code']}\")"
        ),
    ),
    "a member before the no": (
        JUDGED,
        (
            "word = answer.json()['code']\n    if answer.status == 201:\n"
            f"        {YES}\n    raise Refused(word)"
        ),
    ),
    "a look before the codes": (
        JUDGED,
        (
            "body = answer.json()\n    if 'code' not in body:\n"
            "        raise ValueError('a page')\n    if answer.status == 201:\n"
            f"        {YES}\n    raise Refused('declined')"
        ),
    ),
    "a look around the codes": (
        JUDGED,
        (
            "if answer.json()['kind'] == 'charge':\n        if answer.status == 201:\n"
            f"            {YES}\n        else:\n            raise Refused('declined')\n"
            "    raise ValueError('in doubt')"
        ),
    ),
    "a look behind the codes": (
        JUDGED,
        (
            f"if answer.status == 201:\n        {YES}\n"
            "    if answer.json()['code'] == 'declined':\n"
            "        raise Refused('declined')\n    raise ValueError('in doubt')"
        ),
    ),
    "a test that reads the body": (
        JUDGED,
        (
            "if answer.status == 201 or answer.json()['code'] != 'declined':\n"
            f"        {YES}\n    raise Refused('declined')"
        ),
    ),
    "a function that looks": (
        JUDGED,
        (
            "await push(answer)\n    if answer.status == 201:\n"
            f"        {YES}\n    raise Refused('declined')"
        ),
    ),
    "an if that does not end": (
        JUDGED,
        (
            "if answer.status == 201:\n        made = answer.json()['id']\n"
            "    else:\n        made = answer.json()['code']\n"
            "    if saga.input.amount:\n        return made\n    raise Refused('declined')"
        ),
    ),
    "a call that only reads": (
        JUDGED.replace(POST, 'answer = await http.get("/customers/1")'),
        f"if answer.status == 200:\n        {YES}\n    raise Refused('nobody')",
    ),
    "a search of a probe": (
        LOOKED_UP,
        (
            "if answer.status != 200:\n        raise ValueError('in doubt')\n"
            "    for each in answer.json()['data']:\n"
            "        return Charge(each['id'])\n    return None"
        ),
    ),
    "a probe of an API that says 200": (
        LOOKED_UP,
        (
            "if answer.status == 404 and answer.json()['code'] == 'unknown_key':\n"
            f"        return None\n    if answer.status == 200:\n        {YES}\n"
            "    raise ValueError('in doubt')"
        ),
    ),
}

# Types of an input: their source, a member as it is wrong and as it is right, and what is said.
INPUTS: dict[str, tuple[str, str, str, str]] = {
    "a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass Paid:\n    sum: int",
        "saga.input['sum']",
        "saga.input.sum",
        r"it is Paid, no dictionary: write saga\.input\.sum",
    ),
    "a member of a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass Paid:\n    sum: int",
        "saga.input.summ",
        "saga.input.sum",
        "Paid has no summ: it has sum",
    ),
    "a model of pydantic": (
        "import pydantic\nclass Paid(pydantic.BaseModel):\n    sum: int",
        "saga.input['sum']",
        "saga.input.sum",
        r"it is Paid, no dictionary: write saga\.input\.sum",
    ),
    "a member of a model of pydantic": (
        "import pydantic\nclass Paid(pydantic.BaseModel):\n    sum: int",
        "saga.input.total",
        "saga.input.model_dump()['sum']",
        "Paid has no total: it has sum",
    ),
    "a TypedDict": (
        "import typing\nclass Paid(typing.TypedDict):\n    sum: int",
        "saga.input.sum",
        "saga.input['sum']",
        r"it is a dictionary: write saga\.input\['sum'\]",
    ),
    "a member of a TypedDict": (
        "import typing\nclass Paid(typing.TypedDict):\n    sum: int",
        "saga.input['total']",
        "saga.input.get('total')",
        "Paid has no total: it has sum",
    ),
    "a dictionary": (
        "Paid = dict[str, int]",
        "saga.input.sum",
        "saga.input['total']",
        r"it is a dictionary: write saga\.input\['sum'\]",
    ),
}

# Slips of a whole stage: what stands there, and what is said.
OF_A_STAGE: dict[str, tuple[str, str]] = {
    "money as a float": (
        'class Money(msgspec.Struct):\n    price: float | None\npay = Stage("pay", accepts=Money)',
        "accepts= .* has a float 'price'.*a whole number of its smallest unit",
    ),
    "a card that everybody sees": (
        'pay = Stage("pay", accepts=Order, shows={"c": "card"})',
        "shows= .* names 'card' as 'c', which every operator may then search or see",
    ),
    "a secret in a result": (
        (
            "class Token(msgspec.Struct):\n    access_token: str\n"
            '@pay.transaction(compensation=None, reason="r")\n'
            "async def take(tx, saga) -> Token: ..."
        ),
        "the result of take .* holds 'access_token', which then lies in the journal",
    ),
    "an undo without a line": (
        (
            "@pay.transaction\nasync def take(tx, saga): ...\n"
            '@take.compensation\nasync def give(tx, saga):\n    """Nothing."""'
        ),
        "the compensation of take takes nothing back",
    ),
    "an effect that no probe can find": (
        (
            '@pay.effect(to="smtp", idempotent=False, compensation=None, reason="r")\n'
            "async def mail(saga: Saga[Order]) -> None: ..."
        ),
        "once it is not known how it ended, .* Let it return what it made, .* under @mail.probe",
    ),
    "an undo that believes a 200": (
        CHARGE + "@charge.compensation\nasync def refund(http, saga, made):\n"
        '    answer = await http.post("/refunds", json={"key": saga.key_of(charge)})\n'
        '    if answer.status != 200:\n        raise Transient("no")',
        "the undo is believed by its code alone",
    ),
    "a write to the journal": (
        TRANSACTION.replace("HERE", 'await tx.execute("DELETE FROM journal WHERE seq > 1")'),
        "journal is a table of the stage, .*write to a table of your own migrations",
    ),
    "a result that is not there yet": (
        TRANSACTION.replace("HERE", "saga.result(charge)") + CHARGE + RIGHT_UNDO,
        "charge has not run when reserve runs, .*declare charge before it",
    ),
    "codes that a gateway gives": (
        (
            '@pay.call(to="psp", refused_on={404}, transient_on={500},\n'
            '          compensation=None, reason="r")\n'
            "async def charge(http, saga): ..."
        ),
        r"transient_on=\[500\] says that nothing happened",
    ),
    "an attempt that is longer than a saga": (
        (
            '@pay.call(to="psp", timeout=2000, compensation=None, reason="r")\n'
            "async def charge(http, saga): ..."
        ),
        r"charge has a timeout of 2000 s, .* 60 s \(deadline_seconds_default\)",
    ),
}


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """The findings of a stage with that text in its module."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "0001_pay.sql").write_text(MIGRATION)

    def judge(text: str) -> list[str]:
        checked = check_stage(module_of(tmp_path / "pay.py", HEAD + text).pay, Config())
        return [
            f"{each.level}: {each.text}" for each in checked.findings if each.level != Level.NOTE
        ]

    yield judge
    sys.modules.pop("pay", None)


def module_of(file: Path, text: str) -> ModuleType:
    file.write_text(text)
    found = importlib.util.spec_from_file_location(file.stem, file)
    assert found is not None and found.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_found_and_its_mend_is_not(slip: str, said: Callable[[str], list[str]]) -> None:
    """The line, what it costs and the fix; the level says whether it stops a release."""
    frame, wrong, words, _ = SLIPS[slip]
    (found,) = said(frame.replace("HERE", wrong, 1))
    assert re.search(words, found), found
    assert re.search(r": (\w+\.py:\d+: )", found), "it names no line"


@pytest.mark.parametrize("slip", SLIPS)
def test_nothing_is_said_of_a_function_as_it_should_be(
    slip: str, said: Callable[[str], list[str]]
) -> None:
    """A warning that is wrong teaches its reader to read none."""
    frame, _, _, right = SLIPS[slip]
    assert [] == said(frame.replace("HERE", right, 1))


@pytest.mark.parametrize("right", RIGHT)
def test_nothing_is_said_of_a_function_that_only_looks_like_a_slip(
    right: str, said: Callable[[str], list[str]]
) -> None:
    """An error that is wrong stops a right release."""
    frame, text = RIGHT[right]
    assert [] == said(frame.replace("HERE", text, 1))


@pytest.mark.parametrize("slip", OTHER_CODES)
def test_a_no_for_every_other_code_is_found(slip: str, said: Callable[[str], list[str]]) -> None:
    """A 403, 404 or 409 of a gateway would be a certain no, and the effect may stand."""
    frame, text = OTHER_CODES[slip]
    (found,) = said(frame.replace("HERE", text, 1))
    words = r"warning: pay\.py:\d+: .* for any other code, such as 40\d and \d+, believes a code"
    assert re.match(words, found), found


@pytest.mark.parametrize("right", OWN_WORDS)
def test_nothing_is_said_of_a_no_in_the_word_of_the_api(
    right: str, said: Callable[[str], list[str]]
) -> None:
    """A warning that is wrong is worse than a slip that is missed."""
    frame, text = OWN_WORDS[right]
    assert [] == said(frame.replace("HERE", text, 1))


@pytest.mark.parametrize("kind", INPUTS)
def test_a_member_that_an_input_does_not_have_is_found(
    kind: str, said: Callable[[str], list[str]]
) -> None:
    """Each kind of type is asked in its own way, and fails at every run in the other one."""
    text, wrong, right, words = INPUTS[kind]
    stage = f'{text}\npay = Stage("pay", accepts=Paid, migrations="sql")\n{EFFECT}'
    (found,) = said(stage.replace("HERE", f"print({wrong})", 1))
    assert re.match(r"error: pay\.py:\d+: ", found) and re.search(words, found), found
    assert [] == said(stage.replace("HERE", f"print({right})", 1))


@pytest.mark.parametrize("slip", OF_A_STAGE)
def test_a_slip_of_a_stage_is_found(slip: str, said: Callable[[str], list[str]]) -> None:
    """Its types, what operators see of it, and what only the order of the steps shows."""
    text, words = OF_A_STAGE[slip]
    assert any(re.search(words, found) for found in said(text)), said(text)


def test_a_slip_fails_the_tests_of_a_project(tmp_path: Path) -> None:
    """With the words of `stage check`, where an author looks first."""
    wrong = module_of(tmp_path / "wrong.py", HEAD.replace(', migrations="sql"', "") + CHARGE).pay
    with pytest.raises(AssertionError, match=r"error: wrong\.py:.* has no compensation"):
        assert_no_slips(wrong)
    odd = module_of(tmp_path / "odd.py", HEAD + TRANSACTION.replace("HERE", "SEEN.clear()")).pay
    (tmp_path / "sql").mkdir()
    with pytest.raises(AssertionError, match=r"warning: odd\.py:.* changes what belongs"):
        assert_no_slips(odd)
    assert_no_slips(odd, meant=["SEEN.clear()"])
    for name in ("wrong", "odd"):
        sys.modules.pop(name)


def test_a_statement_of_postgresql_fails_no_test_of_a_stage_that_is_served_there(
    tmp_path: Path,
) -> None:
    """`FOR UPDATE` is our own advice; in SQLite it is an error, which says the way out."""
    locks = TRANSACTION.replace(
        "HERE", 'await tx.fetchone("SELECT free FROM stock WHERE id = $1 FOR UPDATE", 1)'
    )
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "0001_pay.sql").write_text(MIGRATION)
    stage = module_of(tmp_path / "locks.py", HEAD + locks).pay
    with pytest.raises(AssertionError, match=r"error: locks\.py:.* database='postgresql://'"):
        assert_no_slips(stage)
    assert_no_slips(stage, database="postgresql://")
    dropped = module_of(tmp_path / "locks.py", HEAD + locks.replace("await ", "")).pay
    with pytest.raises(AssertionError, match="is not awaited"):
        assert_no_slips(dropped, database="postgresql://")
    sys.modules.pop("locks")


def test_nothing_is_said_of_our_own_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo, the example and a new project are as we say that a stage should be."""
    write_project(tmp_path / "new", "hotel")
    monkeypatch.syspath_prepend(str(tmp_path / "new"))
    hotel = importlib.import_module("hotel.stage").hotel
    ours: list[Stage[Any, Any]] = [payment, inventory, hotel]
    for each in ours:
        assert [] == list(slips_in(each)), each.name
