"""Strict JSON: one reading or none, and each refusal says which."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stage.wire import strict_json
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.strict_json import decode_object, encode_object, is_plain, quoted
from tests.unit.wire.corpus import GOOD_OBJECTS, LARGE, NOT_STRICT_JSON
from tests.unit.wire.refusals import refusal_of
from tests.unit.wire.strategies import bodies, objects


@pytest.mark.parametrize(
    "body, status, title", NOT_STRICT_JSON, ids=[str(case[0][:24]) for case in NOT_STRICT_JSON]
)
def test_a_malformed_body_is_refused(body: bytes, status: int, title: str) -> None:
    """Each defect has its own code and title, and says that nothing was executed."""
    with pytest.raises(WireError) as caught:
        decode_object(body)

    assert (status, title) == (caught.value.status, caught.value.title)
    assert Outcome.NOT_EXECUTED is caught.value.outcome
    assert not caught.value.retryable
    assert caught.value.detail and caught.value.hint  # it says what is wrong, and the fix
    assert len(caught.value.problem().encode()) < 1_000


@pytest.mark.parametrize("body, value", GOOD_OBJECTS, ids=[str(case[0]) for case in GOOD_OBJECTS])
def test_a_good_object_is_read(body: bytes, value: dict[str, object]) -> None:
    """Spaces, pairs of surrogates, the largest numbers, and colons in strings are all fine."""
    assert value == decode_object(body)


def test_a_limit_is_the_last_that_is_taken() -> None:
    """Body, depth and strings of exactly the limit are read."""
    limits = Limits(body_bytes_max=20, depth_max=3, string_chars_max=5)

    assert {"a": "12345"} == decode_object(b'{"a":"12345"       }', limits)
    assert {"a": [[]]} == decode_object(b'{"a":[[]]}', limits)
    for body, status in (
        (b'{"a":"123456"}', 422),
        (b'{"a":[[[]]]}', 422),
        (b'{"a":' + b" " * 20, 413),
    ):
        with pytest.raises(WireError) as caught:
            decode_object(body, limits)
        assert status == caught.value.status


def test_a_string_is_measured_in_characters() -> None:
    """A string of many bytes may still have few characters."""
    assert decode_object('{"a":"한글한글한"}'.encode(), Limits(string_chars_max=5))


def test_a_large_body_is_not_parsed() -> None:
    """The size is judged first, so that nonsense of any size costs nothing."""
    with pytest.raises(WireError) as caught:
        decode_object(LARGE, DEFAULT_LIMITS)

    assert 413 == caught.value.status


def test_a_usual_body_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instants, URLs and escapes are full of colons and quotes, and leave no doubt all the same."""

    def second_reading(body: bytes, limits: Limits) -> None:
        raise AssertionError("read a second time")

    monkeypatch.setattr(strict_json, "_refuse_duplicates", second_reading)

    assert decode_object(
        rb'{"at":"2026-11-23T02:30:00Z","url" : "http://x:80/","say":"a \"b\" c: d","a:b":{"":[]}}'
    )


def test_the_member_named_twice_is_reported() -> None:
    """The message names the member, escaped."""
    with pytest.raises(WireError) as caught:
        decode_object('{"\\u00e9":1,"é":2}'.encode())

    assert '"\\u00e9"' in caught.value.detail


def test_nothing_but_a_wire_error_comes_out_of_a_stack_nearly_used_up() -> None:
    """However deep the caller stands, a body never ends in a RecursionError of the parser."""
    doubtful = b'{"a":' * 30 + b'"\\":"' + b"}" * 30

    # Which of the two depends on the interpreter: not every one counts C calls alike.
    titles = set()

    def dive(levels: int) -> None:
        if levels:
            dive(levels - 1)
            return
        refusal = refusal_of(decode_object, doubtful)
        titles.add(refusal.title if refusal else "")

    depth = 0
    frame: Any = sys._getframe()
    while frame:
        depth, frame = depth + 1, frame.f_back
    for spare in range(25, 80):
        dive(sys.getrecursionlimit() - depth - spare)

    assert titles <= {"", "Nested too deep"}


