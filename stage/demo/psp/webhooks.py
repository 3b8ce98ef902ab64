"""Webhooks of the payment provider: signed, and sent again until they are acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import time
from typing import Any

import aiohttp
import msgspec

ATTEMPTS_MAX = 100
PAUSE_SECONDS = 0.2
SECONDS_MAX = 5.0


class Webhooks:
    """Where they go, and the secret that signs them. Without an address none is sent."""

    def __init__(self, url: str = "", secret: bytes = b"", ca_file: str = "") -> None:
        self._url = url
        self._secret = secret
        self._ca_file = ca_file

    async def send(self, said: dict[str, Any]) -> int:
        """Send one until it is acknowledged; the last code, 0 where nobody was reached."""
        if not self._url:
            return 0
        body, code = msgspec.json.encode(said), 0
        trusted = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        timeout = aiohttp.ClientTimeout(total=SECONDS_MAX)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for _ in range(ATTEMPTS_MAX):
                try:
                    async with session.post(
                        self._url, data=body, headers=self._signed(body), ssl=trusted
                    ) as answer:
                        code = answer.status
                except (aiohttp.ClientError, TimeoutError):
                    code = 0
                if code == 200:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
        return code

    def _signed(self, body: bytes) -> dict[str, str]:
        """The time and the signature over both, as `charge_ended` in stage/demo/payment.py asks."""
        sent_at = str(time.time())
        signature = hmac.new(self._secret, sent_at.encode() + body, hashlib.sha256).hexdigest()
        return {
            "Content-Type": "application/json",
            "Psp-Time": sent_at,
            "Psp-Signature": signature,
        }
