"""`stage demo`: start the chain, run the stories one after the other, balance the books."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from stage.demo.accounts import Account, document, take_account
from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.postgres_server import running
from stage.demo.printer import Printer
from stage.demo.stories import LETTERS, STORIES, new_id
from stage.demo.story import Story
from stage.demo.trace import story_span
from stage.telemetry import sdk


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `stage demo`."""

    json: bool = False
    keep: bool = False
    otlp: str | None = None
    postgres: bool = False
    tls: bool = True


def main(asked: Asked) -> int:
    """Run the stories. The exit status is 0 if all ended as expected and the books balance."""
    sdk.setup("demo", endpoint=asked.otlp)
    try:
        return asyncio.run(_run(asked))
    except KeyboardInterrupt:
        return 130
    finally:
        sdk.shutdown()


async def _run(asked: Asked) -> int:
    printer = Printer(quiet=asked.json)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stage-demo-"))
        database = stack.enter_context(running("fsync=on")).url() if asked.postgres else None
        chain = Chain(Path(folder), otlp=asked.otlp, database=database, tls=asked.tls)
        try:
            await chain.start()
            printer.services(chain)
            trusted = await asyncio.to_thread(chain.trusted)
            async with Client(chain.payment.url, chain.keys, trusted) as client:
                accounts = [
                    await _run_story(chain, client, story, letter, printer)
                    for letter, story in zip(LETTERS, STORIES, strict=True)
                ]
            unaccounted = sum(account.unaccounted for account in accounts)
            ok = unaccounted == 0 and all(account.ok for account in accounts)
            if asked.json:
                found = document(accounts, unaccounted, ok, tls=asked.tls)
                sys.stdout.buffer.write(found + b"\n")
                sys.stdout.flush()
            printer.books(accounts, unaccounted, ok)
            if asked.keep:
                printer.kept(chain)
                await asyncio.Event().wait()
        finally:
            await chain.stop()
    return 0 if ok else 1


async def _run_story(
    chain: Chain, client: Client, story: Story, letter: str, printer: Printer
) -> Account:
    if story.kills:
        await chain.spans_left()  # a kill must not lose the spans of earlier stories
    started = time.monotonic()
    with story_span(story.name) as span:
        client.story = span
        acted = await story.act(chain, client, new_id(letter))
        seconds = time.monotonic() - started
        account = await take_account(chain, client, story, acted)
        if not account.ok:
            span.failed()
    account.seconds = seconds
    printer.story(letter, account, story.expected)
    return account
