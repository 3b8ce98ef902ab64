"""Turns our values into the rows of a database, and rows into values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter, ne
from typing import Any, Final, NamedTuple, NoReturn

from msgspec.structs import astuple

from stage.core.act_key import ActKey, KeptAct
from stage.core.age import counted
from stage.core.errors import NewerJournal, StaleEpoch
from stage.core.events import NAMES, Event, name_of
from stage.core.pause import Pause, Way
from stage.core.states import ParkCause, SagaState
from stage.core.sweep import Sweep, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.core.unseen import sent_at_of
from stage.ports.codec import Codec
from stage.ports.store import Act, Asked, Dropped, Entry, Group, Row, SagaRow, Term

ORDER_TERM: Final = "an order"
"""The digest of an order is kept as a term of that name, which no business number can have."""
_STATES = {state.value: state for state in SagaState}
_CAUSES: dict[str, ParkCause | None] = {"": None, **{cause.value: cause for cause in ParkCause}}
_WAYS = frozenset(way.value for way in Way)
_VERBS = frozenset(verb.value for verb in SweepVerb)
_SWEEP_STATES = frozenset(state.value for state in SweepState)


def parameters(row: SagaRow, codec: Codec) -> tuple[object, ...]:
    """The columns of a row but `closed_at`, in the order of the statements of every database."""
    return (
        row.id,
        f"{row.state}",  # an exact str: sqlite3 looks for an adapter of any other type
        row.epoch,
        row.length,
        row.accepted_at,
        row.updated_at,
        codec.encode_hash(row.id, row.fingerprint),
        row.parked,
        row.due_at,
        row.deadline,
        codec.renew_envelope(row.id, row.envelope),
        row.traceparent,
        row.tracestate,
        row.answer_status,
        codec.encode_answer(row.id, row.answer_body),
        row.parked_cause.value if row.parked_cause is not None else "",
        row.version,
        row.step,
        row.peer,
    )


CHANGES_MAX: Final = 256
"""Sets of columns that are saved together; a stage has a dozen."""

_UNSAVED: Final = frozenset({"id", "closed_at"})
_ENCODED: Final[dict[str, Callable[[SagaRow, Codec], object]]] = {
    "state": lambda row, _: f"{row.state}",
    "fingerprint": lambda row, codec: codec.encode_hash(row.id, row.fingerprint),
    "envelope": lambda row, codec: codec.renew_envelope(row.id, row.envelope),
    "answer_body": lambda row, codec: codec.encode_answer(row.id, row.answer_body),
    "parked_cause": lambda row, _: "" if row.parked_cause is None else row.parked_cause.value,
}
"""The columns that are not written as the row has them."""


class _Changed(NamedTuple):
    """Columns that are saved together, with all that is known of them before a row is seen."""

    columns: tuple[str, ...]
    read: Callable[[SagaRow], tuple[Any, ...]]
    """Their values, then the id."""
    encoded: tuple[tuple[int, Callable[[SagaRow, Codec], object]], ...]
    """Which of them are encoded, by their place."""


def changes(row: SagaRow, before: SagaRow, codec: Codec) -> tuple[tuple[str, ...], list[object]]:
    """The columns that are other than in the row before; their values, then the id.

    Contents that are the same are not sealed anew.
    """
    columns, read, encoded = _changed(tuple(map(ne, astuple(row), astuple(before))))
    values = [*read(row)]
    for place, encode in encoded:
        values[place] = encode(row, codec)
    return columns, values


@lru_cache(CHANGES_MAX)
def _changed(differing: tuple[bool, ...]) -> _Changed:
    """The columns of the fields that differ."""
    fields = zip(SagaRow.__struct_fields__, differing, strict=True)
    columns = tuple(name for name, other in fields if other and name not in _UNSAVED)
    read = attrgetter(*columns, "id") if columns else lambda row: (row.id,)
    encoded = [(place, _ENCODED.get(name)) for place, name in enumerate(columns)]
    return _Changed(columns, read, tuple((place, how) for place, how in encoded if how))


def saga_row(row: Row, codec: Codec) -> SagaRow:
    """The value of a row in the order of `parameters`, then `closed_at`.

    Raises NewerJournal where it has a state, or a cause, of which this release does not know.
    """
    try:
        state, cause = _STATES[row[1]], _CAUSES[row[16]]
    except KeyError as error:
        raise NewerJournal(
            f"the row of saga {row[0]} says {error}, which this release does not know: the release"
            " that wrote it goes on with the saga"
        ) from None
    return SagaRow(
        id=row[0],
        state=state,
        epoch=row[2],
        length=row[3],
        accepted_at=row[4],
        updated_at=row[5],
        fingerprint=codec.decode_hash(row[0], row[6]),
        parked=row[7],
        due_at=row[8],
        deadline=row[9],
        envelope=row[10],
        traceparent=row[11],
        tracestate=row[12],
        answer_status=row[13],
        answer_body=codec.decode_answer(row[0], row[14]),
        closed_at=row[15],
        parked_cause=cause,
        version=row[17],
        step=row[18],
        peer=row[19],
    )


def listed_row(row: Row, codec: Codec) -> SagaRow | None:
    """As `saga_row`, for a list, which one row that only a newer release can read must not end.

    It has no cause that is unknown here, and no contents under a key that this process lacks. None
    where it has a state that is unknown here.
    """
    if row[1] not in _STATES:
        return None
    if row[16] not in _CAUSES:
        row = (*row[:16], "", *row[17:])
    try:
        return saga_row(row, codec)
    except NewerJournal:
        return saga_row((*row[:6], "", *row[7:14], b"", *row[15:]), codec)


def closing_values(row: SagaRow, epoch: int, codec: Codec) -> tuple[object, ...]:
    """The columns that `ports.store.Unit.close` writes: the id first, epoch and length last."""
    return (
        *(row.id, row.epoch, codec.encode_hash(row.id, row.fingerprint), row.tracestate),
        *(codec.encode_answer(row.id, row.answer_body), row.closed_at, epoch, row.length),
    )


def dropped_until(found: Sequence[Row]) -> tuple[float, float]:
    """How far rows are dropped with these (id, last change): both instants of `Dropped`."""
    newest = max(sent_at_of(saga_id) or 0.0 for saga_id, _ in found)
    return newest, max(changed_at for _, changed_at in found)


def dropped(row: Row) -> Dropped:
    """The value of its row."""
    return Dropped(ids_until=row[0], changed_until=row[1])


def journal_values(row: SagaRow, events: Sequence[Event], codec: Codec) -> list[object]:
    """The columns of the last entries of a saga's journal, one group behind the other."""
    values: list[object] = []
    saga_id, epoch, encode, names = row.id, row.epoch, codec.encode_event, NAMES
    for number, event in enumerate(events, row.length - len(events) + 1):
        encoded = encode(saga_id, number, event)
        values += (saga_id, number, epoch, event.at, names[type(event)], encoded)
    return values


