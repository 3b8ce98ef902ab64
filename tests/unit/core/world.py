"""A model of the outside world that keeps its own books, and a runner that drives the machine."""

from __future__ import annotations

from random import Random

import msgspec

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.machine import decide, evolve
from stage.core.saga import Saga
from stage.core.states import SagaState, Tell
from stage.core.steps import Plan, StepKind

ONE = msgspec.Raw(b"1")
COMMANDS_MAX = 3_000


class World:
    """The effects that stand outside, by step. It honours keys: an effect happens at most once.

    A compensation that comes first leaves a tombstone, so that a late effect is refused.
    """

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.standing: set[str] = set()
        self.buried: set[str] = set()
        self.order: list[tuple[str, str]] = []
        """(`do` or `undo`, step) in the order in which effects took place."""

    def do(self, step: str) -> bool:
        """True when the effect stands afterwards; False when it was undone before."""
        if step in self.buried:
            return False
        if step not in self.standing:
            self.standing.add(step)
            self.made[step] = self.made.get(step, 0) + 1
            self.order.append(("do", step))
        return True

    def undo(self, step: str) -> None:
        """The effect does not stand and never will again."""
        if step in self.standing:
            self.order.append(("undo", step))
        self.standing.discard(step)
        self.buried.add(step)


class Driver:
    """Drives one saga with seeded faults: lost answers, lost requests, refusals, crashes."""

    def __init__(self, plan: Plan, seed: int, *, deadline: float | None = None) -> None:
        self.plan = plan
        self.dice = Random(seed)
        self.world = World()
        self.now = 1_000.0
        self.saga = Saga(id=f"seed-{seed}")
        self.journal: list[e.Event] = []
        self.in_flight: list[tuple[Do, bool]] = []
        """The attempts that left, and whether their effect has already taken place."""
        self.faults = True
        self.started_after_deadline: list[str] = []
        self.record(e.Accepted(at=self.now, deadline=deadline, upstream="order"))

    def record(self, event: e.Event) -> None:
        """Journal and fold."""
        self.saga = evolve(self.plan, self.saga, event)
        self.journal.append(event)

    def happens(self, chance: float) -> bool:
        """True with that chance, while there are faults at all."""
        return self.faults and self.dice.random() < chance

    def crash(self) -> None:
        """The process dies: what is in flight may land or not, and nobody hears of it."""
        for do, landed in self.in_flight:
            if not landed and self.dice.random() < 0.5:
                self.effect(do)
        self.in_flight.clear()
        self.record(e.Recovered(at=self.now, epoch=self.saga.epoch + 1))

    def effect(self, do: Do) -> bool:
        """Let it take place in the world; False when the world refuses."""
        if do.kind is AttemptKind.EXECUTE:
            return self.world.do(do.step)
        if do.kind is AttemptKind.COMPENSATE:
            self.world.undo(do.step)
        return True

    def start(self, do: Do) -> None:
        """Journal the intent; a transaction takes place with its event, whole or not at all."""
        if do.kind is AttemptKind.TELL:
            self.record(e.TellStarted(at=self.now, attempt=do.attempt))
            self.record(e.TellDelivered(at=self.now))
            return
        deadline = self.saga.deadline
        if do.kind is AttemptKind.EXECUTE and deadline is not None and self.now >= deadline:
            self.started_after_deadline.append(do.step)
        if self.plan.step(do.step).kind is StepKind.TRANSACTION:
            self.transact(do)
            return
        match do.kind:
            case AttemptKind.EXECUTE:
                self.record(e.StepStarted(at=self.now, step=do.step, attempt=do.attempt))
            case AttemptKind.PROBE:
                self.record(e.ProbeStarted(at=self.now, step=do.step))
            case AttemptKind.COMPENSATE:
                self.record(e.CompensationStarted(at=self.now, step=do.step, attempt=do.attempt))
        self.in_flight.append((do, False))

    def transact(self, do: Do) -> None:
        """A local transaction and the event that says so are one write."""
        if do.kind is AttemptKind.COMPENSATE:
            self.record(e.CompensationStarted(at=self.now, step=do.step, attempt=do.attempt))
            if self.happens(0.1):
                self.record(e.CompensationDelayed(at=self.now, step=do.step, reason="busy"))
            else:
                self.world.undo(do.step)
                self.record(e.CompensationSucceeded(at=self.now, step=do.step))
        elif self.happens(0.1):
            self.record(e.StepRefused(at=self.now, step=do.step, reason="no"))
        elif self.happens(0.1):
            self.record(e.StepTransient(at=self.now, step=do.step, reason="busy"))
        else:
            self.world.do(do.step)
            self.record(e.StepSucceeded(at=self.now, step=do.step, result=ONE))

    def finish(self, do: Do) -> None:
        """One attempt ends, well or badly."""
        at, name = self.now, do.step
        landed = not self.happens(0.3) and self.effect(do)
        lost = self.happens(0.4)
        if do.kind is AttemptKind.EXECUTE:
            if lost:
                self.record(e.StepInDoubt(at=at, step=name, reason="no answer"))
            elif landed:
                self.record(e.StepSucceeded(at=at, step=name, result=ONE))
            elif name in self.world.buried or self.dice.random() < 0.5:
                self.record(e.StepRefused(at=at, step=name, reason="no"))
            else:
                self.record(e.StepTransient(at=at, step=name, reason="refused connection"))
        elif do.kind is AttemptKind.PROBE:
            if lost:
                self.record(e.ProbeFailed(at=at, step=name, reason="no answer"))
            elif name in self.world.standing:
                self.record(e.ProbeFound(at=at, step=name, result=ONE))
            else:
                self.record(e.ProbeNotThere(at=at, step=name))
        elif landed and not lost:
            self.record(e.CompensationSucceeded(at=at, step=name))
        else:
            self.record(e.CompensationDelayed(at=at, step=name, reason="no answer"))

    def run(self, faults_until: int = 60) -> None:
        """Drive to the end: faults first, then none (liveness)."""
        for turn in range(COMMANDS_MAX):
            self.faults = turn < faults_until
            if self.happens(0.08):
                self.crash()
            if self.happens(0.03):
                asks = self.dice.choice(REQUESTERS)
                if asks == "shipping":
                    self.world.undo("forward:shipping")  # it asks only after it has undone itself
                self.record(e.CompensationRequested(at=self.now, requested_by=asks))
            if self.in_flight and (self.dice.random() < 0.5):
                do, _ = self.in_flight.pop(self.dice.randrange(len(self.in_flight)))
                self.now += self.dice.random()
                self.finish(do)
                continue
            commands = decide(self.plan, self.saga, self.now)
            if self.step(commands):
                return
        raise AssertionError(f"did not come to rest: {self.journal[-5:]}")

    def step(self, commands: tuple[object, ...]) -> bool:
        """Carry the commands out; True when the saga is at its end."""
        for command in commands:
            match command:
                case Record():
                    self.record(command.event)
                case Do():
                    self.start(command)
                case Rest():
                    if self.in_flight:
                        return False
                    if command.until is None:
                        return not self.faults or self.at_rest()
                    self.now = max(self.now, command.until)
        return False

    def at_rest(self) -> bool:
        """True when nothing more would ever happen by itself."""
        self.faults = False
        return True

    @property
    def ended_well(self) -> bool:
        """True when the books of the world agree with what the saga says."""
        doing = {step.name for step in self.plan.steps}
        undoable = {step.name for step in self.plan.steps if step.compensatable}
        match self.saga.state:
            case SagaState.COMPLETED:
                return self.world.standing == doing
            case SagaState.COMPENSATED:
                return not (self.world.standing & undoable) and self.saga.tell in (
                    Tell.NO,
                    Tell.DELIVERED,
                )
            case _:
                return bool(self.saga.parked)


REQUESTERS = ("order", "shipping", "operator")
