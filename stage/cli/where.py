"""The options that name many sagas: those of a list, and of an order for all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

import click

from stage.cli.failure import Failure
from stage.cli.given import GIVEN
from stage.core.states import ParkCause, SagaState

F = TypeVar("F", bound=Callable[..., Any])

STATES: Final = tuple(state.value for state in SagaState)
CAUSES: Final = tuple(cause.value for cause in ParkCause)

_OPTIONS: Final = (
    click.option(
        "--state", type=click.Choice(STATES), multiple=True, help="Only these. Repeatable."
    ),
    click.option("--parked", is_flag=True, help="Only those that wait for a person."),
    click.option("--cause", type=click.Choice(CAUSES), help="Parked for this cause."),
    click.option("--step", type=GIVEN, metavar="STEP", help="Waiting or parked at this step."),
    click.option(
        "--peer",
        type=GIVEN,
        metavar="KIND.NAME",
        help="Waiting for this peer: externals.psp, for example.",
    ),
    click.option(
        "--older-than", type=click.FloatRange(min=0), metavar="SECONDS", help="Unchanged so long."
    ),
    click.option(
        "--changed-from", type=GIVEN, metavar="TIME", help="Last changed then or later, RFC 3339."
    ),
    click.option(
        "--changed-before", type=GIVEN, metavar="TIME", help="Last changed before, RFC 3339."
    ),
    click.option(
        "--number",
        type=GIVEN,
        metavar="NAME:VALUE",
        help="With this number, which the stage indexes; alone.",
    ),
    click.option(
        "--trace-id",
        type=GIVEN,
        metavar="ID",
        help="Of this trace, if numbers are indexed; alone.",
    ),
)


def where_options(function: F) -> F:
    """Add the options; the command gets them as keyword arguments, for `query_of`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def query_of(where: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The options that were given, as parameters of `GET /sagas`."""
    query: list[tuple[str, str]] = []
    for name, value in where.items():
        if isinstance(value, tuple):
            query += [(name, each) for each in value]
        elif value is True:
            query.append((name, "true"))
        elif value not in (None, False):
            query.append((name, str(value)))
    return query


def refuse_unknown(url: str, peers: Collection[str]) -> None:
    """Raise Failure where no peer of a stage has such a name: a slip, for which nothing waits.

    Asked for once nothing was found. Upstreams are known only once they have sent a saga.
    """
    from stage.cli.remote import fetch
    from stage.core.place import UPSTREAMS
    from stage.wire.views import PeersView

    asked = [peer for peer in peers if peer.partition(".")[0] != UPSTREAMS]
    if not asked:
        return
    try:
        known = {each.peer for each in fetch(url, "/peers", PeersView).peers}
    except Failure:
        return  # a stage of an earlier release, or a caller who may not look
    for peer in asked:
        if not any(peer in (each, each.partition(".")[2]) for each in known):
            those = ", ".join(sorted(known))
            raise Failure(f"there is no peer {peer!r} at this stage: its peers are {those}")
