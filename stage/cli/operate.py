"""The operator's verbs: `stage retry|approve|reject|settle|resolve|abandon|forget`; `plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stage.cli.failure import NEGATIVE, Failure, one_line
from stage.cli.given import GIVEN
from stage.cli.orders import give, given_key, key_option
from stage.cli.remote import url_option
from stage.cli.where import refuse_unknown
from stage.core.states import Phase, SagaState, StepKind, Tell

if TYPE_CHECKING:
    from stage.wire.views import SagaView, StepView, VerbView

F = TypeVar("F", bound=Callable[..., Any])

UNFINISHED = tuple(state for state in SagaState if state is not SagaState.COMPLETED)
"""States in which something may wait for a peer. A compensated saga may have to notify upstream."""
WAITING = frozenset(
    {
        Phase.WAITING,
        Phase.IN_DOUBT,
        Phase.PENDING,
        Phase.COMPENSATION_WAITING,
        Phase.COMPENSATION_FAILED,
    }
)
"""Phases in which a step waits for its peer."""
PAGE = 200


def signed(function: F) -> F:
    """Add the options of every verb: the actor, the reason, and the dry run."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Say what would follow; change nothing."),
        click.option("--actor", envvar="USER", default="operator", show_default=True,
                     help="The person who asks; kept with the saga."),
        click.option("--reason", required=True, metavar="TEXT", help="Why; kept with the saga."),
        url_option,
    ):  # fmt: skip
        function = option(function)
    return function


def audited(function: F) -> F:
    """Add the options of every order that is done once under a key."""
    return key_option(signed(function))


