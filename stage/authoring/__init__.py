"""The declarations of an author. `Stage` itself, which can be served, is in `stage`."""

from stage.authoring.http import Http, Response
from stage.authoring.outcomes import InDoubt, Pending, Refused, Transient
from stage.authoring.saga import Saga
from stage.authoring.webhook import Declined, Landed, Webhook
from stage.core.verbs import Approval
from stage.ports.credentials import OutgoingRequest
from stage.ports.store import Tx
from stage.ports.webhook import NotVerified

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
    "Transient",
    "Tx",
    "Webhook",
]
