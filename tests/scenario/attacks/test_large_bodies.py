"""Bodies that cost much: the event loop is not held by them, and other requests are answered."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from tests.scenario.chain import Chain

BODIES = {
    "exponents": (b"[%s]" % b",".join([b"1e308"] * 19_000), 422),
    "exact numbers": (b"[%s]" % b",".join([b"1.234567890123456"] * 19_000), 422),
    "objects": (b"[%s]" % b",".join([b'{"k":[]}'] * 6_000), 422),
    "strings": (b'["%s"]' % b'","'.join([b"\\u00e9" * 10_000] * 16), 422),
    "space": (b"[%s]" % (b" " * 1_000_000), 422),
}
"""A member of the payload, by name. Each is read, and then refused by the stage's type."""
HELD_SECONDS_MAX = 0.25
"""Seconds of the processor: a busy machine does not count."""


@pytest.mark.parametrize("name", BODIES)
async def test_a_costly_body_does_not_hold_the_event_loop(chain: Chain, name: str) -> None:
    """19,000 times `1e308` took 0.6 s of it; other large bodies are read in a thread."""
    costly, refused = BODIES[name]
    longest, stop = 0.0, False

    async def beat() -> None:
        nonlocal longest
        while not stop:
            began = time.thread_time()
            await asyncio.sleep(0.01)
            longest = max(longest, time.thread_time() - began)

    beating = asyncio.create_task(beat())
    url = f"{chain.stage}/sagas"
    bodies = [b'{"saga_id":"s-%d","data":{"order_id":%s}}' % (n, costly) for n in range(4)]
    answers = await asyncio.gather(*(chain.request("POST", url, body) for body in bodies))
    stop = True
    await beating

    assert {refused} == {status for status, _, _ in answers}
    assert HELD_SECONDS_MAX > longest


async def test_a_large_request_to_compensate_is_refused_before_it_is_read(chain: Chain) -> None:
    """Its members are small: more than 32 KiB is 413, whatever it holds, and has no effect."""
    assert 200 == (await chain.send("s-1"))[0]
    url = f"{chain.stage}/sagas/s-1/compensate"
    body = b'{"requested_by":"order","reason":"asked"' + b" " * 40_000 + b"}"

    status, _, answer = await chain.request("POST", url, body)

    assert (413, "not_executed") == (status, msgspec.json.decode(answer)["outcome"])
    assert (1, 1) == await chain.charges()
