"""Prints the stories of the demo and the books at the end, for a person at a terminal."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

from stage.core.describe import event_in_words
from stage.demo.accounts import Account
from stage.demo.certificates import can_be_made
from stage.demo.chain import Chain
from stage.demo.stories import LETTERS
from stage.demo.story import Expected

GREEN, RED, DIM, BOLD, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"

WITHOUT_TLS = "for TLS install the library cryptography: saga-stage[encryption]"


class Printer:
    """Prints the stories for a person, or nothing if it is quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._colours = sys.stdout.isatty()

    def services(self, chain: Chain) -> None:
        """The services that take part."""
        self._print("")
        self._print(
            f"  {self._coloured(BOLD, 'order')} ──► {self._coloured(BOLD, 'payment')} ──► shipping"
        )
        self._print("                 │")
        self._print("                psp            processes on this machine:")
        for service in chain.services:
            self._print(
                self._coloured(DIM, f"    {service.name:<9} {service.url}  pid {service.pid}")
            )
        shown = "tokens and TLS" if chain.certificates else "tokens"
        hint = "" if can_be_made() else f" ({WITHOUT_TLS})"
        self._print(self._coloured(DIM, f"    between all of them: {shown}{hint}"))

    def story(self, letter: str, account: Account, expected: Expected) -> None:
        """One story as a small tree; times are milliseconds since the saga was accepted."""
        self._print("")
        self._print(f"({letter}) {self._coloured(BOLD, account.title)}")
        self._print(
            self._coloured(DIM, f"    saga {account.saga_id}  trace {account.trace_id or '-'}")
        )
        first = _instant(account.journal[0]) if account.journal else 0.0
        for entry in account.journal:
            after = (_instant(entry) - first) * 1000
            self._print(f"    ├─ {after:7.0f} ms  {event_in_words(entry['event'], entry)}")
        for text, holds in account.checks:
            mark = self._coloured(GREEN, "✓") if holds else self._coloured(RED, "✗")
            self._print(f"    │  {mark} {text}")
        verdict = (
            self._coloured(GREEN, "as expected")
            if account.ok
            else self._coloured(RED, f"NOT as expected: {expected}")
        )
        self._print(f"    └─ {account.outcome}, {verdict} ({account.seconds:.2f} s)")

    def books(self, accounts: list[Account], unaccounted: int, ok: bool) -> None:
        """The states and charges at the end, each from the books of its service."""
        self._print("")
        self._print(self._coloured(BOLD, "The books"))
        self._print(
            f"    {'':3} {'story':<13} {'order':<12} {'payment':<12} {'shipping':<12}"
            f" {'charges':<16} ok"
        )
        for letter, account in zip(LETTERS, accounts, strict=True):
            states = [account.states[name] or "-" for name in ("order", "payment", "shipping")]
            charges = f"{account.charges['made']} made, {account.charges['standing']} stand"
            mark = self._coloured(GREEN, "✓") if account.ok else self._coloured(RED, "✗")
            self._print(
                f"    ({letter}) {account.name:<13} {states[0]:<12} {states[1]:<12}"
                f" {states[2]:<12} {charges:<16} {mark}"
            )
        self._print("")
        colour = GREEN if unaccounted == 0 else RED
        count = self._coloured(colour, str(unaccounted))
        self._print(f"    effects that stand without a completed saga: {count}")
        end = "every story ended as expected" if ok else "a story did not end as expected"
        self._print(f"    {self._coloured(GREEN if ok else RED, end)}")

    def kept(self, chain: Chain) -> None:
        """The addresses at which the chain stays up until Ctrl-C."""
        self._print("")
        self._print("The chain stays up until Ctrl-C:")
        for service in chain.services:
            print(f"    {service.name:<9} {service.url}", flush=True)
        print(f"    a person's token: {chain.keys.token_file('operator')}", flush=True)
        if chain.certificates is not None:
            print(f"    their authority:  {chain.certificates.ca_file}", flush=True)

    def _print(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)

    def _coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colours else text


def _instant(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["at"]).timestamp()
