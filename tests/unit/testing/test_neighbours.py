"""`served`: each API has a fake, and its webhooks have the secret of the test."""

from __future__ import annotations

import hashlib
import hmac
import time

import aiohttp
import pytest

from stage.demo.payment import payment
from stage.testing.neighbours import served


@pytest.mark.parametrize("secret, status", [(b"right", 200), (b"wrong", 401)])
async def test_a_webhook_is_believed_by_the_secret_of_the_test(secret: bytes, status: int) -> None:
    """The API that nobody names is served all the same."""
    body = b'{"type": "charge.succeeded", "id": "c-1", "key": "s:payment:charge:do"}'
    sent_at = time.time()
    made = hmac.new(secret, f"{sent_at:.0f}".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Psp-Time": f"{sent_at:.0f}", "Psp-Signature": made}
    async with (
        served(payment, {}, webhook_secrets={"psp": b"right"}) as chain,
        aiohttp.ClientSession() as session,
        session.post(f"{chain.stage}/webhooks/psp", data=body, headers=headers) as answer,
    ):
        assert "psp" in chain.apis
        assert status == answer.status, await answer.text()
