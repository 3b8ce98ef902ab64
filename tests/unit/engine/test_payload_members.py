"""Members of a payload that are read for people: numbers to find a saga by, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.engine.saga.context import Context, buried, context_with
from stage.engine.saga.shown import SHOWN_CHARS_MAX, shown_in
from stage.engine.saga.terms import TERM_CHARS_MAX, member_at, terms_of
from stage.engine.saga.words import as_they_are, readable
from stage.ports.observer import TraceContext
from stage.ports.store import TRACE_TERM, Term
from stage.wire.envelope import Envelope

DATA: dict[str, Any] = {
    "order": "o-1",
    "customer": {"number": 17, "vip": True, "name": "Kim"},
    "amount": 1.5,
    "items": [1, 2],
    "note": None,
    "empty": "",
}
TRACED = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")


def context(data: dict[str, Any], trace: TraceContext = TRACED) -> Context:
    return context_with(Envelope(saga_id="s-1", data=data), b"{}", "", trace)


@pytest.mark.parametrize(
    "path, value",
    [
        ("order", "o-1"),
        ("customer.number", 17),
        ("customer.none", None),
        ("none", None),
        ("none.number", None),
        ("order.number", None),
        ("items.0", None),
        ("customer.name.first", None),
    ],
)
def test_a_path_leads_to_a_member_or_to_nothing(path: str, value: Any) -> None:
    """A payload may have any form: none of them is a defect."""
    assert value == member_at(DATA, path)


def test_a_saga_is_found_by_the_numbers_in_its_payload_and_by_its_trace() -> None:
    """By texts and whole numbers; nobody types the others."""
    indexed = {
        "order": "order",
        "customer": "customer.number",
        "vip": "customer.vip",
        "amount": "amount",
        "items": "items",
        "note": "note",
        "empty": "empty",
        "none": "no.such.member",
    }
    found = terms_of(context(DATA), indexed)
    assert [Term("order", "o-1"), Term("customer", "17"), Term(TRACE_TERM, "a" * 32)] == found


def test_a_text_that_nobody_would_type_is_no_number() -> None:
    """At the limit it still is one."""
    longest = "x" * TERM_CHARS_MAX
    untraced = TraceContext()
    assert [Term("order", longest)] == terms_of(
        context({"order": longest}, untraced), {"order": "order"}
    )
    assert [] == terms_of(context({"order": longest + "x"}, untraced), {"order": "order"})


def test_a_stage_that_indexes_nothing_finds_sagas_by_their_ids_alone() -> None:
    """And a tombstone has no payload to be found by."""
    assert [] == terms_of(context(DATA), None)
    assert [Term(TRACE_TERM, "a" * 32)] == terms_of(context(DATA), {})
    assert [] == terms_of(buried(TRACED), {"order": "order"})


def test_operators_see_the_scalars_that_the_author_declared() -> None:
    """Rule 38: under the names of the author, and no whole object or list."""
    shows = {
        "Order": "order",
        "Customer": "customer.number",
        "VIP": "customer.vip",
        "Amount": "amount",
        "All": "customer",
        "Items": "items",
        "Note": "note",
    }
    assert {"Order": "o-1", "Customer": 17, "VIP": True, "Amount": 1.5} == shown_in(
        DATA, shows, as_they_are
    )


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_has_no_json_is_not_shown(number: float) -> None:
    assert {} == shown_in({"amount": number}, {"Amount": "amount"}, as_they_are)


def test_a_long_text_is_cut_and_redacted() -> None:
    """Redacted first: a number that is cut in half is not found by its pattern."""
    card = "4111111111111111"
    text = "x" * (SHOWN_CHARS_MAX - 4) + card

    def redact(words: str) -> str:
        return words.replace(card, "[card]")

    found = shown_in({"note": text}, {"Note": "note"}, redact)
    assert {"Note": ("x" * (SHOWN_CHARS_MAX - 4) + "[card]")[:SHOWN_CHARS_MAX]} == found


def broken(text: str) -> str:
    raise LookupError(text)


def silent(text: str) -> str:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    "redact, shown",
    [
        (as_they_are, "card 4111"),
        (str.upper, "CARD 4111"),
        (broken, "withheld: redact raised LookupError"),
        (silent, "withheld: redact returned NoneType"),
    ],
)
def test_words_that_the_author_cannot_redact_are_withheld(redact: Any, shown: str) -> None:
    """Neither an exception nor its text shows them after all."""
    assert shown == readable(redact, "card 4111")


def test_words_are_kept_so_that_they_can_be_sent() -> None:
    """A lone surrogate, out of a foreign error text, has no UTF-8."""
    assert readable(as_they_are, "caf\udce9").encode()


def test_the_data_of_a_context_without_an_envelope_has_no_members() -> None:
    bare = replace(context(DATA), envelope=None)
    assert [] == terms_of(bare, {"order": "order"})
