"""The sagas that wait for a person's approval, without reading an entry of a journal twice.

Metrics ask for them every few seconds. A saga that waits gets an entry every ten minutes at most,
and one whose transaction is repeated gets some at each attempt, so that to look for the question
from the end of each journal would cost more the longer they wait. Entries never change, so it is
enough to read those that came since the last look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from stage.core.age import counted
from stage.core.events import NAMES, ApprovalAsked
from stage.ports.store import Asked, Row

READ_MAX: Final = 5_000
"""Sagas whose new entries one statement looks at."""

Read = Callable[..., Awaitable[list[Row]]]
"""Runs a statement by its name, with parameters."""


class _Waiting(NamedTuple):
    """A saga under way that waits at a step without a peer: an approval, or a transaction."""

    saga_id: str
    version: int
    step: str
    length: int
    accepted_at: float
    due: bool


class _Seen(NamedTuple):
    """How far a journal was read, and its open question there: its number and its instant."""

    length: int = 0
    number: int = 0
    at: float = 0.0


class _Lasted(NamedTuple):
    """How long a question was open at an entry of the journal."""

    question: int
    number: int
    at: float
    seconds: float


class AskedApprovals:
    """The approvals that wait in one database."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._seen: dict[str, _Seen] = {}
        """By saga that waited at the last look."""
        self._lasted: dict[str, _Lasted] = {}
        """By saga that was the oldest of its group."""

    async def read(self, now: float) -> tuple[tuple[Asked, ...], float | None]:
        """The approvals that wait; and when the oldest of the other sagas here was accepted."""
        waiting = [_Waiting(*row) for row in await self._read("waiting_without_peer")]
        seen = self._seen = await self._seen_by_now(waiting)
        groups: dict[tuple[int, str], list[tuple[float, str]]] = {}
        for each in waiting:
            if seen[each.saga_id].number:
                group = groups.setdefault((each.version, each.step), [])
                group.append((seen[each.saga_id].at, each.saga_id))
        oldest = {key: min(group) for key, group in groups.items()}
        lasted = {
            saga_id: await self._lasted_until_now(saga_id, seen[saga_id])
            for _, saga_id in oldest.values()
        }
        self._lasted = lasted
        others = (e.accepted_at for e in waiting if e.due and not seen[e.saga_id].number)
        return tuple(
            Asked(
                version=version,
                step=step,
                sagas=len(groups[version, step]),
                oldest_asked_at=at,
                oldest_waited_seconds=lasted[saga_id].seconds + counted([lasted[saga_id].at, now]),
            )
            for (version, step), (at, saga_id) in sorted(oldest.items())
        ), min(others, default=None)

    async def _seen_by_now(self, waiting: Sequence[_Waiting]) -> dict[str, _Seen]:
        """By saga what its journal says by now; only new entries are read."""
        known = self._seen
        seen: dict[str, _Seen] = {}
        unread: list[tuple[str, int]] = []
        for each in waiting:
            before = known.get(each.saga_id, _Seen())
            if before.length > each.length:  # an older copy of the database
                before = _Seen()
            if before.length < each.length:
                unread.append((each.saga_id, before.length))
            seen[each.saga_id] = before._replace(length=each.length)
        for some in _some(unread):
            text = msgspec.json.encode(some).decode()
            for saga_id, number, name, at in await self._read("words_of_approvals", text):
                asked = name == NAMES[ApprovalAsked]
                seen[saga_id] = _Seen(seen[saga_id].length, number if asked else 0, at)
        return seen

    async def _lasted_until_now(self, saga_id: str, seen: _Seen) -> _Lasted:
        """How long its question was open at the last entry of the journal of that saga."""
        question, before = seen.number, self._lasted.get(saga_id)
        if before is None or before.question != question:
            before = _Lasted(question, question, seen.at, 0.0)
        # The entry that was the last is read again: the time behind it counts from its instant.
        instants = [at for (at,) in await self._read("instants_since", saga_id, before.number)]
        if not instants:  # it was closed just now
            return before
        return _Lasted(
            question,
            before.number + len(instants) - 1,
            instants[-1],
            before.seconds + counted(instants),
        )


def earliest(*instants: float | None) -> float | None:
    """The first of the instants that there are; None without one."""
    return min((each for each in instants if each is not None), default=None)


def _some(unread: Sequence[tuple[str, int]]) -> Iterator[Sequence[tuple[str, int]]]:
    for first in range(0, len(unread), READ_MAX):
        yield unread[first : first + READ_MAX]
