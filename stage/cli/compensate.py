"""`stage compensate`: ask a stage to undo a saga, as an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from stage.cli.failure import NEGATIVE, one_line
from stage.cli.operate import print_plan, signed

if TYPE_CHECKING:
    from stage.cli.remote import Answer
    from stage.wire.problem import Problem

OPERATOR = "operator"


@click.command()
@click.argument("saga_id", metavar="ID")
@signed
def compensate(saga_id: str, reason: str, url: str, actor: str, dry_run: bool) -> int:
    """Undo a saga here and downstream.

    A saga that was never seen is refused from then on. Exit status 0 when nothing of it stands, or
    when the stage has taken the request over and still works on it.
    """
    if dry_run:
        return print_plan(url, saga_id)
    from stage.cli.remote import exchange
    from stage.cli.sagas import checked_path
    from stage.wire import headers as h
    from stage.wire.replies import encode_compensate

    answer = exchange(
        "POST",
        url,
        f"{checked_path(saga_id)}/compensate",
        body=encode_compensate(requested_by(actor), reason),
        headers={"Content-Type": h.CONTENT_JSON},
    )
    return _show(answer, saga_id, url)


def _show(answer: Answer, saga_id: str, url: str) -> int:
    """Print what the answer says of the saga; the exit status."""
    from stage.cli.remote import refuse
    from stage.wire.outcome import Outcome
    from stage.wire.problem import decode_problem
    from stage.wire.replies import CompensateReplyKind, kind_of_compensate_reply, own_word

    problem = decode_problem(answer.body)
    match kind_of_compensate_reply(answer.status, answer.body, saga_id):
        case CompensateReplyKind.COMPENSATED:
            if own_word(answer.body, saga_id) is not Outcome.UNKNOWN:
                click.echo(f"{answer.status} compensated: nothing of saga {saga_id} stands")
                return 0
            click.echo(f"{answer.status} given up by an operator of that stage: not undone")
        case CompensateReplyKind.ACCEPTED:
            click.echo(f"{answer.status} accepted: see `stage show {saga_id} --url {url}`")
            return 0
        case CompensateReplyKind.CANNOT:
            text = problem.detail or problem.title if problem is not None else "it cannot"
            click.echo(f"{answer.status} cannot: {one_line(text)}")
        case _:
            refuse(url, answer)
    for line in _left(problem):
        click.echo(line)
    return NEGATIVE


def _left(problem: Problem | None) -> list[str]:
    """The effects that stand and those that may, a line each where there are any."""
    if problem is None:
        return []
    both = (("stands", problem.stands), ("may stand", problem.may_stand))
    return [f"{word}: {one_line(', '.join(names))}" for word, names in both if names]


def requested_by(actor: str) -> str:
    """The name under which the journal keeps an operator. No neighbour's name has a blank.

    An upstream is not notified of a request that came under its own name.
    """
    return OPERATOR if actor == OPERATOR else f"{OPERATOR} {actor}"