@click.command(short_help="Try again now what waits, is parked or has failed for good.")
@click.argument("saga_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help="Every saga that waits for --peer.")
@click.option(
    "--peer", type=GIVEN, metavar="NAME", help="The external API or neighbour that came back."
)
@click.option("--anew", is_flag=True, help="Let today's code make the request of an undo again.")
@click.option("--new-key", is_flag=True, help="With --anew: under a new idempotency key.")
@click.option("--step", type=GIVEN, metavar="NAME", help="With --anew: of this step alone.")
@audited
def retry(saga_id: str | None, every: bool, peer: str | None, url: str, **given: Any) -> int:
    """Try again now; used attempts are forgiven. Give ID, or --all --peer NAME.

    A repeat sends the request that was stored. After a mend of its code, --anew sends the one that
    today's code makes. --new-key is for an API that answers a known key with its old error: first
    make sure that the undo has not landed, because the API takes the new key for another request.
    """
    order = {name: value for name, value in given.items() if value or name == "dry_run"}
    if not given["anew"] and (given["new_key"] or given["step"]):
        raise Failure("--new-key and --step belong to --anew: add it, or leave them out")
    if saga_id is not None and not every:
        return operate(url, saga_id, "retry", order)
    if saga_id is not None or peer is None or not every:
        raise Failure("give a saga ID, or --all --peer NAME")
    if given_key() is not None:
        raise Failure("--key belongs to one order: give it with a saga ID")
    refused = 0
    count = 0
    for waiting in _waiting_for(url, peer):
        count += 1
        try:
            operate(url, waiting, "retry", order, alone=False)
        except Failure as error:
            if error.status != NEGATIVE:
                raise
            refused += 1
            click.echo(f"{waiting}: {error}")
    if not count:
        refuse_unknown(url, [peer])
    waited, are = ("wait", "would be") if given["dry_run"] else ("waited", "are")
    click.echo(f"{count} sagas {waited} for {peer}, {count - refused} {are} tried again")
    return NEGATIVE if refused else 0


@click.command(short_help="Say yes to a step that awaits approval.")
@click.argument("saga_id", metavar="ID")
@click.option("--step", required=True, metavar="NAME", help="The approval that you looked at.")
@audited
def approve(saga_id: str, step: str, url: str, reason: str, actor: str, dry_run: bool) -> int:
    """Approve the step: the saga goes on. `stage approvals` shows what waits."""
    order = {"actor": actor, "reason": reason, "dry_run": dry_run, "step": step}
    return operate(url, saga_id, "approve", order)


@click.command(short_help="Say no to a step that awaits approval: the saga turns back.")
@click.argument("saga_id", metavar="ID")
@click.option("--step", required=True, metavar="NAME", help="The approval that you looked at.")
@audited
def reject(saga_id: str, step: str, url: str, reason: str, actor: str, dry_run: bool) -> int:
    """Reject the step: the saga turns back, and all that it did is undone."""
    order = {"actor": actor, "reason": reason, "dry_run": dry_run, "step": step}
    return operate(url, saga_id, "reject", order)


@click.command(short_help="Show what waits for a person's approval.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many.")
@url_option
def approvals(limit: int, url: str) -> int:
    """List the sagas that wait for an approval, each with what its author shows for it."""
    from itertools import islice

    import msgspec

    count = 0
    for listed, step, choice in islice(_awaiting_approval(url), limit):
        count += 1
        shown = choice.why_not or msgspec.json.encode(choice.shown).decode()
        line = f"{listed.saga_id}  {step}  until {listed.next_action_at}  {shown}"
        click.echo(one_line(line))  # what is shown may be the words of a stranger
    if not count:
        click.echo("nothing waits for an approval")
    return 0


class Claim(click.Option):
    """A claim and its contrary: where it is missing both are named, so that none is proposed."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """See click.Parameter."""
        return "'--landed' with --result JSON, or '--not-landed'"


@click.command(short_help="Say whether an in-doubt step landed.")
@click.argument("saga_id", metavar="ID")
@click.option("--step", required=True, metavar="NAME", help="The step in doubt.")
@click.option(
    "--landed/--not-landed", cls=Claim, required=True, help="What you found out at the API."
)
@click.option("--result", metavar="JSON", help="What the step would have returned.")
@audited
def settle(
    saga_id: str, step: str, landed: bool, result: str | None, url: str, reason: str, actor: str,
    dry_run: bool,
) -> int:  # fmt: skip
    """Settle the doubt about a step by hand, after you have asked the API yourself."""
    import msgspec

    if result is not None and not landed:
        raise Failure("what has not landed has no result: leave out --result, or say --landed")
    try:
        value = None if result is None else msgspec.json.decode(result)
    except msgspec.DecodeError as error:
        raise Failure(f"option --result is not JSON: {error}") from None
    order = {"actor": actor, "reason": reason, "dry_run": dry_run, "step": step, "landed": landed}
    return operate(url, saga_id, "settle", {**order, "result": value})


@click.command(short_help="Say that you undid by hand what could not be undone.")
@click.argument("saga_id", metavar="ID")
@click.option("--step", type=GIVEN, metavar="NAME", help="One step; without it all that failed.")
@audited
def resolve(saga_id: str, step: str | None, url: str, **order: Any) -> int:
    """Count what failed to be undone as undone, because you did it by hand."""
    return operate(url, saga_id, "resolve", order if step is None else {**order, "step": step})


@click.command(short_help="Give up undoing: it ends with what stands, and upstream is told.")
@click.argument("saga_id", metavar="ID")
@click.option("--step", type=GIVEN, metavar="NAME", help="One step; without it all that is left.")
@audited
def abandon(saga_id: str, step: str | None, url: str, **order: Any) -> int:
    """End a saga that cannot be undone: its peer, or the version that knows how, is gone for good.

    The effects that stand are reported, here and upstream. With --step the other steps are still
    undone.
    """
    return operate(url, saga_id, "abandon", order if step is None else {**order, "step": step})


@click.command(short_help="Give a saga up: what stands stays, a tombstone remains.")
@click.argument("saga_id", metavar="ID")
@audited
def forget(saga_id: str, url: str, reason: str, actor: str, dry_run: bool) -> int:
    """Give a parked or ended saga up. Nothing more is ever done for it."""
    return operate(url, saga_id, "forget", {"actor": actor, "reason": reason, "dry_run": dry_run})


@click.command(short_help="Show what a compensation would do now.")
@click.argument("saga_id", metavar="ID")
@url_option
def plan(saga_id: str, url: str) -> int:
    """Show what a compensation would do, last step first."""
    return print_plan(url, saga_id)


def print_plan(url: str, saga_id: str) -> int:
    """Print what a compensation would do now."""
    import msgspec

    from stage.cli.draw import table
    from stage.cli.remote import exchange, refuse
    from stage.cli.sagas import checked_path
    from stage.core.advice import NOBODY_KNOWS, PROSPECTS

    answer = exchange("GET", url, f"{checked_path(saga_id)}?view=plan")
    if answer.status != 200:
        refuse(url, answer)
    plan = msgspec.json.decode(answer.body)
    click.echo(f"saga {plan['saga_id']} at {plan['stage']} is {plan['state']}")
    rows = [
        (
            line["step"],
            line["kind"],
            line["peer"] or "-",
            line.get("standing", "-").replace("_", " "),
            PROSPECTS[line["prospect"]],
        )
        for line in plan["steps"]
    ]
    if rows and plan.get("standing") == "unknown":
        click.echo("no version of the stage that runs there knows how to undo it; as journaled:")
    nothing = "nothing stands" if plan.get("standing") != "unknown" else NOBODY_KNOWS
    click.echo(table(("STEP", "KIND", "PEER", "NOW", "WOULD BE"), rows) if rows else nothing)
    return 0


def operate(url: str, saga_id: str, verb: str, order: dict[str, Any], *, alone: bool = True) -> int:
    """Send a verb for one saga, and print how it stands or would stand.

    A dry run that is `alone` prints which steps would change and what the verb states besides.
    """
    from stage.cli.remote import LONG_SECONDS_MAX, fetch, refuse
    from stage.cli.sagas import checked_path
    from stage.wire.views import SagaView, decode_view

    path = checked_path(saga_id)
    before = fetch(url, path, SagaView) if alone and order["dry_run"] else None
    seconds_max = LONG_SECONDS_MAX if verb == "erase" else None
    answer = give(url, f"{path}/{verb}", order, seconds_max)
    if answer.status != 200:
        refuse(url, answer)
    saga = decode_view(answer.body, SagaView)
    would = "would be" if order["dry_run"] else "is"
    click.echo(f"{verb}: saga {saga.saga_id} {would} {saga.state}; next: {_next(saga)}")
    if before is not None:
        from stage.core.advice import MEANINGS

        for line in _would_change(before, saga):
            click.echo(line)
        click.echo(f"nothing was changed: {verb} {MEANINGS[verb]}")
    return 0


def _would_change(before: SagaView, saga: SagaView) -> Iterator[str]:
    """A line for each step that a verb would change."""
    phases = {step.name: step.phase for step in before.steps}
    for step in saga.steps:
        if (now := phases.get(step.name)) is not None and now != step.phase:
            at = f" at {step.peer}" if step.peer else ""
            yield "  " + one_line(f"{step.name}{at} is {now}, and would be {step.phase}")


def _next(saga: SagaView) -> str:
    return saga.next_action or "nothing, it is over"


def _awaiting_approval(url: str) -> Iterator[tuple[SagaView, str, VerbView]]:
    """The sagas that await approval, each with its step and the verb that decides it.

    The verb has what is shown for the step, or why this caller may not decide it.
    """
    from stage.cli.remote import fetch
    from stage.cli.sagas import checked_path
    from stage.wire.views import SagaView, VerbsView

    for listed in _listed(url, [SagaState.ACTIVE]):
        if listed.parked or listed.step is None or listed.peer is not None:
            continue  # an approval is a place without a peer
        path = checked_path(listed.saga_id)
        saga = fetch(url, path, SagaView)
        asking = [each.name for each in saga.steps if each.phase == Phase.AWAITING_APPROVAL]
        if not asking:
            continue
        for choice in fetch(url, f"{path}?view=verbs", VerbsView).verbs:
            if choice.verb == "approve" and (choice.steps or choice.why_not):
                yield saga, asking[0], choice


def _listed(url: str, states: Iterable[SagaState]) -> Iterator[SagaView]:
    """The sagas in those states, page by page."""
    from urllib.parse import urlencode

    from stage.cli.remote import fetch
    from stage.wire.views import SagaPage

    after = ""
    while True:
        query = [("limit", str(PAGE)), ("after", after), *(("state", s) for s in states)]
        page = fetch(url, f"/sagas?{urlencode(query)}", SagaPage)
        yield from page.sagas
        if page.next is None:
            return
        after = page.next


def _waiting_for(url: str, peer: str) -> Iterator[str]:
    """Ids of the sagas in which something waits for that peer."""
    from stage.cli.remote import fetch
    from stage.cli.sagas import checked_path
    from stage.wire.views import SagaView

    for listed in _listed(url, UNFINISHED):
        if listed.parked or listed.next_action_at is not None:
            saga = fetch(url, checked_path(listed.saga_id), SagaView)
            if _waits_for(saga, peer):
                yield listed.saga_id


def _waits_for(saga: SagaView, peer: str) -> bool:
    """Whether something of it waits for that peer: `psp`, or by its kind too, `externals.psp`."""
    from stage.core.place import UPSTREAMS

    told = saga.told_upstream in (Tell.DUE, Tell.REFUSED)
    if told and peer in (saga.upstream, f"{UPSTREAMS}.{saga.upstream}"):
        return True
    return any(
        step.phase in WAITING and step.peer and peer in (step.peer, f"{_kind(step)}.{step.peer}")
        for step in saga.steps
    )


def _kind(step: StepView) -> str:
    """The kind of the peer of a step, as `stage groups` shows it; empty for one of no kind."""
    from stage.core.place import PEER_KINDS

    return PEER_KINDS.get(StepKind(step.kind), "") if step.kind in set(StepKind) else ""
