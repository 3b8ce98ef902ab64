"""The way of an effect to the model of its system: an author's fake of an SDK asks here.

The simulated network loses, delays and repeats what it asks, as it does with a call.
"""

from __future__ import annotations

import msgspec

from stage.authoring.outcomes import Transient
from stage.core.events import Request
from stage.ports.external import ExternalRequest
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.simulation.loop import current_process


async def ask(
    system: str,
    method: str,
    path: str,
    *,
    key: str,
    body: object = None,
    timeout: float = 1.0,
) -> Answer:
    """The answer of the model of that system, under that key; any code is an answer.

    `timeout` is in seconds of the simulated world. `body` is sent as JSON, None as no body.

    Raises Transient where the request certainly never arrived, ConnectionError where nobody knows,
    and LookupError outside of a simulated world.
    """
    process = current_process()
    if process is None or process.external is None:
        raise LookupError(f"{system} was asked outside of a simulated world")
    encoded = b"" if body is None else msgspec.json.encode(body)
    outgoing = ExternalRequest(
        peer=system,
        request=Request(method=method, path=path, body=encoded),
        key=key,
        trace=TraceContext(),
        timeout=timeout,
    )
    answer = await process.external.exchange(outgoing)
    if isinstance(answer, Lost):
        if answer.certain:
            raise Transient(answer.reason, retry_after=answer.retry_after)
        raise ConnectionError(answer.reason)
    return answer
