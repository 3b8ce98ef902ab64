"""Sends an operator's order under an idempotency key: given twice, it is done once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import click

from stage.cli.failure import NEGATIVE, Failure, one_line
from stage.cli.remote import Answer, exchange, keep_option

F = TypeVar("F", bound=Callable[..., Any])

ACT_KEY = "stage.act_key"
"""A key of click's context."""
TRIES = 3
"""How often an order is given whose answer is lost."""
PAUSE_SECONDS = 0.5
AWAY = 503


def key_option(function: F) -> F:
    """Add `--key`, which `give` reads for itself."""
    return click.option(
        "--key",
        metavar="KEY",
        expose_value=False,
        callback=partial(keep_option, ACT_KEY),
        help="The idempotency key: repeats an order whose answer was lost. By default a new one.",
    )(function)


def given_key() -> str | None:
    """The key of `--key`; None without it."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(ACT_KEY)


def give(url: str, path: str, order: Mapping[str, Any], seconds_max: float | None = None) -> Answer:
    """POST an order to `url` + `path`, again where its answer is lost, or says that nobody knows.

    Raises Failure: NEGATIVE, with the key, where nobody knows what it did.
    """
    from uuid import uuid4

    import msgspec

    from stage.wire import headers as h

    key = given_key() or str(uuid4())
    headers = {"Content-Type": h.CONTENT_JSON, h.IDEMPOTENCY_KEY: key}
    lost = False
    for last in (*(False,) * (TRIES - 1), True):
        try:
            body = msgspec.json.encode(order)
            answer = exchange(
                "POST", url, path, body=body, headers=headers, seconds_max=seconds_max
            )
            if not (unknown := _in_doubt(answer)):
                return answer
            raise Failure(one_line(unknown), NEGATIVE)
        except Failure as error:
            lost = lost or error.status == NEGATIVE
            if not lost:
                raise
            if last:
                raise Failure(
                    f"{error}: give the same order with --key {key}, which is done once at most",
                    NEGATIVE,
                ) from error
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("the last try returns or raises")


def _in_doubt(answer: Answer) -> str:
    """The words of an answer after which an order may have been done, or not; empty for others."""
    from stage.wire.outcome import Outcome
    from stage.wire.problem import decode_problem

    problem = decode_problem(answer.body) if answer.status == AWAY else None
    if problem is None or problem.outcome is not Outcome.UNKNOWN:
        return ""
    return problem.detail or problem.title