def entry_values(saga_id: str, entry: Entry, codec: Codec) -> tuple[object, ...]:
    """The columns of one journal entry."""
    event = entry.event
    encoded = codec.encode_event(saga_id, entry.number, event)
    return (saga_id, entry.number, entry.epoch, event.at, name_of(event), encoded)


def entry(saga_id: str, row: Row, codec: Codec) -> Entry:
    """The value of number, epoch and event as stored."""
    return Entry(number=row[0], epoch=row[1], event=codec.decode_event(saga_id, row[0], row[2]))


def term_values(terms: Sequence[Term], saga_id: str, codec: Codec) -> list[tuple[str, str, str]]:
    """The columns of the terms of one saga."""
    return [(saga_id, each.name, codec.encode_term(each.name, each.value)) for each in terms]


def group(row: Row) -> Group | None:
    """The value of cause, step, peer, state, number of sagas, and the oldest last change.

    None for a cause or a state that only a newer release knows.
    """
    if row[0] not in _CAUSES or row[3] not in _STATES:
        return None
    return Group(
        cause=_CAUSES[row[0]],
        step=row[1],
        peer=row[2],
        state=_STATES[row[3]],
        sagas=row[4],
        oldest_at=row[5],
    )


def parked(counted: Sequence[Row]) -> tuple[dict[ParkCause, int], int]:
    """Parked sagas by cause, and how many have causes that only a newer release knows."""
    known = {cause: sagas for name, sagas in counted if (cause := _CAUSES.get(name)) is not None}
    return known, sum(sagas for name, sagas in counted if name not in _CAUSES)


def states(counted: Sequence[Row]) -> dict[SagaState, int]:
    """Sagas by state, 0 for one without any; a state may have two rows.

    Sagas in a state that only a newer release knows are left out.
    """
    found = dict.fromkeys(SagaState, 0)
    for name, sagas in counted:
        if name in _STATES:
            found[_STATES[name]] += sagas
    return found


