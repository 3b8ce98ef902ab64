"""The operator of a simulated chain: looks at the world, and uses the verbs truthfully (rule 14).

A person tells the truth: a step is settled as landed when its effect was made, and resolved only
after it was undone by hand. So a verb may change how a saga ends, and never what may stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from zlib import crc32

import msgspec

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.errors import StoreUnavailable
from stage.core.states import SagaState
from stage.core.steps import StepKind
from stage.ports.engine import ActRepeated, NotAllowed, SagaLost, Unsettled
from stage.simulation.facts import Known
from stage.simulation.loop import EPOCH
from stage.simulation.network import Network
from stage.simulation.node import Node

ACTOR = "operator"
ROUNDS_MAX = 12
"""Looks at the desk in the liveness phase; what waits then has a cause that no verb takes away."""
DESK_SECONDS = 90.0
COPIED_EVERY = 2
"""One order in so many comes a second time."""
COPY_SECONDS = 20.0
"""How much later."""
SILENT_SECONDS_MAX = 600.0
"""A simulated person is silent where the author's time-out is no longer than that."""


class Operator:
    """Retries, settles, resolves and, seldom, forgets."""

    def __init__(self, nodes: Sequence[Node], network: Network, *, keyed: bool) -> None:
        """`keyed`: each order has an idempotency key, and some come a second time under it."""
        self._keyed = keyed
        self._orders = 0
        self._nodes = nodes
        self._network = network
        self._loop = network.loop
        self._random = network.random
        self._faults = network.faults
        self._books = network.books

    async def act(self) -> None:
        """One verb at one stage on one saga that may need it, or on any."""
        node = self._random.choice(self._nodes)
        here = [known for (stage, _), known in self._books.known.items() if stage == node.name]
        waiting = [known for known in here if known.row.parked or known.row.due_at is not None]
        if not here:
            return
        known = self._random.choice(waiting or here)
        if await self._decides(node, known):
            return
        if self._faults.happens("forget"):
            await self._ask(node, known, e.Forgotten(at=self._now, actor=ACTOR, why="given up"))
            return
        verb: e.Verb | None = self._taken_over(node, known) or self._resolved(node, known)
        verb = verb or self._settled(node, known)
        if verb is None or self._random.random() < 0.3:
            verb = e.Retried(at=self._now, actor=ACTOR, why="it is worth a try")
        await self._ask(node, known, verb)

    def desk(self) -> list[tuple[Node, Known]]:
        """Everything that waits for a person, from the tail to the head."""
        return [
            (node, known)
            for node in reversed(self._nodes)
            for (stage, _), known in self._books.known.items()
            if stage == node.name and known.row.parked
        ]

    async def decide_what_waits(self) -> None:
        """Once faults are over: all that a person would not leave to its time-out."""
        for node in self._nodes:
            here = [known for (stage, _), known in self._books.known.items() if stage == node.name]
            for known in here:
                asked = known.asked_for & known.pending.keys()
                if asked and known.row.state is SagaState.ACTIVE:
                    await self._decides(node, known)

    async def _decides(self, node: Node, known: Known) -> bool:
        """Say yes or no where a saga asks for it: seldom twice, and of some sagas never.

        A person who is late finds that nobody asks any more.
        """
        saga = known.row.id
        mind = crc32(f"{saga}/approval".encode()) % 8
        for name in sorted(known.asked_for):
            decided = name in known.decided
            gone = decided or name not in known.pending
            waits = self._books.plan_of(node.name, saga).step(name).pending_seconds_max
            silent = mind == 0 and waits <= SILENT_SECONDS_MAX
            if silent or (gone and mind not in (1, 2)):
                continue
            yes = mind != 3
            kind: type[e.Approved | e.Rejected] = e.Approved if yes else e.Rejected
            if gone:  # once more, the other way, or too late
                kind = e.Rejected if yes else e.Approved
                self._faults.struck["verb_decided_late"] += 1
            elif yes:
                self._books.said_yes_to.add((node.name, saga, name))
            verb = kind(at=self._now, actor=ACTOR, why="looked at it", step=name)
            if await self._ask(node, known, verb):
                self._books.heard_a_decision(node.name, saga, name)
            return True
        return False

    async def clear_desk(self) -> None:
        """Resolve what can be undone by hand, and retry the rest."""
        for node, known in self.desk():
            verb: e.Verb | None = self._taken_over(node, known) or self._resolved(node, known)
            verb = (
                verb
                or self._settled(node, known)
                or e.Retried(at=self._now, actor=ACTOR, why="faults are over")
            )
            await self._ask(node, known, verb)

    @property
    def _now(self) -> float:
        return EPOCH + self._loop.time()

    def _taken_over(self, node: Node, known: Known) -> e.Forgotten | None:
        """A person undoes what an API made of a closed saga, of which nothing else is kept."""
        if known.row.closed_at is None or not known.row.parked:
            return None
        saga = known.row.id
        for step in self._books.plan_of(node.name, saga).steps:
            for effect in self._books.effects_of(node.name, saga, step.name):
                self._books.unmake(effect)
        return e.Forgotten(at=self._now, actor=ACTOR, why="undone by hand")

    def _resolved(self, node: Node, known: Known) -> e.Resolved | None:
        """A person undoes at the API what no call could undo, and says so."""
        saga = known.row.id
        plan = self._books.plan_of(node.name, saga)
        for name in sorted(known.given_up):
            if plan.step(name).kind is StepKind.CALL and not self._network.about(saga):
                for effect in self._books.effects_of(node.name, saga, name):
                    self._books.unmake(effect)
                return e.Resolved(at=self._now, actor=ACTOR, why="undone by hand", step=name)
        return None

    def _settled(self, node: Node, known: Known) -> e.Settled | None:
        """A doubt that the API's own books settle, with the id that stands there."""
        saga = known.row.id
        plan = self._books.plan_of(node.name, saga)
        if not known.row.parked or self._network.about(saga):
            return None
        for name in sorted(known.doubted):
            step = plan.step(name)
            if step.kind is not StepKind.CALL or name in known.given_up:
                continue
            stands = [one for one in self._books.effects_of(node.name, saga, name) if one.standing]
            landed = bool(stands)
            result = {"id": stands[-1].name} if landed else None
            return e.Settled(
                at=self._now,
                actor=ACTOR,
                why="looked",
                step=name,
                landed=landed,
                result=msgspec.Raw(msgspec.json.encode(result)),
            )
        return None

    async def _ask(self, node: Node, known: Known, verb: e.Verb) -> bool:
        """Ask for it; whether the stage said that it is done.

        A proxy may send it again: what was done or refused by then is not done by the copy.
        """
        saga = known.row.id
        if self._keyed:
            self._orders += 1
            key = ActKey(key=f"{saga}/{self._orders}", digest=e.name_of(verb))
            verb = msgspec.structs.replace(verb, act_key=key)
        done = await self._order(node, saga, verb)
        if done is not None and self._keyed and self._orders % COPIED_EVERY == 0:
            await asyncio.sleep(COPY_SECONDS)
            if not self._books.rewound(node.name, saga):
                self._faults.struck["verb_copied"] += 1
                await self._order(node, saga, verb)
        return bool(done)

    async def _order(self, node: Node, saga: str, verb: e.Verb) -> bool | None:
        """Whether the stage did it; None without its word."""
        what = e.name_of(verb)
        work = node.operate(saga, verb)
        if work is None:
            return None
        self._books.tell(saga, ACTOR, f"{what} at {node.name} {getattr(verb, 'step', '')}".rstrip())
        try:
            async with asyncio.timeout(DESK_SECONDS):
                await asyncio.shield(work)
            self._faults.struck[f"verb_{what}"] += 1
            return True
        except (NotAllowed, SagaLost) as error:
            self._faults.struck["verb_not_allowed"] += 1
            self._books.tell(saga, ACTOR, f"is told no: {error}")
            return False
        except ActRepeated as error:
            self._faults.struck["verb_repeated"] += 1
            self._books.tell(saga, ACTOR, f"is told that it was so before: {error}")
            return not error.kept.refused
        except (StoreUnavailable, Unsettled, TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not work.cancelled():
                raise
            self._books.tell(saga, ACTOR, f"got no answer: {type(error).__name__}")
        return None


__all__ = ["ACTOR", "ROUNDS_MAX", "Operator"]
