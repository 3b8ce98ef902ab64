"""`stage demo`: start the chain, tell the stories one after the other, balance the books."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.stories import STORIES, Ending, Story, Told, new_id
from stage.demo.trace import story_span
from stage.telemetry import sdk

GREEN, RED, DIM, BOLD, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Account(msgspec.Struct, kw_only=True):
    """One story as it ended: what each service says, and whether that is as told."""

    name: str
    saga_id: str
    trace_id: str
    outcome: str
    states: dict[str, str | None]
    charges: dict[str, int]
    ok: bool
    standing_downstream: int = 0
    seconds: float = 0.0
    title: str = ""
    checks: list[tuple[str, bool]] = []
    journal: list[dict[str, Any]] = []

    @property
    def unaccounted(self) -> int:
        """Effects that stand although the saga did not complete, and those made twice."""
        if self.states["payment"] == "completed":
            return abs(self.charges["standing"] - 1) + abs(self.standing_downstream - 1)
        order = 1 if self.states["order"] == "completed" else 0
        return self.charges["standing"] + self.standing_downstream + order


def main(*, json: bool = False, keep: bool = False, otlp: str | None = None) -> int:
    """Tell the stories; 0 when every one ended as told and the books balance."""
    sdk.setup("demo", endpoint=otlp)
    try:
        return asyncio.run(_tell(json=json, keep=keep, otlp=otlp))
    except KeyboardInterrupt:
        return 130
    finally:
        sdk.shutdown()


async def _tell(*, json: bool, keep: bool, otlp: str | None) -> int:
    voice = Voice(quiet=json)
    with tempfile.TemporaryDirectory(prefix="stage-demo-") as folder:
        chain = Chain(Path(folder), otlp=otlp)
        try:
            await chain.start()
            voice.opening(chain)
            async with Client() as client:
                accounts = [
                    await _account(chain, client, story, letter, voice)
                    for letter, story in zip("abcdefg", STORIES, strict=True)
                ]
            unaccounted = sum(account.unaccounted for account in accounts)
            ok = unaccounted == 0 and all(account.ok for account in accounts)
            if json:
                sys.stdout.buffer.write(_document(accounts, unaccounted, ok) + b"\n")
                sys.stdout.flush()
            voice.books(accounts, unaccounted, ok)
            if keep:
                voice.kept(chain)
                await asyncio.Event().wait()
        finally:
            await chain.stop()
    return 0 if ok else 1


async def _account(
    chain: Chain, client: Client, story: Story, letter: str, voice: Voice
) -> Account:
    if story.kills:
        await chain.spans_left()  # those of the stories before are not to be killed too
    started = time.monotonic()
    with story_span(story.name) as span:
        client.story = span
        told = await story.act(chain, client, new_id(letter))
        seconds = time.monotonic() - started
        account = await _ask_all(chain, client, story, told)
        if not account.ok:
            span.failed()
    account.seconds = seconds
    voice.story(letter, account, story.ending)
    return account


async def _ask_all(chain: Chain, client: Client, story: Story, told: Told) -> Account:
    """What each of the four services says of the saga, each from its own books."""
    saga_id = told.saga_id
    order, payment, shipping = [
        await client.saga(service, saga_id)
        for service in (chain.order, chain.payment, chain.shipping)
    ]
    made, standing = await client.charges(chain.psp, saga_id)
    journal = await client.journal(chain.payment, saga_id)
    account = Account(
        name=story.name,
        title=story.title,
        saga_id=saga_id,
        trace_id=(payment or {}).get("trace_id") or "",
        outcome=(payment or {}).get("outcome", "unknown"),
        states={
            "order": (order or {}).get("state"),
            "payment": (payment or {}).get("state"),
            "shipping": (shipping or {}).get("state"),
        },
        charges={"made": made, "standing": standing},
        standing_downstream=(shipping or {}).get("standing", 0),
        checks=told.checks,
        journal=journal,
        ok=False,
    )
    account.ok = _as_told(account, story.ending) and all(holds for _, holds in told.checks)
    return account


def _as_told(account: Account, ending: Ending) -> bool:
    states = {"order": ending.order, "payment": ending.payment, "shipping": ending.shipping}
    charges = {"made": ending.made, "standing": ending.standing}
    return (
        account.outcome == ending.outcome
        and account.states == states
        and account.charges == charges
    )


def _document(accounts: list[Account], unaccounted: int, ok: bool) -> bytes:
    members = ("name", "saga_id", "trace_id", "outcome", "states", "charges", "ok")
    stories = [{name: getattr(account, name) for name in members} for account in accounts]
    return msgspec.json.encode({"stories": stories, "unaccounted_effects": unaccounted, "ok": ok})


class Voice:
    """Prints the stories for a person; says nothing when it is quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._colours = sys.stdout.isatty()

    def opening(self, chain: Chain) -> None:
        """Who takes part."""
        self._say("")
        self._say(f"  {self._in(BOLD, 'order')} ──► {self._in(BOLD, 'payment')} ──► shipping")
        self._say("                 │")
        self._say("                psp            four processes on this machine:")
        for service in chain.services:
            self._say(self._in(DIM, f"    {service.name:<9} {service.url}  pid {service.pid}"))

    def story(self, letter: str, account: Account, ending: Ending) -> None:
        """One story as a small tree, with the milliseconds since it was accepted."""
        self._say("")
        self._say(f"({letter}) {self._in(BOLD, account.title)}")
        self._say(self._in(DIM, f"    saga {account.saga_id}  trace {account.trace_id or '-'}"))
        first = _instant(account.journal[0]) if account.journal else 0.0
        for entry in account.journal:
            after = (_instant(entry) - first) * 1000
            self._say(f"    ├─ {after:7.0f} ms  {_line(entry)}")
        for text, holds in account.checks:
            mark = self._in(GREEN, "✓") if holds else self._in(RED, "✗")
            self._say(f"    │  {mark} {text}")
        verdict = (
            self._in(GREEN, "as told") if account.ok else self._in(RED, f"NOT as told: {ending}")
        )
        self._say(f"    └─ {account.outcome}, {verdict} ({account.seconds:.2f} s)")

    def books(self, accounts: list[Account], unaccounted: int, ok: bool) -> None:
        """What everybody says in the end, each from its own books."""
        self._say("")
        self._say(self._in(BOLD, "The books"))
        self._say(
            f"    {'':3} {'story':<13} {'order':<12} {'payment':<12} {'shipping':<12}"
            f" {'charges':<16} ok"
        )
        for letter, account in zip("abcdefg", accounts, strict=True):
            states = [account.states[name] or "-" for name in ("order", "payment", "shipping")]
            charges = f"{account.charges['made']} made, {account.charges['standing']} stand"
            mark = self._in(GREEN, "✓") if account.ok else self._in(RED, "✗")
            self._say(
                f"    ({letter}) {account.name:<13} {states[0]:<12} {states[1]:<12}"
                f" {states[2]:<12} {charges:<16} {mark}"
            )
        self._say("")
        colour = GREEN if unaccounted == 0 else RED
        count = self._in(colour, str(unaccounted))
        self._say(f"    effects that stand without a completed saga: {count}")
        end = "every story ended as told" if ok else "something did not end as told"
        self._say(f"    {self._in(GREEN if ok else RED, end)}")

    def kept(self, chain: Chain) -> None:
        """Where the chain goes on, until Ctrl-C."""
        self._say("")
        self._say("The chain goes on until Ctrl-C:")
        for service in chain.services:
            print(f"    {service.name:<9} {service.url}", flush=True)

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colours else text


def _instant(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()


def _line(entry: dict[str, Any]) -> str:
    """One entry of the journal in words."""
    what = entry["event"].replace("_", " ")
    about = entry.get("step", "")
    attempt = f" #{entry['attempt']}" if entry.get("attempt", 1) > 1 else ""
    reason = entry.get("reason") or ""
    if entry["event"] == "compensation_requested":
        about = f"by {entry.get('requested_by', '?')}"
    if entry["event"] == "recovered":
        about = f"as run {entry.get('epoch')}"
    return f"{what:<24} {about}{attempt}{'  · ' + reason if reason else ''}".rstrip()
