"""F10: mutated messages. Nothing answers 5xx, and every error is a problem."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import msgspec
import pytest

from tests.kits import Strikes
from tests.scenario.attacks.malformed import CORPUS, request, start
from tests.scenario.attacks.test_slow_clients import Served, defects, serving
from tests.sizes import SIZES

GOOD = (
    request(start()),
    request(b'{"requested_by":"order","reason":"x"}', line=b"POST /sagas/m-1/compensate HTTP/1.1"),
    request(b'{"reason":"x","actor":"a"}', line=b"POST /sagas/m-1/retry HTTP/1.1"),
    request(line=b"GET /sagas/m-1?view=journal HTTP/1.1", usual=True),
    request(line=b"GET /sagas?state=active&limit=5 HTTP/1.1"),
    request(start(), b"Saga-Budget-Ms: 100", b"Prefer: respond-async", b"Idempotency-Key: m-1"),
    *(case.sent for case in CORPUS if len(case.sent) < 2_000),
)
TOKENS = (
    *(b"\r\n", b"\r\n\r\n", b"\x00", b"\xff", b":", b",", b'"', b"{", b"}", b"[", b"]", b"\\u0000"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"999999999999999999999", b"-1", b"1e308", b"null", b"%00", b"%2e%2e/", b"..", b"\xc3\x28"),
    *(b"respond-async", b"wait=999", b"traceparent: 00-0-0-0\r\n", b"Host: x\r\n", b"HTTP/1.1"),
)
SECONDS_MAX = 0.3
"""How long an answer is waited for: a message that lost its end gets none."""


def mutated(dice: random.Random) -> bytes:
    """A message with one to six faults."""
    message = bytearray(dice.choice(GOOD))
    for _ in range(dice.randint(1, 6)):
        at, end = sorted((dice.randrange(len(message) + 1), dice.randrange(len(message) + 1)))
        match dice.randrange(6):
            case 0:
                message[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                message[at:at] = dice.choice(TOKENS)
            case 2:
                del message[at : min(end, at + 20)]
            case 3:
                message[at:at] = message[at : min(end, at + 40)]
            case 4:
                other = dice.choice(GOOD)
                message[at:] = other[dice.randrange(len(other)) :]
            case _:
                message[at : at + 4] = dice.choice(TOKENS)
    return bytes(message)


async def said(served: Served, message: bytes) -> bytes:
    """The first answer to it, or nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(message)
    try:
        async with asyncio.timeout(SECONDS_MAX):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            return head + body
    except (TimeoutError, EOFError, ConnectionError):
        return b""
    finally:
        writer.transport.abort()


def wrong_with(answer: bytes) -> str:
    """The mistake in an answer to a mutated message, or nothing."""
    head, _, body = answer.partition(b"\r\n\r\n")
    code = int(head.split()[1])
    if code < 400:
        return ""
    if b"application/problem+json" not in head:
        return f"no problem: {answer[:200]!r}"
    explained = code == 504 or (code == 503 and b"Retry-After" in head)
    if code >= 500 and not explained:
        return f"{answer[:400]!r}"
    if body and "outcome" not in msgspec.json.decode(body):
        return f"no outcome: {answer[:200]!r}"
    return ""


@pytest.mark.kit("F10")
async def test_a_mutated_message_is_answered_or_refused(tmp_path: Path, strikes: Strikes) -> None:
    """At every length, in every byte; the stage is healthy behind it, and nothing is a defect."""
    dice = random.Random(SIZES.seed)
    answered, wrong = 0, list[tuple[bytes, str]]()
    async with serving(tmp_path) as served:
        for begin in range(0, SIZES.mutated, 10):
            messages = [mutated(dice) for _ in range(min(10, SIZES.mutated - begin))]
            answers = await asyncio.gather(*(said(served, message) for message in messages))
            for message, answer in zip(messages, answers, strict=True):
                if not answer:
                    continue
                answered += 1
                if what := wrong_with(answer):
                    wrong.append((message, what))
        healthy = await served.healthy()
        found = defects(served)

    strikes.report(
        "messages",
        SIZES.mutated,
        violations=len(wrong),
        seed=SIZES.seed,
        note=f"{answered} answered",
    )
    assert [] == wrong
    assert healthy and [] == found
    assert answered > SIZES.mutated / 3
