"""The look at the files of the listener goes on whatever it meets."""

from __future__ import annotations

import asyncio

import pytest

from stage.inbound import tls
from stage.inbound.tls import ListenerFiles, ListenerTls
from tests.unit.store.given import until


async def test_a_look_without_a_thread_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit of processes: a certificate that was renewed later was never taken up."""
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.001)
    said, looks, retrusted = list[str](), list[int](), list[int]()
    listener = ListenerTls(ListenerFiles(cert="c.pem"), warn=said.append)

    async def renew() -> bool:
        looks.append(1)
        if len(looks) < 3:
            raise RuntimeError("can't start new thread")
        return True

    monkeypatch.setattr(listener, "renew", renew)
    looking = asyncio.create_task(listener.keep_fresh(lambda: retrusted.append(1)))
    try:
        await until(lambda: bool(retrusted))
    finally:
        looking.cancel()
    (line,) = said  # once, and not at each look
    assert "can't start new thread" in line