def asked(row: Sequence[object], instants: Sequence[float], now: float) -> Asked:
    """The value of version, step, number of sagas, and when the oldest was asked for.

    `instants` are those of the journal of the oldest since then.
    """
    version, step, sagas, asked_at = row
    return Asked(
        version=version,  # type: ignore[arg-type]
        step=step,  # type: ignore[arg-type]
        sagas=sagas,  # type: ignore[arg-type]
        oldest_asked_at=asked_at,  # type: ignore[arg-type]
        oldest_waited_seconds=counted([*instants, now]),
    )


def pause_values(pause: Pause) -> tuple[object, ...]:
    """The columns of a pause."""
    way = way_value(pause.way)
    return (pause.target, way, pause.at, pause.until, pause.actor, pause.reason)


def way_value(way: Way | None) -> str:
    """The column of a way; empty for both."""
    return "" if way is None else way.value


def pause(row: Row) -> Pause | None:
    """The value of a row of `pause_values`; None for a way that only a newer release knows."""
    target, way, at, until, actor, reason = row
    if way and way not in _WAYS:
        return None
    return Pause(
        target=target,
        way=Way(way) if way else None,
        at=at,
        until=until,
        actor=actor,
        reason=reason,
    )


def sweep_values(sweep: Sweep) -> tuple[object, ...]:
    """The columns of a sweep but its number."""
    return (
        *(sweep.at, sweep.actor, sweep.verb.value, sweep.reason, sweep.step, sweep.where),
        *(sweep.rate_per_second, sweep.state.value),
    )


def sweep(row: Row) -> Sweep:
    """The value of a row: its number, the columns of `sweep_values`, then the three counts.

    Raises NewerJournal where it has a verb, or a state, of which this release does not know.
    """
    number, at, actor, verb, reason, step, where, rate, state, pending, done, refused = row
    if verb not in _VERBS or state not in _SWEEP_STATES:
        raise NewerJournal(
            f"sweep {number} is one to {verb!r}, and {state!r}, which this release does not know:"
            " the release that wrote it goes on with it"
        )
    return Sweep(
        number=number,
        at=at,
        actor=actor,
        verb=SweepVerb(verb),
        reason=reason,
        step=step,
        where=where,
        rate_per_second=rate,
        state=SweepState(state),
        pending=pending,
        done=done,
        refused=refused,
    )


def digest_kept(key: ActKey, codec: Codec) -> str:
    """The digest of an order as it is kept: a plain one of a short number is found by trial."""
    return codec.encode_term(ORDER_TERM, key.digest)


def kept_act(found: Sequence[Row], key: ActKey, codec: Codec) -> KeptAct | None:
    """The value of the row of an act key, where there is one.

    An older release kept the digest as it is, for ACT_KEY_SECONDS_MAX.
    """
    if not found:
        return None
    digest, at, refused, sweep = found[0]
    same = ("", key.digest, *codec.known_terms(ORDER_TERM, key.digest))
    digest = key.digest if digest in same else digest
    return KeptAct(digest=digest, at=at, refused=refused, sweep=sweep)


def act_values(act: Act) -> tuple[object, ...]:
    """The columns of an act but its number."""
    return (act.at, act.actor, act.act, act.target, act.reason, act.before, act.after)


def act(row: Row) -> Act:
    """The value of a row: its number, then the columns of `act_values`."""
    number, at, actor, name, target, reason, before, after = row
    return Act(
        number=number,
        at=at,
        actor=actor,
        act=name,
        target=target,
        reason=reason,
        before=before,
        after=after,
    )


def check_insert(row: SagaRow, events: Sequence[Event]) -> None:
    """A new saga has exactly the entries it is inserted with."""
    if row.length != len(events):
        raise ValueError(f"saga {row.id}: length {row.length} with {len(events)} first entries")


def check_save(row: SagaRow, epoch: int) -> None:
    """An epoch never decreases."""
    if row.epoch < epoch:
        raise ValueError(
            f"saga {row.id}: epoch {row.epoch} is older than {epoch}, the epoch that holds it"
        )


def refuse(row: SagaRow, epoch: int, added: int, held: Row | None) -> NoReturn:
    """Raise the reason for a refused save; `held` is the stored epoch and length.

    Raises StaleEpoch, or ValueError when only the new entries do not continue the journal.
    """
    if held is None:
        raise StaleEpoch(f"saga {row.id} is not stored here any more; drop this run")
    if held[0] != epoch:
        raise StaleEpoch(
            f"saga {row.id} is held by epoch {held[0]}, this run has epoch {epoch}:"
            " another one took it over; drop this run"
        )
    if held[1] > row.length - added:
        raise StaleEpoch(f"saga {row.id} was written to by another process; drop this run")
    raise ValueError(
        f"saga {row.id}: length {row.length} with {added} new entries"
        f" does not continue the {held[1]} entries stored"
    )
