"""The other shards of a stage, which are asked whether a saga that this one lacks is theirs.

The neighbours of shards know one stage, and list the sagas of all of them (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import quote

from stage.cli.failure import NEGATIVE, Failure
from stage.cli.remote import ANSWER_BYTES_MAX, checked_url, exchange, fetch, refuse
from stage.inbound.views import NEVER_SEEN
from stage.wire.descriptor import Descriptor
from stage.wire.limits import Limits
from stage.wire.problem import WireError, decode_problem
from stage.wire.views import SagaView, decode_view

OPTION = "--beside"


class Shards:
    """The other shards, each by its own URL. Raises Failure for one that is no such shard."""

    def __init__(self, urls: Sequence[str], stage: str) -> None:
        self._urls = [checked_url(url, f"option {OPTION}") for url in urls]
        for url in self._urls:
            with _named(url):
                name = fetch(url, "/.well-known/stage", Descriptor).name
                if name != stage:
                    raise Failure(f"it is stage {name!r}, and no shard of {stage!r}")
        self.has: set[str] = set()
        """The sagas that one of them has."""

    async def belong(self, saga_id: str) -> bool:
        """Whether a saga that the database here lacks is in none of them.

        Raises Failure where one of them does not say: then nobody knows. It blocks the event loop,
        in which the command does nothing else.
        """
        for url in self._urls:
            with _named(url):
                if _has(url, saga_id):
                    self.has.add(saga_id)
                    return False
        return True


def _has(url: str, saga_id: str) -> bool:
    answer = exchange("GET", url, f"/sagas/{quote(saga_id, safe='')}")
    problem = decode_problem(answer.body) if answer.status == 404 else None
    if problem is not None and problem.title == NEVER_SEEN:
        return False
    if answer.status != 200:
        refuse(url, answer)
    with suppress(WireError):
        view = decode_view(answer.body, SagaView, Limits(body_bytes_max=ANSWER_BYTES_MAX))
        if view.saga_id == saga_id:
            return True
    raise Failure(f"it does not show saga {saga_id} as a stage does", NEGATIVE)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Say which shard a failure is about."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"option {OPTION}: {url}: {failure}", failure.status) from failure
