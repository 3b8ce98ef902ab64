"""Draws sagas as text: tables and small trees. Pure; foreign text is made harmless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stage.cli.failure import one_line
from stage.core.advice import MEANINGS, phase_in_words, way_out
from stage.core.describe import event_in_words
from stage.core.questions import Standing
from stage.core.states import SagaState
from stage.core.sweep import SWEEP_SAGAS_MAX
from stage.wire.duration import duration
from stage.wire.elapsed import elapsed
from stage.wire.envelope import parse_instant
from stage.wire.views import (
    ActPage,
    ApprovalsView,
    GroupsView,
    GroupView,
    NowView,
    PausesView,
    PeersView,
    PeerView,
    SagaPage,
    SagaView,
    StepView,
    SweepView,
    VerbView,
)

COLUMN_CHARS_MAX = 120
REFUSALS_MAX = 3
"""Reasons that `stage top` shows; the console has more of them."""
TENTHS_BELOW = 60.0
"""Seconds below which a step's time and an instant are shown to a tenth."""
DRY_RUN_LINES_MAX = 20
"""Sagas that a dry run of a sweep lists."""
AGAIN = "give the same order again once this one is done"
"""For sagas that a sweep leaves: they are named again, and those that it purged no more."""
MARKS = {
    "not_started": "·",
    "started": "…",
    "waiting": "…",
    "in_doubt": "?",
    "pending": "…",
    "awaiting_approval": "…",
    "probing": "?",
    "succeeded": "✓",
    "refused": "✗",
    "compensating": "↩",
    "compensation_waiting": "↩",
    "compensated": "↩",
    "compensation_failed": "!",
}
"""One sign a phase; the word beside it says which of the phases with one sign it is."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them, two spaces apart."""
    lines = [list(head), *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def draw_page(page: SagaPage) -> str:
    """One line a saga, and how to get the next page."""
    if not page.sagas:
        return "no sagas"
    rows = [
        (
            saga.saga_id,
            saga.state + _parked(saga),
            saga.outcome.value,
            saga.updated_at,
            _waits_for(saga),
        )
        for saga in page.sagas
    ]
    head = ("SAGA", "STATE", "OUTCOME", "UPDATED AT", "NEXT")
    if any(saga.shows for saga in page.sagas):
        more = [(*row, _shown(saga)) for row, saga in zip(rows, page.sagas, strict=True)]
        drawn = table((*head, "SHOWN"), more)
    else:
        drawn = table(head, rows)
    return drawn + (f"\nmore: --after {_cell(page.next)}" if page.next else "")


def _waits_for(saga: SagaView) -> str:
    """Why a saga of a list stands where it does. Its row holds no exact time of what is next."""
    if saga.parked_reason or saga.next_action:
        return saga.parked_reason or saga.next_action or ""
    held = f", which is paused until {saga.paused_until}" if saga.paused_until else ""
    if saga.step:
        return f"waits at {saga.step}{f' for {saga.peer}' if saga.peer else ''}{held}"
    return "under way" if saga.next_action_at is not None else ""


def _shown(saga: SagaView) -> str:
    """The members that the author lets operators see."""
    return ", ".join(f"{name} {value}" for name, value in saga.shows.items())


def draw_now(view: NowView) -> str:
    """The figures of a stage: how it stands, then the last hour, its limits and sizes."""
    turned_at = view.oldest_compensation_at
    delayed = (
        "no" if turned_at is None else duration(parse_instant(view.at) - parse_instant(turned_at))
    )
    counts = ", ".join(f"{count} {state}" for state, count in view.sagas.items())
    head = (
        f"{view.stage} {view.release} at {view.at}:"
        f" {'ready' if view.ready else 'NOT READY'}; under way in this replica"
        f" {view.live}, in doubt there or parked so {view.in_doubt},"
        f" parked {sum(view.parked.values())}, undo delayed: {delayed}"
    )
    lines = [head, counts, *(_approvals(each, view.at) for each in view.approvals)]
    lately = view.lately
    if lately is not None:
        ratio = lately.success_ratio
        share = "none ended" if ratio is None else f"{100 * ratio:.1f} % completed"
        lines.append(f"last hour in this replica: {share}")
        lines += [
            f"{each.sagas} turned back{f' at {each.step}' if each.step else ''}: {each.reason}"
            for each in lately.refusals[:REFUSALS_MAX]
        ]
    places = [f"{each.what} {each.in_use} of {each.limit}" for each in view.places]
    sizes = [f"{part} {count / 1e6:.1f} MB" for part, count in view.database_bytes.items()]
    replicas = f"{view.replicas} {'replica' if view.replicas == 1 else 'replicas'}"
    if places:
        lines.append(f"limits of this replica: {', '.join(places)}")
    lines.append(", ".join([*sizes, replicas]))
    return "\n".join(one_line(line) for line in lines)


def _approvals(found: ApprovalsView, at: str) -> str:
    """The sagas that a person is asked about at one step, and the time there is for it."""
    now = parse_instant(at)
    line = f"{found.sagas} await approval at {found.step}"
    line += f", the oldest for {duration(now - parse_instant(found.oldest_asked_at))}"
    if found.first_ends_at is None:
        return line
    return f"{line}; silence is a no in {duration(parse_instant(found.first_ends_at) - now)}"


def draw_groups(view: GroupsView) -> str:
    """One line a group: those that wait for a person, then those that go on by themselves."""
    if not view.groups:
        return "nothing waits, and nothing is parked"
    rows = [
        (
            group.parked_cause or ("awaits_approval" if group.approval else "waits"),
            group.step or "-",
            group.peer or "-",
            group.direction,
            str(group.sagas),
            duration(group.oldest_seconds),
        )
        for group in sorted(view.groups, key=_for_nobody)
    ]
    return table(("CAUSE", "STEP", "PEER", "DIRECTION", "SAGAS", "OLDEST"), rows)


def _for_nobody(group: GroupView) -> bool:
    return group.parked_cause is None and not group.approval


def draw_peers(view: PeersView) -> str:
    """One line a peer."""
    rows = [
        (
            peer.peer,
            _health(peer),
            str(sum(group.sagas for group in peer.waiting if group.direction == "forward")),
            str(sum(group.sagas for group in peer.waiting if group.direction != "forward")),
            f"{peer.under_way}/{peer.places}" if peer.places is not None else "-",
            str(peer.queued),
            f"{peer.rate_per_second:g}/s" if peer.rate_per_second is not None else "-",
            peer.last_answer_at or "-",
            f"{peer.last_failure_at} {peer.last_failure or ''}" if peer.last_failure_at else "-",
        )
        for peer in view.peers
    ]
    head = (
        *("PEER", "IS", "FORWARD", "BACKWARD", "UNDER WAY", "QUEUED", "RATE"),
        *("LAST ANSWER", "LAST FAILURE"),
    )
    return table(head, rows) if rows else "no peers"


def _health(peer: PeerView) -> str:
    if peer.paused_until is not None:
        return f"paused until {peer.paused_until}"
    if peer.breaker_open:
        return "failing"
    return "-" if peer.last_answer_at is None and peer.last_failure_at is None else "in use"


def draw_acts(page: ActPage) -> str:
    """One line an act, and how to get the next page."""
    if not page.acts:
        return "nobody did anything"
    rows = [
        (act.at, act.actor, act.act, act.target, f"{act.before} → {act.after}", act.reason)
        for act in page.acts
    ]
    drawn = table(("AT", "ACTOR", "ACT", "TARGET", "CHANGE", "REASON"), rows)
    return drawn + (f"\nmore: --before {page.next}" if page.next else "")


def draw_pauses(view: PausesView) -> str:
    """One line a pause."""
    if not view.pauses:
        return "nothing is paused"
    rows = [
        (each.target, each.direction or "both", each.until, each.actor, each.reason)
        for each in view.pauses
    ]
    return table(("TARGET", "DIRECTION", "UNTIL", "ACTOR", "REASON"), rows)


def draw_sweeps(sweeps: Sequence[SweepView]) -> str:
    """One line a sweep."""
    if not sweeps:
        return "no sweeps"
    rows = [
        (
            "-" if each.number is None else str(each.number),
            each.verb,
            each.state,
            f"{each.done + each.refused}/{each.sagas}",
            str(each.refused),
            each.actor,
            each.reason,
            each.where,
        )
        for each in sweeps
    ]
    head = ("SWEEP", "VERB", "STATE", "THROUGH", "REFUSED", "ACTOR", "REASON", "SAGAS")
    return table(head, rows)


def draw_sweep(sweep: SweepView) -> str:
    """One sweep, and the sagas that it would be for, or could not act on."""
    left = [f"{sweep.left:,}{_or_more(sweep.left)} are left: {AGAIN}"] if sweep.left else []
    if sweep.number is None:
        ids = [f"  {_cell(saga_id)}" for saga_id in sweep.first[:DRY_RUN_LINES_MAX]]
        more = len(sweep.first) - len(ids)
        rest = [f"  and {sweep.sagas - len(ids)} more"] if more > 0 else []
        return "\n".join([f"{sweep.verb} would be done to {sweep.sagas} sagas", *ids, *rest, *left])
    refused = [f"  {_cell(each.saga_id)}: {_cell(each.detail)}" for each in sweep.first_refused]
    shown = [draw_sweeps([sweep]), *(["refused", *refused] if refused else []), *left]
    return "\n".join(shown)


def _or_more(left: int) -> str:
    return " or more" if left >= SWEEP_SAGAS_MAX else ""


def draw_saga(
    saga: SagaView,
    entries: Sequence[Mapping[str, Any]],
    *,
    now: float,
    verbs: Sequence[VerbView] = (),
) -> str:
    """Everything that an operator needs to know of one saga."""
    lines = [f"saga {_cell(saga.saga_id)} at {_cell(saga.stage)}: {_state(saga)}"]
    about = [
        ("trace", saga.trace_id),
        ("version", str(saga.version)),
        ("accepted", saga.accepted_at),
        ("updated", f"{saga.updated_at}{_ago(saga.updated_at, now)}"),
        ("deadline", _deadline(saga, now)),
        ("run", str(saga.epoch) if saga.epoch else None),
        ("asked by", saga.requested_by),
        ("reason", saga.reason),
        ("shown", _shown(saga)),
        (
            "upstream",
            f"notified to compensate: {saga.told_upstream}" if saga.told_upstream else None,
        ),
    ]
    lines += [f"  {name:<9} {_cell(value)}" for name, value in about if value]
    lines.append("steps")
    lines += _steps(saga, entries, now)
    lines += _standing(saga)
    lines.append("next")
    lines.append("  " + _next(saga, now))
    if saga.parked and (act := way_out(saga.parked_cause, saga.standing)):
        lines.append(f"  way out: {act}")
    if verbs:
        lines.append("may be done")
        lines += _verbs(verbs)
    if entries:
        lines.append("history")
        lines += _history(entries)
    return "\n".join(lines)


def _standing(saga: SagaView) -> list[str]:
    """Three different things: effects that stand, that may stand, and of which nothing is known."""
    if saga.standing == Standing.UNKNOWN:
        lines = ["stands", "  unknown: the journal was dropped, or is of another version"]
        journaled = [*saga.stands, *saga.may_stand]
        return lines + ([f"  as journaled: {_cell(', '.join(journaled))}"] if journaled else [])
    nothing = "nothing is known to" if saga.may_stand else "nothing that should not"
    lines = ["stands", "  " + (_cell(", ".join(saga.stands)) or nothing)]
    if saga.may_stand:
        lines += ["may stand", "  " + _cell(", ".join(saga.may_stand))]
    return lines


def _state(saga: SagaView) -> str:
    why = f": {_cell(saga.parked_reason or '')}" if saga.parked else ""
    return f"{_cell(saga.state)} ({saga.outcome.value}){_cell(_parked(saga))}{why}"


def _parked(saga: SagaView) -> str:
    if not saga.parked:
        return ""
    return f", parked ({saga.parked_cause})" if saga.parked_cause else ", parked"


def _verbs(verbs: Sequence[VerbView]) -> list[str]:
    """The verbs that are allowed, then the others with the reason."""
    lines = []
    for each in sorted(verbs, key=lambda each: each.why_not is not None):
        if each.why_not is not None:
            lines.append(f"  not {_cell(each.verb)}: {one_line(each.why_not)}")
        else:
            anew = "--anew " if each.verb == "retry" else ""
            steps = f" ({anew}--step {_cell(', '.join(each.steps))})" if each.steps else ""
            meaning = MEANINGS.get(each.verb, "")
            lines.append(f"  {_cell(each.verb)}{steps}{f': {meaning}' if meaning else ''}")
    return lines


def _elapsed(step: StepView, entries: Sequence[Mapping[str, Any]], now: float) -> str:
    passed = elapsed(step, entries, now)
    return "" if passed is None else f"  {_span(passed)}"


def _deadline(saga: SagaView, now: float) -> str | None:
    """The deadline of a saga that goes forward: no other one is cut by it."""
    if saga.deadline is None or saga.state != SagaState.ACTIVE:
        return None
    at = _instant(saga.deadline)
    if at is not None and at <= now:
        return f"{saga.deadline} (passed)"
    return f"{saga.deadline}{_in(saga.deadline, now)}"


def _steps(saga: SagaView, entries: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    steps = saga.steps
    if not steps:
        return ["  none was started"]
    width = max(len(_named(step)) for step in steps)
    lines = []
    for number, step in enumerate(steps, start=1):
        branch = "└─" if number == len(steps) else "├─"
        tries = [f"{step.attempts} {'attempt' if step.attempts == 1 else 'attempts'}"]
        if step.compensation_attempts:
            tries.append(f"{step.compensation_attempts} to compensate")
        counts = f"  {', '.join(tries)}" if step.attempts or step.compensation_attempts else ""
        error = f"  last error: {_cell(step.last_error)}" if step.last_error else ""
        key = f"  key {_cell(step.key)}" if step.key and step.attempts else ""
        phase = phase_in_words(saga.state, step.phase, step.standing)
        mark = MARKS.get(phase, "·")
        passed = "" if phase != step.phase else _elapsed(step, entries, now)
        lines.append(
            f"  {branch} {mark} {_named(step):<{width}}  {_cell(step.kind):<11}"
            f"  {_cell(phase)}{counts}{error}{passed}{key}"
        )
    return lines


def _named(step: StepView) -> str:
    return _cell(step.name) + (" (pivot)" if step.pivot else "")


def _next(saga: SagaView, now: float) -> str:
    if saga.next_action is None:
        return "nothing: it is over" if saga.next_action_at is None else _when(saga, now).strip()
    return one_line(saga.next_action) + _when(saga, now)


def _when(saga: SagaView, now: float) -> str:
    if saga.next_action_at is None:
        return ""
    return f" at {_cell(saga.next_action_at)}{_in(saga.next_action_at, now)}"


def _history(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    first = _instant(entries[0].get("at"))
    lines = []
    for number, entry in enumerate(entries, start=1):
        branch = "└─" if number == len(entries) else "├─"
        at = _instant(entry.get("at"))
        after = f"{at - first:+9.3f} s" if at is not None and first is not None else " " * 11
        words = event_in_words(str(entry.get("event", "?")), entry)
        lines.append(f"  {branch} {after}  {_cell(words)}")
    return lines


def _instant(text: object) -> float | None:
    try:
        return parse_instant(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _ago(text: str, now: float) -> str:
    at = _instant(text)
    return "" if at is None else f" ({_span(now - at)} ago)"


def _in(text: str, now: float) -> str:
    at = _instant(text)
    if at is None:
        return ""
    return f" (in {_span(at - now)})" if at > now else " (due now)"


def _span(seconds: float) -> str:
    """A duration; a short one to a tenth of a second."""
    return f"{max(seconds, 0.0):.1f} s" if seconds < TENTHS_BELOW else duration(seconds)


def _cell(text: str) -> str:
    plain = one_line(text)
    return plain if len(plain) <= COLUMN_CHARS_MAX else plain[: COLUMN_CHARS_MAX - 3] + "..."
