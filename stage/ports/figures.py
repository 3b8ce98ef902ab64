"""Figures of the process that serves: what ended lately, and how much of each limit is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from stage.core.states import SagaState


class Places(NamedTuple):
    """A limit of this process, and how much of it is taken."""

    what: str
    limit: int
    in_use: int


class Refusal(NamedTuple):
    """Why sagas turned back: the step, empty where they were asked to, and the reason in words."""

    step: str
    reason: str


class Lately(msgspec.Struct, frozen=True, kw_only=True):
    """The sagas of this process that ended, or turned back, in the last `seconds`."""

    seconds: float
    ended: Mapping[SagaState, int] = msgspec.field(default_factory=dict)
    refused: Mapping[Refusal, int] = msgspec.field(default_factory=dict)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one process, and how many processes share its database."""

    lately: Lately
    places: tuple[Places, ...] = ()
    replicas: int = 1
