"""A peer that was renamed: a saga knows it by the name that it had when it began (rule 32)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from stage.core.place import UPSTREAMS, former_peers, former_steps, peer_of_today
from stage.inbound.service import Service
from stage.ports.engine import NotYours
from stage.ports.stage import family_of

T = TypeVar("T")


async def under_its_name(names: Iterable[str], act: Callable[[str], Awaitable[T]]) -> T:
    """Act under the first of its names that the saga belongs to.

    A request that a saga is not the caller's has no effect, so that it is made under the next one.
    Raises the NotYours of the first name where the saga belongs to none of them.
    """
    refused: NotYours | None = None
    for name in dict.fromkeys(names):
        try:
            return await act(name)
        except NotYours as error:
            refused = refused or error
    assert refused is not None, "a neighbour has at least one name"
    raise refused


def name_of_today(service: Service) -> Callable[[str], str]:
    """The name of today of a peer by kind and name (`core.place.peer_of_today`)."""
    plans = (each.plan for each in family_of(service.participant))
    upstream = service.neighbours.name_of_today
    return partial(peer_of_today, name_of_today=upstream, former=former_peers(plans))


def step_of_today(service: Service) -> Callable[[str], str]:
    """The name of today of a step."""
    former = former_steps(each.plan for each in family_of(service.participant))
    return lambda step: former.get(step, step)


def all_steps(service: Service, step: str) -> tuple[str, ...]:
    """All names that a step has had, today's among them."""
    former = former_steps(each.plan for each in family_of(service.participant))
    today = former.get(step, step)
    return (today, *(each for each, now in former.items() if now == today))


def all_names(service: Service, peer: str) -> tuple[str, ...]:
    """All names that a peer by kind and name has had, today's among them."""
    kind, _, name = peer.partition(".")
    if kind == UPSTREAMS:
        return tuple(f"{kind}.{each}" for each in service.neighbours.names_of(name))
    former = former_peers(each.plan for each in family_of(service.participant))
    today = former.get(peer, peer)
    return (today, *(each for each, now in former.items() if now == today))
