"""Lists of several workers as one: in order, whole, and page by page."""

from __future__ import annotations

import random

from msgspec.structs import replace

from stage.core.states import ParkCause, SagaState
from stage.engine.workers import merged
from stage.ports.engine import SharedSagas
from stage.ports.figures import Figures, Lately, Places
from stage.ports.peers import PeerStanding
from stage.ports.reconcile import Findings
from stage.ports.store import Act, Approvals, Backlog, Changes, Group, SagaRow
from stage.wire.outcome import Outcome
from stage.wire.shared import SharedSaga, Side


def row(saga_id: str) -> SagaRow:
    return SagaRow(
        id=saga_id, state=SagaState.COMPLETED, epoch=1, length=1, accepted_at=1.0, updated_at=1.0
    )


def shared_page(changes: list[tuple[float, str]], since: Changes) -> SharedSagas:
    """As an engine makes it: every second saga is shared."""
    behind = [each for each in sorted(changes) if each > (since.at, since.saga_id)]
    seen = behind[: since.limit]
    sagas = [
        SharedSaga(
            saga_id=saga_id,
            side=Side.UPSTREAM,
            outcome=Outcome.EXECUTED,
            accepted_at="",
            updated_at="",
            envelope=None,
        )
        for _, saga_id in seen
        if int(saga_id) % 2
    ]
    places = [each for each in seen if int(each[1]) % 2]
    end = Changes(at=seen[-1][0], saga_id=seen[-1][1]) if len(seen) == since.limit else None
    return SharedSagas(sagas=sagas, next=end, places=places)


def test_shared_sagas_are_paged_once_each() -> None:
    """However they are spread over workers and instants."""
    dice = random.Random(7)
    for _ in range(50):
        changes = [(float(dice.randrange(40)), str(number)) for number in range(120)]
        files = [[each for each in changes if int(each[1]) % 3 == worker] for worker in range(3)]
        since, found = Changes(at=-1.0, limit=dice.randrange(1, 9)), []
        while True:
            page = merged.shared([shared_page(file, since) for file in files])
            found += [saga.saga_id for saga in page.sagas]
            if page.next is None:
                break
            since = Changes(at=page.next.at, saga_id=page.next.saga_id, limit=since.limit)
        assert [saga_id for _, saga_id in sorted(changes) if int(saga_id) % 2] == found


def test_acts_are_paged_by_their_instant() -> None:
    """An act on all files at once is one, and no page ends within an instant."""

    def act(number: int, target: str) -> Act:
        return Act(at=0.0, actor="kim", act="paused", target=target, reason="", number=number)

    files = [[act(9, "intake"), act(5, "a")], [act(9, "intake"), act(5, "b"), act(1, "c")]]
    assert ["intake"] == [each.target for each in merged.acts(files, 1)]
    assert ["intake", "a", "b"] == [each.target for each in merged.acts(files, 2)]
    assert 4 == len(merged.acts(files, 9))


def test_a_page_is_in_the_order_of_ids() -> None:
    """And as long as was asked for."""
    found = merged.page([[row("a"), row("d")], [row("b"), row("c")], []], 3)
    assert ["a", "b", "c"] == [each.id for each in found]


def test_backlogs_are_sums_and_ages_are_those_of_the_oldest() -> None:
    """The parked sagas by cause, and the approvals by step."""

    def asked(sagas: int, at: float, until: float) -> Approvals:
        return Approvals(step="risk", sagas=sagas, oldest_asked_at=at, first_ends_at=until)

    none = Backlog(parked={}, oldest_accepted_at=None, longest_due_at=None)
    two = (Approvals(step="risk"), Approvals(step="other"))
    backlog = merged.backlog(
        [
            replace(none, parked={ParkCause.IN_DOUBT: 1}, longest_due_at=3.0, approvals=two),
            replace(none, oldest_accepted_at=9.0, approvals=(asked(2, 4.0, 8.0),)),
            replace(
                none,
                parked={ParkCause.IN_DOUBT: 2},
                longest_due_at=2.0,
                approvals=(asked(1, 5.0, 7.0),),
            ),
        ]
    )
    assert ({ParkCause.IN_DOUBT: 3}, 9.0, 2.0) == (
        backlog.parked,
        backlog.oldest_accepted_at,
        backlog.longest_due_at,
    )
    assert (Approvals(step="other"), asked(3, 4.0, 7.0)) == backlog.approvals


def test_counts_are_sums_and_ages_are_those_of_the_oldest() -> None:
    """Of groups, peers and figures."""

    def group(sagas: int, at: float) -> Group:
        return Group(
            cause=None, step="charge", peer="externals.psp", state=SagaState.ACTIVE,
            sagas=sagas, oldest_at=at,
        )  # fmt: skip

    (one,) = merged.groups([[group(2, 5.0)], [group(3, 4.0)]])
    assert (5, 4.0) == (one.sagas, one.oldest_at)
    standing = PeerStanding(peer="p", under_way=1, queued=0, places=2, places_max=3)
    failed = PeerStanding(
        peer="p", under_way=1, queued=4, places=2, places_max=3, rate_per_second=5.0,
        failed_at=2.0, failure="503",
    )  # fmt: skip
    (peer,) = merged.peers([[standing], [failed]])
    assert (2, 4, 6, 5.0, "503") == (
        peer.under_way, peer.queued, peer.places_max, peer.rate_per_second, peer.failure,
    )  # fmt: skip
    lately = Lately(seconds=5.0, ended={SagaState.COMPLETED: 2})
    figures = Figures(lately=lately, places=(Places("sagas", 10, 1),), replicas=2)
    both = merged.figures([figures, figures])
    assert ({SagaState.COMPLETED: 4}, (Places("sagas", 20, 2),), 2) == (
        both.lately.ended, both.places, both.replicas,
    )  # fmt: skip


def test_a_neighbour_lists_dropped_sagas_of_every_file() -> None:
    """Each worker counts those of its own file; the list of a neighbour is one."""
    one = Findings(
        since=2.0, asked={"order": 9}, unanswered={}, unnamed={}, missing=(), differences=(),
        dropped={"order": 2},
    )  # fmt: skip
    other = replace(one, since=1.0, dropped={"order": 3, "shipping": 1})
    found = merged.findings([one, other])
    assert ({"order": 9}, {"order": 5, "shipping": 1}) == (found.asked, found.dropped)
    assert 1.0 == found.since
