"""Clients that go behind the back of the stage, and work that outlives its step."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from stage.authoring.slips.step_function import Rule, Slip, StepFunction, shown
from stage.authoring.source import BLOCKING, BLOCKING_MODULES

_CLIENTS: Final = frozenset(
    {
        *("aiobotocore", "aiohttp", "aiokafka", "aio_pika", "aiosmtplib", "boto3", "botocore"),
        *("ftplib", "grpc", "httpx", "kafka", "niquests", "paramiko", "pika", "pycurl", "redis"),
        *("requests", "smtplib", "stripe", "urllib3", "websockets"),
    }
)
"""Packages that send something when they are called."""
_VALUES: Final = frozenset(
    {
        *("BasicAuth", "ClientTimeout", "FormData", "Headers", "Limits", "QueryParams", "Timeout"),
        *("URL", "compat", "conditions", "error", "errors", "exceptions", "helpers", "types"),
        *("util", "utils", "webhook", "Webhook"),
    }
)
"""Parts of these packages that make values, and send nothing."""
_CLIENTS_WITHIN: Final = ("http.client.", "urllib.request.")
_CONNECTS: Final = {
    "aiosqlite": frozenset({"Connection", "Cursor", "connect"}),
    "asyncpg": frozenset({"Connection", "Pool", "connect", "create_pool"}),
    "psycopg": frozenset({"AsyncConnection", "AsyncCursor", "Connection", "Cursor", "connect"}),
    "psycopg2": frozenset(
        {
            *("AbstractConnectionPool", "SimpleConnectionPool", "ThreadedConnectionPool"),
            *("connect", "connection", "cursor"),
        }
    ),
    "psycopg_pool": frozenset(
        {"AsyncConnectionPool", "AsyncNullConnectionPool", "ConnectionPool", "NullConnectionPool"}
    ),
    "pymysql": frozenset({"Connect", "Connection", "Cursor", "connect"}),
    "sqlite3": frozenset({"Connection", "Cursor", "connect"}),
}
"""By package: functions that open a connection to a database, and types whose methods use one.

Other names of these packages are values, such as `asyncpg.Range`, which a statement may be given.
"""
_TASKS: Final = frozenset(
    {
        *("asyncio.create_task", "asyncio.ensure_future"),
        *("asyncio.tasks.create_task", "asyncio.tasks.ensure_future"),
    }
)
_WRITES: Final = frozenset({"a", "w", "x", "+"})


def other_client(function: StepFunction) -> Iterator[Slip]:
    """The first request by another client than `http`, or statement by another than `tx`."""
    if function.is_effect:
        return
    for source in function.source.with_called():
        for call in source.all_calls():
            if text := _goes_behind(function, source.full_name(call)):
                yield Slip(
                    function.is_transaction, f"{source.place(call)}: {shown(call.func)}(...) {text}"
                )
                return


def _goes_behind(function: StepFunction, name: str) -> str:
    """The cost of a call of that name, and its mend; empty where it has none."""
    root = name.partition(".")[0]
    if _connects(name):
        if function.is_transaction:
            return (
                "is another connection to a database, whose writes stand when this one is rolled"
                " back: use tx"
            )
        return (
            "is another connection to a database, whose writes no saga takes back: make a"
            " transaction of it"
        )
    client = root in _CLIENTS and _VALUES.isdisjoint(name.split("."))
    if not client and not name.startswith(_CLIENTS_WITHIN):
        return ""
    if not function.is_transaction:
        return (
            "is a client of its own: what it sends has no intent in the journal and no idempotency"
            f" key. Use http, or make an effect of it with @{function.stage.name}.effect"
        )
    if name in BLOCKING or root in BLOCKING_MODULES:
        return ""  # another rule says that
    return (
        "talks to a server, and a transaction that waits for one is stopped: move it to a call or"
        " an effect"
    )


def _connects(name: str) -> bool:
    package, *within = name.removeprefix("_").split(".")  # _sqlite3.connect
    return not _CONNECTS.get(package, frozenset()).isdisjoint(within)


def work_behind_the_step(function: StepFunction) -> Iterator[Slip]:
    """A task or a thread that nobody waits for: its end is not that of the step."""
    for call in function.source.all_calls():
        name = function.source.full_name(call)
        thread = name == "threading.Thread.start" or (
            isinstance(call.func, ast.Attribute)
            and call.func.attr == "start"
            and function.source.full_name(call.func.value)
            in ("threading.Thread", "threading.Timer")
        )
        if not thread:
            if name not in _TASKS:
                continue
            kept = function.source.named(call)
            parent = function.source.parent(call)
            if not isinstance(parent, ast.Expr) and not (
                kept and not any(function.source.loads(kept))
            ):
                continue
        yield function.warning(
            call,
            f"{_name(call)}(...) is not over when the step ends, so that its failure turns"
            " nothing back and a crash forgets it: await it, or make a step of it",
        )


def _name(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Call):
        return f"{shown(function.value.func)}(...).{function.attr}"
    return shown(function)


def file_in_a_transaction(function: StepFunction) -> Iterator[Slip]:
    """A file that is written where only the database is rolled back."""
    if not function.is_transaction:
        return
    for call in function.source.all_calls():
        mode = _mode(call)
        writes = isinstance(call.func, ast.Attribute) and call.func.attr in (
            "write_bytes",
            "write_text",
        )
        opens = function.source.full_name(call) in ("builtins.open", "io.open", "_io.open")
        if writes or (opens and _WRITES & set(mode)):
            yield function.warning(
                call,
                f"{shown(call.func)}(...) writes a file, which stays when the transaction is rolled"
                " back or run again: write it in an effect",
            )


def _mode(call: ast.Call) -> str:
    given = [*call.args[1:2], *(each.value for each in call.keywords if each.arg == "mode")]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else ""


WAITS: Final[tuple[Rule, ...]] = (other_client, work_behind_the_step, file_in_a_transaction)
