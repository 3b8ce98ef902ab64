"""The Python of the pages runs, each block by itself, with the names that its page has before it.

A name that a block does not define is the demo's, a public one of `stage`, or a stand-in of here.
A block is run up to a line `...`, where the reader's own code stands.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, create_autospec

import pytest

import stage
from stage.demo import payment as demo
from tests.unit.docs.blocks import Block, blocks

OWN_PAGE = "README"
"""The README's only block is the stage of the demo, which is compared instead of run."""
SECONDS_MAX = 60.0


def tree_of(block: Block) -> ast.Module:
    """Its statements, up to `...`; the line numbers are those of the page."""
    tree = ast.parse(block.text, filename=block.page)
    for place, statement in enumerate(tree.body):
        if ast.unparse(statement) == "...":
            tree.body = tree.body[:place]
            break
    return ast.increment_lineno(tree, block.line - 1)


def names_missing(block: Block) -> set[str]:
    """The names that it uses and does not bind."""
    used: set[str] = set()
    bound: set[str] = set()
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return used - bound - set(vars(builtins))


def declared() -> stage.Stage[Any, Any]:
    """A stage to which a block adds steps."""
    return stage.Stage("payment", accepts=demo.Order, adds=demo.Charge)


def a_call(payment: stage.Stage[Any, Any]) -> Any:
    """The step `charge` of a block that adds something to it."""

    @payment.call(to="psp", timeout=1.0)
    async def charge(http: stage.Http, saga: stage.Saga[demo.Order]) -> demo.Charge:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        return demo.Charge(answer.json()["id"])

    return charge


def a_deposit(hotel: stage.Stage[Any, Any]) -> Any:
    """The step `deposit` of the tutorial."""

    @hotel.call(to="psp")
    async def deposit(http: stage.Http, saga: stage.Saga[demo.Order]) -> str:
        return str((await http.post("/deposits", json={})).json()["id"])

    return deposit


def stand_ins() -> dict[str, Callable[[], Any]]:
    """The things that a reader has around a block, by their names."""
    import opentelemetry.trace
    import structlog
    from aiohttp import web
    from fastapi import FastAPI
    from temporalio.client import Client

    from stage.bootstrap import build_app
    from stage.config import Config
    from tests.unit.docs import reader

    settings = Config(auth="none", database="sqlite:///:memory:", externals={"psp": "http://psp"})
    return {
        "FastAPI": lambda: FastAPI,
        "build_app": lambda: build_app,
        "client": lambda: create_autospec(Client),  # there is no Temporal here
        "config": lambda: settings,
        "deposit": lambda: a_deposit(declared()),
        "hotel": declared,
        "handler": reader.handler,
        "key_in": lambda: reader.key_in,
        "key_in_body": lambda: reader.key_in_body,
        "opentelemetry": lambda: opentelemetry,
        "order": lambda: demo.Order(order_id="o-1", amount=5, currency="KRW"),
        "outer": web.Application,
        "Psp": lambda: reader.Psp,
        "risk_of": lambda: len,
        "signature": lambda: reader.signature,
        "structlog": lambda: structlog,
        "time": lambda: time,
        "tax": lambda: stage.Stage("tax", accepts=demo.Order),
        "vendor": AsyncMock,
        "web": lambda: reader.Web,
    }


def imports_before(block: Block) -> str:
    """The imports of the blocks above it on its page."""
    above = [
        each for each in blocks("python") if each.page == block.page and each.line < block.line
    ]
    statements = [statement for each in above for statement in ast.parse(each.text).body]
    found = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
    return "\n".join(ast.unparse(each) for each in found)


def world_of(block: Block) -> dict[str, Any]:
    """A value for each name that it misses. Raises AttributeError for one that nobody has."""
    missing = names_missing(block)
    adds_steps = "@" in block.text
    world: dict[str, Any] = {"__name__": "a_page"}
    exec(imports_before(block), world)  # noqa: S102  the pages are ours
    missing -= set(world)
    if adds_steps and missing & {"payment", "charge", "reserve"}:
        world["payment"] = declared()
        if "charge" in missing:
            world["charge"] = a_call(world["payment"])
        if "reserve" in missing:
            world["reserve"] = world["payment"].transaction(demo.reserve.function)
    there = stand_ins()
    for name in sorted(missing - set(world)):
        if name in there:
            world[name] = there[name]()
        elif hasattr(demo, name):
            world[name] = getattr(demo, name)
        else:
            world[name] = getattr(stage, name)
    return world


def run(block: Block) -> None:
    """Run it, and each test function that it defines; only what awaits, in an event loop."""
    world = world_of(block)
    code = compile(tree_of(block), block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        running = eval(code, world)  # noqa: S307  the same
        asyncio.run(asyncio.wait_for(running, SECONDS_MAX))
    else:
        exec(code, world)  # noqa: S102  the same
    for name in [name for name in world if name.startswith("test_")]:
        asyncio.run(asyncio.wait_for(world[name](), SECONDS_MAX))


RUN = [each for each in blocks("python") if not each.page.startswith(OWN_PAGE)]


@pytest.mark.blocking  # an application is made before anything is served
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with a peer in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGE_AUTH", "none")
    monkeypatch.setenv("STAGE_EXTERNAL", "psp=http://127.0.0.1:8090")
    run(block)


def test_the_readme_shows_the_stage_of_the_demo() -> None:
    """Each statement stands in the file that the page names, word for word."""
    there = {ast.dump(each) for each in ast.parse(Path(demo.__file__).read_text()).body}
    (block,) = [each for each in blocks("python") if each.page == "README.md"]
    shown = ast.parse(block.text).body
    assert shown
    assert [] == [ast.unparse(each) for each in shown if ast.dump(each) not in there]


def test_a_block_with_a_wrong_name_is_seen() -> None:
    """A name that nobody has, one in a body that is not run, and a call that is refused."""
    for text in (
        "payment.transactoin\n",
        "async def f() -> None:\n    raise Refuse('no')\n",
        "@payment.call(too='psp')\nasync def charge(http, saga) -> None: ...\n",
    ):
        with pytest.raises((AttributeError, TypeError)):
            run(Block("a page", 1, "python", text))
