"""Which faults a simulation has, and how often: each seed draws a swarm of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import ClassVar

import msgspec

KINDS: dict[str, tuple[float, float]] = {
    # of a message
    "request_lost": (0.01, 0.25),
    "answer_lost": (0.01, 0.25),
    "connection_refused": (0.01, 0.2),
    "delay": (0.02, 0.3),
    "duplicate": (0.02, 0.3),
    # of a message, by a gateway: it answers without passing on, before the one behind it does, in
    # its place, or puts another code over the answer
    "gateway_answers": (0.01, 0.25),
    "gateway_gives_up": (0.01, 0.25),
    "gateway_replaces": (0.01, 0.25),
    "gateway_rewrites": (0.01, 0.25),
    # of a link, in events a second
    "partition": (0.02, 0.2),
    # of an external API
    "api_refuses": (0.02, 0.3),
    "api_error": (0.01, 0.2),
    "api_busy": (0.01, 0.2),
    "api_garbled": (0.01, 0.1),
    "undo_refused": (0.01, 0.1),
    "api_away": (0.02, 0.15),
    # of a store: of a unit, but for `store_away`, in events a second
    "crash_before_commit": (0.002, 0.03),
    "crash_after_commit": (0.002, 0.03),
    "commit_failed": (0.005, 0.08),
    "store_away": (0.02, 0.15),
    "disk_full": (0.02, 0.15),
    # of the COMMIT of a SQLite file
    "commit_raises_before": (0.005, 0.05),
    "commit_raises_after": (0.005, 0.05),
    # of a node, in events a second
    "crash": (0.02, 0.2),
    "drain": (0.01, 0.08),
    "deploy": (0.02, 0.15),
    "zombie": (0.01, 0.1),
    # of a stage: whether it has two processes over one database
    "replicas": (0.3, 1.0),
    # of the clocks: of a stage, whether it is wrong by minutes; of a process, in events a second
    "skew": (0.3, 1.0),
    "clock_jump": (0.02, 0.2),
    # of anybody, in events a second: nothing of it answers, for up to three days
    "outage": (0.005, 0.03),
    # of a client
    "repeat": (0.05, 0.4),
    "late_compensation": (0.05, 0.4),
    "early_compensation": (0.02, 0.2),
    "other_payload": (0.02, 0.2),
    "deadline": (0.1, 0.7),
    "not_waiting": (0.05, 0.5),
    # of another upstream, which uses the ids of the client
    "stranger": (0.05, 0.4),
    # of a person, in events a second; `forget` is of a verb
    "operator": (0.05, 0.5),
    "forget": (0.02, 0.1),
    # of the stage at the end of the chain
    "tail_refuses": (0.05, 0.3),
    "tail_fails_late": (0.05, 0.4),
    # of a gateway in front of an API, in events a second: for a while it says 404 for all of it
    "route_lost": (0.02, 0.2),
}
"""Every fault, with the range from which a seed draws its rate."""

SELDOM: dict[str, tuple[float, float]] = {
    # of a database, in events a second: an older copy of it is put back
    "restore": (0.01, 0.06),
    # of a database of several processes, in events a second: its primary is lost, and a standby
    # that has all that was answered takes its place, or one that lacks the last commits
    "failover": (0.02, 0.1),
    "failover_lossy": (0.005, 0.03),
    # of a stage: whether what is over is closed and dropped within minutes, in place of weeks
    "retention": (0.4, 1.0),
    # of a stage, in events a second: for a while some of its replicas lack the key of its upstream,
    # and a gateway that asks a second one gives the 401 of that
    "key_rotated": (0.02, 0.2),
    # of an undo at an API: it is taken on with 202, and its end is there at a later look; or it is
    # refused, for what was made stands and cannot be taken back any more
    "undo_accepted": (0.2, 1.0),
    "undo_denied": (0.05, 0.4),
    # of a client: it says to the notification of a failure that it cannot compensate, for a while
    "client_cannot": (0.2, 1.0),
    # of an API: an answer 200 that is too large to be read, and one of which a call makes a result
    # that is too large to be kept
    "api_oversized": (0.02, 0.3),
    "result_oversized": (0.02, 0.3),
    # of the stage at the end of the chain: its answer is too large, alone or with ours
    "tail_oversized": (0.05, 0.4),
}
"""Faults that change most of a world, in few of them; they have dice of their own."""
OF_OWN_STAGES = ("undo_accepted", "undo_denied", "result_oversized")
"""Faults of no world of an author, whose functions know the answers of their own API alone."""
SELDOM_SHARE = 0.12

END_LOST = "end_lost_behind_its_answer"
"""A crash between the answer 200 and the commit of the end: no fault of its own, but counted."""
END_FOUND = "end_found_downstream"
"""Such an end that was found again by looking downstream, counted as well."""

LOST = "saga_lost_by_a_restore"
"""A saga that an older copy of a database lacked, and that a neighbour had; counted as well."""
UNDONE_ELSEWHERE = "saga_undone_elsewhere"
"""A saga that an older copy says is done, and a neighbour does not; counted as well."""

LANDED = "doubt_landed"
"""A commit under way when the primary was lost, and the standby has it; counted as well."""
NOT_LANDED = "doubt_not_landed"
"""A commit under way when the primary was lost, and the standby has it not."""

CLOSED = "saga_closed"
EMPTIED = "answer_dropped"
DROPPED = "row_dropped"
"""The three things that retention does to a saga; counted as well."""
WITHOUT_RETENTION = ("restore", "failover_lossy")
"""Faults of no world with retention: a neighbour's list from before a row was dropped is refused,
so that a person would have to say what an older database lacks."""

JOINED_ELSEWHERE = "joined_elsewhere"
"""A saga offered to one process while another had a message of it under way; counted as well."""

SWARM_SHARE = 0.45
"""The chance that a seed has a fault at all."""


class Faults(msgspec.Struct, kw_only=True):
    """The rates of one seed, and the count of what struck. Rates are 0 in the liveness phase."""

    scripted: ClassVar[bool] = False
    """Whether `point` and `pause` have anything to say."""
    rates: dict[str, float]
    random: Random
    on: bool = True
    struck: Counter[str] = msgspec.field(default_factory=Counter)

    def happens(self, kind: str) -> bool:
        """Throw the dice for one opportunity of a fault."""
        rate = self.rates.get(kind, 0.0)
        if not self.on or rate == 0.0 or self.random.random() >= rate:
            return False
        self.struck[kind] += 1
        return True

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Nothing strikes within: of a command that a person repeats until it works."""
        was, self.on = self.on, False
        try:
            yield
        finally:
            self.on = was

    def point(self, sort: str, where: str) -> str:
        """The fault of a script at this durable write or message; a swarm has no script."""
        return ""

    async def pause(self, where: str) -> None:
        """Where a script lets something else go first."""

    def next_in(self, kind: str) -> float | None:
        """Seconds until the next event of a fault that comes by itself; None when it does not."""
        rate = self.rates.get(kind, 0.0)
        return None if not self.on or rate == 0.0 else self.random.expovariate(rate)


def draw(
    random: Random,
    seldom: Random,
    without: frozenset[str] = frozenset(),
    always: frozenset[str] = frozenset(),
) -> Faults:
    """The swarm of one seed; what is in `always` is there, and often.

    `without` and `always` leave the dice as they fall; `seldom` are those of the faults that few
    worlds have.
    """
    rates = {}
    for kinds, dice, share in ((KINDS, random, SWARM_SHARE), (SELDOM, seldom, SELDOM_SHARE)):
        for kind, (least, most) in kinds.items():
            drawn, rate = dice.random() < share, dice.uniform(least, most)
            if (drawn or kind in always) and kind not in without:
                rates[kind] = most if kind in always else rate
    return Faults(rates=rates, random=random)
