"""The one table from errors of the network to what is known about the request.

`certain` means that the request never left this process whole, so that nothing happened there.
Everything else may have arrived: in doubt (rule 4).
"""

from __future__ import annotations

import aiohttp
from aiohttp.http import HttpProcessingError

from stage.ports.stage import Lost

CERTAIN: tuple[type[BaseException], ...] = (
    aiohttp.ClientConnectorError,  # refused, unreachable, no such name, no TLS
    aiohttp.ConnectionTimeoutError,  # no connection within the time: nothing was written
    aiohttp.InvalidURL,
)
EXPECTED: tuple[type[BaseException], ...] = (
    aiohttp.ClientError,
    HttpProcessingError,  # the answer is not HTTP
    TimeoutError,
    OSError,
    EOFError,
    ValueError,
)
"""A request may raise these for reasons of the network. Any other exception is a defect of ours."""


def classify_exception(error: BaseException) -> Lost:
    """The knowledge that remains after a request raised."""
    text = str(error) or type(error).__name__
    if isinstance(error, CERTAIN):
        return Lost(reason=f"not sent: {text}", certain=True, error="refused")
    if isinstance(error, TimeoutError):
        return Lost(reason="no answer in time", error="timeout")
    return Lost(reason=f"connection broken: {type(error).__name__}: {text}"[:300])
