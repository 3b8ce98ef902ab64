"""The headers: each has one reading, and what has none is refused or left alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage.wire.headers import (
    BUDGET_SECONDS_MAX,
    PREFER_CHARS_MAX,
    WAIT_SECONDS_MAX,
    Prefer,
    check_content_type,
    check_idempotency_key,
    parse_act_key,
    parse_budget_ms,
    parse_prefer,
)
from stage.wire.problem import WireError


@pytest.mark.parametrize(
    "value, encoding",
    [
        ("application/json", None),
        ("application/json", ""),
        ("application/json", "identity"),
        ("application/json", "Identity"),
        ("Application/JSON", None),
        ("application/json; charset=utf-8", None),
        ("application/json;charset=UTF-8", None),
        ('application/json ; charset="utf-8"', None),
        ("application/json; v=1", None),
        ("application/json;", None),
    ],
)
def test_json_in_utf_8_is_accepted(value: str, encoding: str | None) -> None:
    """Case, spaces and foreign parameters do not matter."""
    check_content_type(value, encoding)


@pytest.mark.parametrize(
    "value, encoding",
    [
        (None, None),
        ("", None),
        ("text/plain", None),
        ("text/json", None),
        ("application/json+x", None),
        ("application/problem+json", None),
        ("application/jsonx", None),
        ("multipart/form-data", None),
        ("application/json, application/json", None),
        ("application/json; charset=latin-1", None),
        ("application/json; charset=utf-16", None),
        ("application/json; charset=", None),
        ("application/json; charset=utf-8; charset=utf-16", None),
        ("application/json", "gzip"),
        ("application/json", "identity, gzip"),
        ("application/json", "br"),
    ],
)
def test_anything_else_is_415(value: str | None, encoding: str | None) -> None:
    """Another type, another charset, or an encoding that nobody asked for."""
    with pytest.raises(WireError) as caught:
        check_content_type(value, encoding)

    assert 415 == caught.value.status
    assert caught.value.detail and caught.value.hint


@pytest.mark.parametrize(
    "value, encoding, title, detail, hint",
    [
        ("application/json", "gzip", "Encoding", 'Content-Encoding is "gzip"', "without"),
        ("text/plain", None, "Content type", 'Content-Type is "text/plain"', "application/json"),
        (None, None, "Content type", "Content-Type is missing", "application/json"),
        ("application/json;charset=x", None, "Charset", 'the charset is "x"', "UTF-8"),
    ],
)
def test_a_body_of_another_type_is_refused_with_the_fix(
    value: str | None, encoding: str | None, title: str, detail: str, hint: str
) -> None:
    """The refusal says what was sent, and what is to be sent in its place."""
    with pytest.raises(WireError) as caught:
        check_content_type(value, encoding)

    assert f"{title} not accepted" == caught.value.title
    assert detail == caught.value.detail
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "values, seconds",
    [
        ([], None),
        (["0"], 0.0),
        (["1500"], 1.5),
        ([" 20 "], 0.02),
        (["007"], 0.007),
        (["999999999999999"], BUDGET_SECONDS_MAX),
    ],
)
def test_a_budget_is_read_in_seconds(values: list[str], seconds: float | None) -> None:
    """Whole milliseconds, cut to a week."""
    assert seconds == parse_budget_ms(values)


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ["-1"],
        ["+1"],
        ["1.5"],
        ["1e3"],
        ["1_000"],
        ["1,2"],
        ["٣"],
        ["²"],
        ["1" * 16],
        ["1", "1"],
    ],
)
def test_a_budget_that_is_no_number_is_400(values: list[str]) -> None:
    """Signs, fractions, foreign digits, too many digits, and two headers."""
    with pytest.raises(WireError) as caught:
        parse_budget_ms(values)

    assert 400 == caught.value.status
    assert "Saga-Budget-Ms" in caught.value.detail and caught.value.hint
    twice = len(values) > 1
    assert ("Header sent twice" if twice else "Budget not understood") == caught.value.title


@pytest.mark.parametrize(
    "values, wait, respond_async",
    [
        ([], None, False),
        (["wait=20"], 20.0, False),
        (["respond-async"], None, True),
        (["respond-async, wait=10"], 10.0, True),
        (["respond-async", "wait=10"], 10.0, True),
        (["Respond-Async; x=y , WAIT = 5 ; a=b;c"], 5.0, True),
        (['wait="7"'], 7.0, False),
        (['foo="a, wait=3", wait=4'], 4.0, False),
        (["wait=3, wait=4"], 3.0, False),
        (["wait=x, wait=4"], None, False),
        (["wait=0"], 0.0, False),
        (["wait=86400"], WAIT_SECONDS_MAX, False),
        (["wait=-1"], None, False),
        (["wait=1.5"], None, False),
        (["wait"], None, False),
        (["respond-async=no"], None, False),
        (['respond-async=""'], None, True),
        (["return=minimal"], None, False),
        ([',,"; wait'], None, False),
        (["respond-async" + "," * (PREFER_CHARS_MAX - 13)], None, True),
        (["respond-async" + "," * (PREFER_CHARS_MAX - 12)], None, False),
    ],
)
def test_preferences_are_read(values: list[str], wait: float | None, respond_async: bool) -> None:
    """The first of a name holds; what is unknown, malformed or too long is ignored."""
    assert Prefer(wait=wait, respond_async=respond_async) == parse_prefer(values)


def test_a_caller_without_preferences_waits() -> None:
    """As long as the stage lets it: neither a time nor a 202 at once was asked for."""
    assert Prefer(wait=None, respond_async=False) == Prefer() == parse_prefer([])


@given(
    st.lists(st.text(max_size=40) | st.text('wait=0, ;"\\respond-async', max_size=60), max_size=3)
)
def test_a_preference_never_raises(values: list[str]) -> None:
    """A preference may be ignored; a request does not fail for it."""
    prefer = parse_prefer(values)

    assert prefer.wait is None or 0.0 <= prefer.wait <= WAIT_SECONDS_MAX


@pytest.mark.parametrize("unit", ['"', '\\"', " ", "a ", "a= ", '"\\'])
def test_a_hostile_preference_costs_little(unit: str) -> None:
    """No text makes the reading slow: quadratic, one of them took 10 ms."""
    took: list[float] = []
    for _ in range(20):
        began = time.process_time()
        parse_prefer([(unit * PREFER_CHARS_MAX)[:PREFER_CHARS_MAX]])
        took.append(time.process_time() - began)
    assert 0.003 > min(took)  # of the others some share their processor, or collect garbage


@pytest.mark.parametrize("values", [[], ["s-1"], ['"s-1"'], [" s-1 "], ["s-1", '"s-1"']])
def test_a_key_that_is_the_saga_id_is_accepted(values: list[str]) -> None:
    """Left out, plain, or as a quoted string."""
    check_idempotency_key(values, "s-1")


@pytest.mark.parametrize("values", [[""], ["s-2"], ['"s-2"'], ['"s-1'], ["S-1"], ["s-1", "s-2"]])
def test_another_key_is_422(values: list[str]) -> None:
    """Nobody can tell which of the two names the saga."""
    with pytest.raises(WireError) as caught:
        check_idempotency_key(values, "s-1")

    assert 422 == caught.value.status
    assert "Idempotency-Key" in caught.value.detail and caught.value.hint


@pytest.mark.parametrize(
    "values, key",
    [
        ([], None),
        (["order-1"], "order-1"),
        ([" order-1\t"], "order-1"),
        (['"order-1"'], "order-1"),
        (["a"], "a"),
        (["k" * 255], "k" * 255),
        (['"' + "k" * 255 + '"'], "k" * 255),
    ],
)
def test_the_key_of_an_order_is_plain_or_quoted(values: list[str], key: str | None) -> None:
    """RFC 8941, 3.3.3, and what clients send."""
    assert key == parse_act_key(values)


@pytest.mark.parametrize(
    "values",
    [[""], ['""'], ['"'], ['"a'], ["a b"], ["é"], ["a\\b"], ["k" * 256], ["a", "a"], ["a", "b"]],
)
def test_another_key_of_an_order_is_400(values: list[str]) -> None:
    """None, half a quoted string, characters that need an escape, too long, two of them."""
    with pytest.raises(WireError) as caught:
        parse_act_key(values)

    assert 400 == caught.value.status
    assert "Idempotency-Key" in caught.value.detail and caught.value.hint
