"""The names that authors import: the stage, the saga, the client, the ends of a step.

The names are imported when first used, so that code that needs one room alone (the
neighbours need `stage.wire`) does not load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage.core.version import __version__

if TYPE_CHECKING:
    from stage.authoring import (
        Approval,
        Declined,
        Http,
        InDoubt,
        Landed,
        NotVerified,
        OutgoingRequest,
        Pending,
        Refused,
        Response,
        Saga,
        Transient,
        Tx,
        Webhook,
    )
    from stage.bootstrap.tables import store_of
    from stage.serving import Stage

__all__ = [
    "Approval",
    "Declined",
    "Http",
    "InDoubt",
    "Landed",
    "NotVerified",
    "OutgoingRequest",
    "Pending",
    "Refused",
    "Response",
    "Saga",
    "Stage",
    "Transient",
    "Tx",
    "Webhook",
    "__version__",
    "store_of",
]


def __getattr__(name: str) -> object:
    """Give a public name from its room, and keep it for the next time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object
    if name == "Stage":
        from stage.serving import Stage

        value = Stage
    elif name == "store_of":
        from stage.bootstrap.tables import store_of

        value = store_of
    else:
        from stage import authoring

        value = getattr(authoring, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
