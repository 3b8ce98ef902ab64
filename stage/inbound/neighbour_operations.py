"""The endpoints that neighbours serve, as the OpenAPI document describes them: what a stage sends.

They stand below URLs that the operator of the stage configures, so that no request to the stage
says where they are: OpenAPI calls that a webhook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stage.inbound.operations import BUDGET, IDEMPOTENCY, LIST, PREFER, TRACE, Operation

IN_DOUBT = "A no; without an outcome in its body a stage asks to compensate"
NO_SAGAS_SHOWN = "It shows no sagas: the outcome is `unknown`"
NOT_NOW = {429: "Not now, see Retry-After", 503: "Not now, see Retry-After"}
_SAGA = "/sagas/{saga_id}"


class Served(NamedTuple):
    """One endpoint of a neighbour."""

    method: str
    path: str
    """Below the URL of the neighbour."""
    operation: Operation


EXECUTE = Operation(
    id="execute",
    summary="Do the part of this neighbour, and of those behind it, for the saga in the body",
    parameters=(BUDGET, PREFER, IDEMPOTENCY, *TRACE),
    body="Handed",
    answers={
        200: ("Done there and behind it", ("ExecutedThere",)),
        202: ("Durably accepted, still running; the same request is sent again", ("OwnWord",)),
    },
    problems={
        **dict.fromkeys((400, 413, 415), IN_DOUBT),
        409: "Over: refused or failed, and nothing of it stands",
        410: "Compensated, or a tombstone; it will never run",
        422: "Not accepted; for a saga id with other data the outcome of the saga that has it",
        504: "The deadline was over on arrival, and it will never run",
        **NOT_NOW,
    },
    there=True,
)
COMPENSATE = Operation(
    id="compensate",
    summary="Compensate the saga, also one that was never seen",
    parameters=TRACE,
    body="CompensateRequest",
    answers={
        200: ("Nothing of it stands", ("OwnWord",)),
        202: ("Durably accepted, still working", ("OwnWord",)),
    },
    problems={
        409: "Cannot: `stands` may list what remains",
        410: "Over, or a person there has taken over what may stand",
        **NOT_NOW,
    },
    there=True,
)
QUERY = Operation(
    id="query",
    summary="The outcome of a saga, asked after a crash of the stage; optional",
    parameters=TRACE,
    answers={200: ("The outcome", ("OwnWord",))},
    problems={404: "Never seen there", 405: NO_SAGAS_SHOWN, 501: NO_SAGAS_SHOWN},
    there=True,
)
SHARED = Operation(
    id="shared",
    summary="The sagas that both know, asked after a restore of the stage; optional",
    parameters=tuple(each for each in LIST if each["name"] in ("since", "with", "after")),
    answers={200: ("One page of them", ("SharedPage",))},
    problems={503: "It was restored itself, and its list would not be whole"},
    there=True,
)

NEIGHBOURS: Mapping[str, Served] = {
    "downstream_execute": Served("POST", "/sagas", EXECUTE),
    "downstream_compensate": Served("POST", f"{_SAGA}/compensate", COMPENSATE),
    "downstream_query": Served("GET", _SAGA, QUERY),
    "downstream_shared": Served("GET", "/sagas", SHARED),
    "upstream_compensate": Served("POST", f"{_SAGA}/compensate", COMPENSATE),
    "upstream_shared": Served("GET", "/sagas", SHARED),
}
"""By the name of the operation."""
