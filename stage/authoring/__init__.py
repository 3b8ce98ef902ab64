"""What the author of a stage imports."""

from stage.authoring.http import Http, Response
from stage.authoring.outcomes import InDoubt, Refused, Transient
from stage.authoring.saga import Saga
from stage.authoring.stage import Stage
from stage.ports.store import Tx

__all__ = ["Http", "InDoubt", "Refused", "Response", "Saga", "Stage", "Transient", "Tx"]
