"""A story of the demo as a value: what is done to the chain, and how it has to end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from stage.demo.chain import Chain
from stage.demo.client import Client


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """How a story has to end: the states along the chain, and the charges of its saga.

    A state is None if that service never sees the saga.
    """

    outcome: str
    order: str | None
    payment: str
    shipping: str | None
    made: int
    standing: int


class Acted(msgspec.Struct, kw_only=True):
    """A story after its act: its saga, and further checks with their results."""

    saga_id: str
    checks: list[tuple[str, bool]] = []


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One story."""

    name: str
    title: str
    act: Callable[[Chain, Client, str], Awaitable[Acted]]
    expected: Expected
    kills: bool = False
    """Whether a process is killed in it, together with the spans it has not sent yet."""
