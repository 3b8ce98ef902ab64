"""A whole chain in one thread on virtual time: real machine, engine and store, simulated world.

Authors import from here what a model of their external API is written with (docs/simulate.md).
"""

from stage.ports.stage import Answer
from stage.simulation.api import (
    WEBHOOK_SECRET,
    ApiModel,
    ApiRequest,
    UnkeyedApi,
    json_answer,
)
from stage.simulation.facts import Effect
from stage.simulation.vendor import ask

__all__ = [
    "WEBHOOK_SECRET",
    "Answer",
    "ApiModel",
    "ApiRequest",
    "Effect",
    "UnkeyedApi",
    "ask",
    "json_answer",
]
