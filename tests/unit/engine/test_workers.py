"""Where a call goes among several workers, and what each does for the others, once."""

from __future__ import annotations

from typing import Any, cast

import pytest

from stage.core.sweep import Sweep
from stage.core.sweep_verbs import SweepVerb
from stage.engine.clock import SystemClock
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.workers.duties import Duties, microseconds
from stage.engine.workers.engine import Answers, WorkersEngine
from stage.engine.workers.link import WorkerLink
from stage.engine.workers.placement import Placement, home_of
from stage.ports.engine import PastRetention, SagaLost, WorkerLost
from stage.ports.store import NEWEST, Act
from stage.telemetry.null import NullObserver

MOVED = next(
    each for each in map(str, range(99)) if home_of(each, 2) == 1 and home_of(each, 3) == 2
)
"""At home at worker 1 of two, and at worker 2 of three."""


class File:
    """The engine of one worker: what its file says of sagas, and its audit."""

    def __init__(self, *sagas: str, dropped: bool = False, restored: bool = False) -> None:
        self.sagas = sagas
        self.dropped = dropped
        self.restored = restored
        self.kept: list[Act] = []
        self.acted: list[str] = []

    async def get_saga(self, saga_id: str) -> object | None:
        """A word for the saga, or why there is none."""
        if saga_id in self.sagas:
            return "a saga"
        if self.restored:
            raise SagaLost("restored")
        if self.dropped:
            raise PastRetention("dropped")
        return None

    async def journal(self, saga_id: str, after: int, wait_seconds: float) -> list[Any]:
        """So that a test sees who was asked."""
        return [id(self)]

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """As a store has them."""
        behind = NEWEST if before is None else before
        found = [act for act in reversed(self.kept) if act.number < behind]
        return [act for act in found if target in ("", act.target)][:limit]

    async def act_on(self, sweep: Sweep, saga_id: str) -> str:
        """Do it, with an act of the audit."""
        self.acted.append(saga_id)
        act = Act(at=9.0, actor="kim", act="retried", target=saga_id, reason=sweep.why, number=1)
        self.kept.append(act)
        return ""


def duties_of(file: File) -> Duties:
    nothing: Any = None
    return Duties(
        cast(EmbeddedEngine, file),
        breakers=nothing,
        figures=nothing,
        metrics=nothing,
        reconcile=nothing,
    )


class Wire:
    """A link that asks the other worker without a socket."""

    def __init__(self, file: File | None) -> None:
        self._file = file

    async def call(self, name: str, args: Any, kwargs: Any, seconds: float) -> Any:
        """See `WorkerLink.call`."""
        if self._file is None:
            raise WorkerLost("away")
        engine = cast(EmbeddedEngine, self._file)
        return await Answers(engine, duties_of(self._file), NullObserver())(name, args, kwargs)


def workers(*files: File | None) -> WorkersEngine:
    """The engine of worker 0 of three, which were two before."""
    own = files[0]
    assert own is not None
    links = {number: cast(WorkerLink, Wire(file)) for number, file in enumerate(files) if number}
    engine, clock = cast(EmbeddedEngine, own), SystemClock()
    return WorkersEngine(engine, duties_of(own), 0, Placement((2, 3)), links, clock)


@pytest.mark.parametrize(
    "older, newest, home",
    [
        (File(), File(), 2),
        (File(MOVED), File(), 1),
        (File(), File(MOVED), 2),
        (File(dropped=True), File(), 1),
        (File(dropped=True), File(MOVED), 2),
        (File(), File(dropped=True), 2),
        (File(MOVED), File(dropped=True), 1),
    ],
)
async def test_a_saga_is_at_the_home_that_has_it_and_begun_at_the_newest(
    older: File, newest: File, home: int
) -> None:
    """One that may have been dropped at an older home is not begun anew."""
    found = workers(File(), older, newest)
    assert home == await found.home(MOVED)
    asked: list[Any] = list(await found.journal(MOVED))
    assert [id((older, newest)[home - 1])] == asked


async def test_nothing_is_said_of_a_saga_while_one_of_its_homes_cannot_say() -> None:
    """A worker that is away, and a file that may lack sagas."""
    with pytest.raises(WorkerLost):
        await workers(File(), None, File()).home(MOVED)
    with pytest.raises(SagaLost):
        await workers(File(), File(restored=True), File()).home(MOVED)
    same = next(each for each in map(str, range(99)) if home_of(each, 2) == home_of(each, 3) == 0)
    assert 0 == await workers(File(), None, None).home(same)


async def test_a_saga_that_is_there_is_found_while_another_home_awaits_its_release() -> None:
    """It is compensated and heard as ever; all that are nowhere are not spoken of."""
    assert 1 == await workers(File(), File(MOVED), File(restored=True)).home(MOVED)
    assert 2 == await workers(File(), File(restored=True), File(MOVED)).home(MOVED)
    with pytest.raises(SagaLost):
        await workers(File(), File(dropped=True), File(restored=True)).home(MOVED)


async def test_nobody_is_asked_for_lost_sagas_while_a_worker_is_away() -> None:
    """Its file may be one that was restored: the findings would look whole."""
    with pytest.raises(WorkerLost):
        await workers(File(), None, None).reconcile(since=None, without={}, adopt=None)


async def test_the_metrics_of_all_are_there_before_a_scrape_gives_up_on_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each scrape waited for one that was stopped: no figure was seen, and not that it is away."""
    waited: list[float] = []

    async def silent(_: Wire, name: str, args: Any, kwargs: Any, seconds: float) -> Any:
        waited.append(seconds)
        raise WorkerLost("worker 1 did not answer")

    async def metrics(_: Duties, accept: str) -> tuple[bytes, str]:
        return b"up 1", accept

    monkeypatch.setattr(Wire, "call", silent)
    monkeypatch.setattr(Duties, "metrics", metrics)
    found = await workers(File(), File(), File()).metrics("text/plain")
    assert {0: (b"up 1", "text/plain"), 1: None, 2: None} == found
    assert 2 == len(waited) and max(waited) <= 2.0


async def test_a_sweep_acts_once_on_a_saga_whose_answer_was_lost() -> None:
    """The worker that runs it was killed before it wrote down that the home had acted."""
    file = File("a")
    sweep = Sweep(
        number=3, at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=1.0
    )
    duties = duties_of(file)
    assert ["", ""] == [await duties.act_on(sweep, "a") for _ in range(2)]
    assert ["a"] == file.acted


async def test_acts_before_an_instant_are_found() -> None:
    """Wherever it lies among them, also those of one target alone."""
    file = File()
    file.kept = [
        Act(at=float(n), actor="kim", act="x", target="ab"[n % 2], reason="", number=2 * n)
        for n in range(1, 40)
    ]
    duties = duties_of(file)
    for until in range(42):
        for target in ("", "a"):
            found = await duties.acts_before(microseconds(float(until)), 5, target)
            wanted = [a for a in file.kept if a.at < until and target in ("", a.target)]
            assert [a.at for a in wanted[::-1][:5]] == [a.at for a in found]
            assert [microseconds(a.at) for a in found] == [a.number for a in found]
    assert 39.0 == (await duties.acts_before(None, 1, ""))[0].at


async def test_a_worker_is_asked_for_nothing_else() -> None:
    """Only what is on the list is called by name."""
    with pytest.raises(ValueError, match="not asked for 'drain'"):
        await Wire(File()).call("drain", (0.0,), {}, 1.0)
