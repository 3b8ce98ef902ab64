"""The declarations of an author. `Stage` itself, which can be served, is in `stage`."""

from stage.authoring.http import Http, Response
from stage.authoring.outcomes import InDoubt, Pending, Refused, Transient
from stage.authoring.saga import Saga
from stage.ports.credentials import OutgoingRequest
from stage.ports.store import Tx

__all__ = [
    "Http",
    "InDoubt",
    "OutgoingRequest",
    "Pending",
    "Refused",
    "Response",
    "Saga",
    "Transient",
    "Tx",
]