@given(bodies)
@example(b'{"a":[1e999]}')
@example(b'{"":""}')
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Nothing but WireError is raised, and what is read is what a lenient reader reads too."""
    refusal = refusal_of(decode_object, body)

    if refusal is None:
        assert json.loads(body) == decode_object(body)
    else:
        assert refusal.status in (400, 413, 422)


@given(objects)
def test_a_written_value_is_read_back(value: dict[str, Any]) -> None:
    """Encoding and decoding lose nothing."""
    assert value == decode_object(encode_object(value, value))


@given(objects)
def test_spaces_and_escapes_do_not_matter(value: dict[str, Any]) -> None:
    """Another writer of JSON is understood alike."""
    assert value == decode_object(json.dumps(value, indent=1).encode())
    assert value == decode_object(json.dumps(value, ensure_ascii=False).encode())


@given(st.lists(st.tuples(st.sampled_from("ab:"), objects), min_size=1, max_size=4), st.booleans())
def test_a_repeated_member_never_passes(pairs: list[tuple[str, Any]], spaced: bool) -> None:
    """Written by hand with any content: refused exactly when a name stands twice."""
    colon = b" \n:" if spaced else b":"
    members = [
        msgspec.json.encode(name) + colon + msgspec.json.encode(item) for name, item in pairs
    ]
    body = b"{" + b",".join(members) + b"}"
    repeated = len({name for name, _ in pairs}) < len(pairs)

    refusal = refusal_of(decode_object, body)

    assert ("Member named twice" if repeated else None) == (refusal and refusal.title)


@given(objects)
def test_the_order_of_members_does_not_show(value: dict[str, Any]) -> None:
    """The same value gives the same bytes."""
    turned = dict(reversed(value.items()))

    assert encode_object(value, value) == encode_object(turned, turned)


def _ring() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["a"] = ring
    return ring


@pytest.mark.parametrize(
    "value",
    [
        {"a": float("nan")},
        {"a": [float("-inf")]},
        {"a": (2**53,)},
        {"a": {"b": -(2**53)}},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": {1: 2}},
        _ring(),
    ],
)
def test_a_value_that_json_cannot_say_is_not_written(value: dict[str, Any]) -> None:
    """NaN would become null without a word; it is an error instead."""
    with pytest.raises(ValueError):  # noqa: PT011 - the type is the contract
        encode_object(value, value)


def test_foreign_text_is_quoted_and_cut() -> None:
    """Text of others never breaks a message or a log line."""
    assert '"a\\n\\ud800"' == quoted("a\n\ud800")
    assert 105 == len(quoted("x" * 1_000))


@pytest.mark.parametrize("tiny", [b"{}", b"0", b"[]", b'{"a":0}'])
def test_a_body_of_tiny_values_costs_little(tiny: bytes) -> None:
    """422, and within 0.15 s of CPU: without a limit 1 MiB of them took 0.6 s in the event loop."""
    body = b'{"a":[' + b",".join([tiny] * (1_040_000 // (len(tiny) + 1))) + b"]}"
    took: list[float] = []
    for _ in range(3):
        began = time.process_time()
        with pytest.raises(WireError) as caught:
            decode_object(body)
        took.append(time.process_time() - began)
        assert (422, "Too many values") == (caught.value.status, caught.value.title)
    assert 0.15 > min(took)  # the others may have collected garbage


def test_as_many_large_exponents_as_the_limit_are_taken() -> None:
    """Each takes as long to read as 500 other numbers: one more is refused before it is read."""
    limits = Limits(exponents_max=2)
    assert decode_object(b'{"a":[1e10,1e11,1e9,"1e10"]}', limits)
    with pytest.raises(WireError) as caught:
        decode_object(b'{"a":[1e10,1e11,1e12]}', limits)

    assert (422, "Too many exponents") == (caught.value.status, caught.value.title)
    assert "more than 2 numbers" in caught.value.detail and caught.value.hint


def test_as_many_values_as_the_limit_are_taken() -> None:
    """Members and items of every level count, and one more is refused."""
    limits = Limits(values_max=5)
    assert {"a": [1, 2], "b": {"c": None}} == decode_object(b'{"a":[1,2],"b":{"c":null}}', limits)
    with pytest.raises(WireError):
        decode_object(b'{"a":[1,2,3],"b":{"c":null}}', limits)


@given(objects)
@example({"n": 2**53})
@example({"n": [1e300]})
@example({"a": "x" * 5_000})
def test_a_plain_body_is_read_within_other_objects(value: dict[str, Any]) -> None:
    """An answer is made of such bodies, and not read again before it leaves."""
    body = msgspec.json.encode(value)
    if is_plain(body):
        assert decode_object(b'{"data":{"stage":' + body + b"}}")


@pytest.mark.parametrize(
    "value", [{"n": 2**53}, {"n": [1e300]}, {"a": "x" * 5_000}, {"a": [[]] * 20}, {"a": "1" * 16}]
)
def test_a_body_that_might_be_refused_is_not_plain(value: dict[str, Any]) -> None:
    """A long number, an exponent, much of it, many levels; a text may look like any of them."""
    assert not is_plain(msgspec.json.encode(value))
    assert is_plain(b'{"charge_id":"c-1","at":[1.5,true,null]}')
