"""F11: malformed HTTP and JSON gets the right code, a problem document, and has no effect."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.core.states import SagaState
from stage.inbound.aiohttp import SERVICE
from stage.ports.store import Filter
from tests.kits import Strikes
from tests.scenario.attacks.malformed import CORPUS, Malformed
from tests.scenario.attacks.test_slow_clients import Served, defects, serving
from tests.waits import HANG_SECONDS

NO_BODY = b"HEAD "


async def answer_to(served: Served, sent: bytes) -> bytes:
    """The answer of the stage on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(sent)
    try:
        async with asyncio.timeout(HANG_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
            if length is None or sent.startswith(NO_BODY):
                return head
            return head + await reader.readexactly(int(length[1]))
    except (TimeoutError, EOFError) as error:
        return type(error).__name__.encode()
    finally:
        writer.close()


def wrong_with(case: Malformed, answer: bytes) -> str:
    """The mistake in an answer, or nothing."""
    head, _, body = answer.partition(b"\r\n\r\n")
    code = int(head.split()[1]) if head.startswith((b"HTTP/1.", b"HTTP/0.9")) else 0
    if code != case.code:
        return f"{code} and not {case.code}: {answer[:400]!r}"
    if case.sent.startswith(NO_BODY):
        return ""
    if b"application/problem+json" not in head:
        return f"no problem document: {head!r}"
    problem: dict[str, Any] = msgspec.json.decode(body)
    if (problem["status"], problem["outcome"]) != (code, "not_executed"):
        return f"another problem: {problem}"
    return ""


@pytest.mark.kit("F11")
async def test_every_malformed_request_is_refused_without_effect(
    tmp_path: Path, strikes: Strikes
) -> None:
    """Each on a connection of its own; afterwards there are tombstones, and nothing is a defect."""
    async with serving(tmp_path) as served:
        found = [
            (case.name, wrong_with(case, await answer_to(served, case.sent))) for case in CORPUS
        ]
        wrong = [(name, what) for name, what in found if what]

        strikes.report("requests", len(CORPUS), violations=len(wrong))
        assert [] == wrong
        rows = await served.app[SERVICE].engine.page(Filter(limit=200))
        assert "m-1" in {each.id for each in rows}
        assert {(SagaState.COMPENSATED, 1, b"")} == {
            (each.state, each.length, each.envelope) for each in rows
        }
        assert [] == defects(served)
        assert await served.healthy()
