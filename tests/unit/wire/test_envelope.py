"""The envelope: what is accepted, what is refused and why, and that nothing is lost on the way."""

from __future__ import annotations

import uuid
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import example, given

from stage.wire.envelope import (
    ENVELOPE_GROWTH_BYTES,
    SAGA_ID_RE,
    Envelope,
    TrailEntry,
    check_room,
    check_saga_id,
    decode_envelope,
    encode_envelope,
    format_instant,
    new_saga_id,
    optional_instant,
    parse_instant,
    path_of_saga,
    payload_hash,
)
from stage.wire.limits import Limits
from stage.wire.problem import WireError
from tests.unit.wire.corpus import NOT_STRICT_JSON
from tests.unit.wire.refusals import refusal_of
from tests.unit.wire.strategies import bodies, envelopes, instant_texts, instants, objects

AT = "2026-11-23T02:29:58.120Z"
GOOD: dict[str, Any] = {
    "saga_id": "0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10",
    "protocol": 1,
    "deadline": "2026-11-23T02:30:00Z",
    "data": {"order_id": "o-1", "amount": 100, "currency": "KRW"},
    "trail": [{"stage": "order", "at": AT}],
}


def test_the_envelope_of_the_protocol_is_read() -> None:
    """The example of the protocol, member by member."""
    assert (
        Envelope(
            saga_id="0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10",
            data={"order_id": "o-1", "amount": 100, "currency": "KRW"},
            protocol=1,
            deadline=1_795_401_000.0,
            trail=(TrailEntry(stage="order", at=AT),),
        )
    ) == decode_envelope(msgspec.json.encode(GOOD))


def test_the_least_envelope_is_read() -> None:
    """Only the id and the data are required; a deadline of null is none."""
    least = Envelope(saga_id="s", data={})

    assert least == decode_envelope(b'{"saga_id":"s","data":{}}')
    assert least == decode_envelope(b'{"saga_id":"s","data":{},"deadline":null,"protocol":1.0}')


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"extra": 1}, '"extra"'),
    ({"Data": {}}, '"Data"'),
    ({"protocol": 2}, "protocol"),
    ({"protocol": 0}, "protocol"),
    ({"protocol": True}, "protocol"),
    ({"protocol": "1"}, "protocol"),
    ({"protocol": 1.5}, "protocol"),
    ({"protocol": None}, "protocol"),
    ({"saga_id": ""}, "saga_id"),
    ({"saga_id": "a" * 129}, "saga_id"),
    ({"saga_id": "a/b"}, "saga_id"),
    ({"saga_id": "a b"}, "saga_id"),
    ({"saga_id": "a\n"}, "saga_id"),
    ({"saga_id": "é"}, "saga_id"),
    ({"saga_id": "%2e"}, "saga_id"),
    ({"saga_id": "."}, "saga_id"),
    ({"saga_id": ".."}, "saga_id"),
    ({"saga_id": 7}, "saga_id"),
    ({"saga_id": None}, "saga_id"),
    ({"data": []}, "data"),
    ({"data": None}, "data"),
    ({"data": "x"}, "data"),
    ({"deadline": 1_795_401_000}, "deadline"),
    ({"deadline": "2026-11-23T02:30:00"}, "deadline"),
    ({"deadline": "2026-11-23"}, "deadline"),
    ({"deadline": "2026-11-23 02:30:00Z"}, "deadline"),
    ({"deadline": "20261123T023000Z"}, "deadline"),
    ({"deadline": "2026-11-23T02:30Z"}, "deadline"),
    ({"deadline": "2026-02-30T02:30:00Z"}, "deadline"),
    ({"deadline": "2026-11-23T24:00:00Z"}, "deadline"),
    ({"deadline": "2026-11-23T02:30:60Z"}, "deadline"),
    ({"deadline": "2026-11-23T02:30:00+24:00"}, "deadline"),
    ({"deadline": "2026-11-23T02:30:00Z\n"}, "deadline"),
    ({"deadline": "0000-01-01T00:00:00Z"}, "deadline"),
    ({"deadline": "٢٠٢٦-11-23T02:30:00Z"}, "deadline"),
    ({"deadline": ""}, "deadline"),
    ({"trail": None}, "trail"),
    ({"trail": {}}, "trail"),
    ({"trail": [1]}, "trail[0]"),
    ({"trail": ["order"]}, "trail[0]"),
    ({"trail": [{"stage": "order", "at": AT}, {"stage": "order"}]}, "trail[1].at"),
    ({"trail": [{"at": AT}]}, "trail[0].stage"),
    ({"trail": [{"stage": "Order", "at": AT}]}, "trail[0].stage"),
    ({"trail": [{"stage": "http://x", "at": AT}]}, "trail[0].stage"),
    ({"trail": [{"stage": "o" * 49, "at": AT}]}, "trail[0].stage"),
    ({"trail": [{"stage": "order", "at": "now"}]}, "trail[0].at"),
    ({"trail": [{"stage": "order", "at": 1}]}, "trail[0].at"),
    ({"trail": [{"stage": "order", "at": AT, "url": "http://x"}]}, '"url"'),
    ({"trail": [{"stage": "order", "at": AT}] * 65}, "trail"),
]


@pytest.mark.parametrize("change, named", WRONG, ids=[str(change)[:60] for change, _ in WRONG])
def test_a_wrong_control_member_is_refused(change: dict[str, Any], named: str) -> None:
    """422, and the message names the member."""
    with pytest.raises(WireError) as caught:
        decode_envelope(msgspec.json.encode(GOOD | change))

    assert 422 == caught.value.status
    assert named in caught.value.detail


@pytest.mark.parametrize("name", ["saga_id", "data"])
def test_a_missing_member_is_named(name: str) -> None:
    """The id and the data cannot be left out."""
    body = msgspec.json.encode({key: item for key, item in GOOD.items() if key != name})

    with pytest.raises(WireError) as caught:
        decode_envelope(body)

    assert 422 == caught.value.status
    assert f"{name} is missing" == caught.value.detail


@pytest.mark.parametrize("body, status, title", NOT_STRICT_JSON[:60])
def test_a_malformed_body_is_no_envelope(body: bytes, status: int, title: str) -> None:
    """A body that is not strict JSON is refused before anything is looked at."""
    with pytest.raises(WireError) as caught:
        decode_envelope(body)

    assert (status, title) == (caught.value.status, caught.value.title)


def test_a_repeated_control_member_is_refused() -> None:
    """Two saga ids in one envelope are no saga id."""
    with pytest.raises(WireError) as caught:
        decode_envelope(b'{"saga_id":"a","saga_id":"b","data":{}}')

    assert 400 == caught.value.status


def test_tighter_limits_hold() -> None:
    """The limits that are passed count, not the defaults alone."""
    limits = Limits(saga_id_chars_max=3, stage_name_chars_max=4, trail_entries_max=1)
    entry = {"stage": "abcd", "at": AT}

    fitting = {"saga_id": "abc", "data": {}, "trail": [entry]}
    assert "abc" == decode_envelope(msgspec.json.encode(fitting), limits).saga_id
    for wrong in (
        {"saga_id": "abcd", "data": {}},
        {"saga_id": "abc", "data": {}, "trail": [{"stage": "abcde", "at": AT}]},
        {"saga_id": "abc", "data": {}, "trail": [entry, entry]},
    ):
        with pytest.raises(WireError):
            decode_envelope(msgspec.json.encode(wrong), limits)


def with_version(body: bytes, version: bytes) -> bytes:
    """The same body; `1.0` is the same number, but not what is usual, so it is read in steps."""
    return body.replace(b'"protocol":1', b'"protocol":' + version, 1)


@given(envelopes)
def test_the_usual_body_is_read_as_any_other(envelope: Envelope) -> None:
    """There is a short way for what nearly every body is, and it leads to the same place."""
    body = encode_envelope(envelope)

    assert decode_envelope(with_version(body, b"1.0")) == decode_envelope(body)


@pytest.mark.parametrize(
    "place",
    [
        b'{"saga_id":"s","protocol":1,"data":%b}',
        b'{"saga_id":"s","protocol":1,"data":{"a":%b}}',
        b'{"saga_id":"s","protocol":1,"data":{},"trail":[%b]}',
        b'{"saga_id":"s","protocol":1,"data":{},"deadline":%b}',
        b'{"saga_id":%b,"protocol":1,"data":{}}',
        b'{"saga_id":"s","protocol":1,"data":{}}%b',
    ],
)
@pytest.mark.parametrize("body", [body for body, _, _ in NOT_STRICT_JSON])
def test_the_short_way_refuses_as_the_long_one(place: bytes, body: bytes) -> None:
    """Both refuse with the same code and the same title, or neither refuses."""
    short, long = (
        refusal_of(decode_envelope, with_version(place % body, version))
        for version in (b"1", b"1.0")
    )

    assert (long and (long.status, long.title)) == (short and (short.status, short.title))


@pytest.mark.parametrize("version", [b"1", b"1.0"])
@pytest.mark.parametrize(
    "limits, title",
    [
        (Limits(), None),
        (Limits(body_bytes_max=100), "Body too large"),
        (Limits(depth_max=4), None),
        (Limits(depth_max=3), "Nested too deep"),
        (Limits(depth_max=2), "Nested too deep"),
        (Limits(string_chars_max=24), None),
        (Limits(string_chars_max=23), "String too long"),
    ],
)
def test_the_limits_of_the_json_hold_on_either_way(
    version: bytes, limits: Limits, title: str | None
) -> None:
    """The envelope counts as one level, its data as the second."""
    body = (
        b'{"saga_id":"s","protocol":1,"data":{"a":[{"b":1}],"space":"aaaaaaaaaaaaaaaaaaaaaaaa"}'
        b',"trail":[{"stage":"order","at":"2026-11-23T02:29:58.1Z"}]}'
    )
    refusal = refusal_of(lambda b: decode_envelope(b, limits), with_version(body, version))

    assert title == (refusal and refusal.title)


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_a_body_at_its_limits_takes_the_short_way(
    monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """The last byte, level, value and stage that are allowed are no reason to read it twice."""
    trail = [{"stage": "order", "at": AT}] * entries
    body = msgspec.json.encode(GOOD | {"trail": trail, "data": {"a": 1}})
    limits = Limits(
        body_bytes_max=len(body), string_chars_max=len(body), trail_entries_max=entries,
        values_max=body.count(b","), depth_max=3,
    )  # fmt: skip

    def long_way(body: bytes, limits: Limits) -> Envelope:
        raise AssertionError("it was read twice")

    monkeypatch.setattr("stage.wire.envelope._decode_any", long_way)
    found = decode_envelope(body, limits)
    assert (entries, {"a": 1}) == (len(found.trail), found.data)


@given(envelopes)
def test_an_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    """Reading what was written gives the same envelope, and writing it again the same bytes."""
    body = encode_envelope(envelope)

    assert envelope == decode_envelope(body)
    assert body == encode_envelope(decode_envelope(body))


@given(bodies)
def test_any_bytes_are_an_envelope_or_a_wire_error(body: bytes) -> None:
    """Nothing but WireError is raised."""
    refusal = refusal_of(decode_envelope, body)

    assert refusal is None or refusal.status in (400, 413, 422)


@given(objects)
def test_any_object_is_an_envelope_or_a_wire_error(value: dict[str, Any]) -> None:
    """Members of any type, the names of the protocol included, raise nothing but WireError."""
    for name in GOOD:
        for item in (value, *value.values()):
            refusal = refusal_of(decode_envelope, msgspec.json.encode(GOOD | {name: item}))
            assert refusal is None or 422 == refusal.status


@given(envelopes)
def test_the_path_of_a_saga_escapes_nothing(envelope: Envelope) -> None:
    """A gateway and a stage could read an escape in two ways."""
    assert f"/sagas/{envelope.saga_id}" == path_of_saga(envelope.saga_id)


def test_an_envelope_is_written_in_one_way() -> None:
    """Control members in the order of the protocol, data sorted, the deadline in UTC."""
    body = encode_envelope(
        Envelope(
            saga_id="s-1",
            data={"b": 1, "a": {"d": 1, "c": 2}},
            deadline=parse_instant("2026-11-23T11:30:00.5+09:00"),
            trail=(TrailEntry(stage="order", at=AT),),
        )
    )

    assert (
        b'{"saga_id":"s-1","protocol":1,"deadline":"2026-11-23T02:30:00.500Z",'
        b'"data":{"a":{"c":2,"d":1},"b":1},'
        b'"trail":[{"stage":"order","at":"2026-11-23T02:29:58.120Z"}]}'
    ) == body
    assert b"deadline" not in encode_envelope(Envelope(saga_id="s-1", data={}))


def test_nan_does_not_become_null_on_the_way() -> None:
    """Data that JSON cannot hold is an error of the stage, not a null downstream."""
    with pytest.raises(ValueError, match="NaN"):
        encode_envelope(Envelope(saga_id="s", data={"amount": float("nan")}))


def test_the_fingerprint_is_of_the_payload() -> None:
    """A retry with a fresh deadline or trail is the same; other data or another id is not."""
    first = Envelope(saga_id="s", data={"a": 1, "b": {"c": 2, "d": 3}}, deadline=1.0)
    retry = Envelope(
        saga_id="s", data={"b": {"d": 3, "c": 2}, "a": 1}, trail=(TrailEntry(stage="x", at=AT),)
    )

    assert payload_hash(first) == payload_hash(retry)
    assert 64 == len(payload_hash(first))
    for other in (
        Envelope(saga_id="t", data=first.data),
        Envelope(saga_id="s", data={"a": 2, "b": {"c": 2, "d": 3}}),
        Envelope(saga_id="s", data={"a": "1", "b": {"c": 2, "d": 3}}),
        Envelope(saga_id="s", data={}),
    ):
        assert payload_hash(first) != payload_hash(other)


@pytest.mark.parametrize(
    "one, two",
    [
        (b"1", b"1.0"),
        (b"1", b"1e0"),
        (b"100", b"100.0"),
        (b"100", b"1E2"),
        (b"0", b"-0.0"),
        (b'[1,{"b":[2.0]}]', b'[1.0,{"b":[2]}]'),
        (b"0.5", b"5e-1"),
    ],
)
def test_one_number_has_one_fingerprint_however_it_is_written(one: bytes, two: bytes) -> None:
    """A retry through another JSON library writes 1.0 for 1: the payload is the same."""

    def of(value: bytes) -> str:
        return payload_hash(decode_envelope(b'{"saga_id":"s","data":{"a":' + value + b"}}"))

    assert of(one) == of(two)


@pytest.mark.parametrize("one, two", [(b"1", b"1.5"), (b"1", b'"1"'), (b"1", b"true")])
def test_other_values_have_other_fingerprints(one: bytes, two: bytes) -> None:
    """1 is neither "1" nor true, although Python takes the latter for equal."""

    def of(value: bytes) -> str:
        return payload_hash(decode_envelope(b'{"saga_id":"s","data":{"a":' + value + b"}}"))

    assert of(one) != of(two)


@given(envelopes, envelopes)
def test_only_the_same_payload_has_the_same_fingerprint(one: Envelope, two: Envelope) -> None:
    """Equal values, equal fingerprints, and only then; numbers are compared as numbers."""
    same = (one.saga_id, written(one.data)) == (two.saga_id, written(two.data))

    assert same == (payload_hash(one) == payload_hash(two))


def written(value: Any) -> str:
    """A value as text in which equal numbers are equal: an independent writing of it."""
    match value:
        case dict():
            return (
                "{" + ",".join(f"{name!r}:{written(value[name])}" for name in sorted(value)) + "}"
            )
        case list():
            return "[" + ",".join(map(written, value)) + "]"
        case bool() | None | str():
            return repr(value)
        case _:
            return str(Fraction(value))


@given(instants)
def test_an_instant_comes_back_to_the_millisecond(instant: float) -> None:
    """From the year 1 to the year 9999."""
    text = format_instant(instant)

    assert 24 == len(text)
    assert instant == parse_instant(text)


@given(instant_texts)
@example("0001-01-01T00:00:00+14:00")
@example("9999-12-31T23:59:59-00:01")
@example("9999-12-31T23:59:59.9996Z")
@example("9999-12-31T23:59:59.999499Z")
def test_an_instant_that_is_read_can_be_said(text: str) -> None:
    """By its offset, or when it is rounded, it may lie in no year: then it is refused."""
    try:
        instant = parse_instant(text)
    except ValueError:
        return
    said = parse_instant(format_instant(instant))
    assert abs(instant - said) < 0.001


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:00.250z", 0.25),
        ("1970-01-01t00:00:01Z", 1.0),
        ("1970-01-01T09:00:00+09:00", 0.0),
        ("1969-12-31T23:30:00-00:30", 0.0),
        ("1970-01-01T00:00:00.123456789Z", 0.123456),
        ("1970-01-01T00:00:00-00:00", 0.0),
    ],
)
def test_an_rfc_3339_instant_is_read(text: str, seconds: float) -> None:
    """Every offset, and either case of T and Z."""
    assert seconds == parse_instant(text)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e15, -1e15, 1e300])
def test_an_instant_without_a_date_is_refused(seconds: float) -> None:
    """ValueError, whatever the number."""
    with pytest.raises(ValueError):  # noqa: PT011 - the type is the contract
        format_instant(seconds)


def test_a_new_saga_id_is_a_uuid_of_version_7() -> None:
    """It fits the protocol, sorts by time to the millisecond, and does not repeat."""
    ids = [new_saga_id() for _ in range(1_000)]
    parsed = [uuid.UUID(one) for one in ids]

    assert {7} == {one.version for one in parsed}
    assert {uuid.RFC_4122} == {one.variant for one in parsed}
    assert all(SAGA_ID_RE.fullmatch(one) for one in ids)
    assert 1_000 == len(set(ids))
    assert sorted(one.int >> 80 for one in parsed) == [one.int >> 80 for one in parsed]


@pytest.mark.parametrize("milliseconds", [0, 1_700_000_000_123, 2**48 - 1, 2**48 + 5])
def test_a_new_saga_id_begins_with_its_instant(
    monkeypatch: pytest.MonkeyPatch, milliseconds: int
) -> None:
    """In its first 48 bits: a stage reads the age of a saga in its id (protocol 3.4)."""
    monkeypatch.setattr("time.time_ns", lambda: milliseconds * 1_000_000 + 999_999)
    parsed = uuid.UUID(new_saga_id())

    assert (milliseconds % 2**48, 7, uuid.RFC_4122) == (
        parsed.int >> 80, parsed.version, parsed.variant,
    )  # fmt: skip


def test_a_saga_id_is_checked_by_itself() -> None:
    """The id of a URL is held to the same rule."""
    assert "a.B_1~:-" == check_saga_id("a.B_1~:-")
    assert "..." == check_saga_id("...")
    with pytest.raises(WireError, match="saga_id"):
        check_saga_id("..")


def test_upstream_is_the_last_stage_of_the_trail() -> None:
    """A saga that an orchestrator or a client begins has none."""
    trail = tuple(TrailEntry(stage=name, at=AT) for name in ("web", "order"))
    assert "order" == Envelope(saga_id="s", data={}, trail=trail).upstream
    assert "" == Envelope(saga_id="s", data={}).upstream


def test_an_instant_may_be_missing() -> None:
    assert (None, "1970-01-01T00:00:01.500Z") == (optional_instant(None), optional_instant(1.5))


ROOM = Limits(
    body_bytes_max=5_000, adds_bytes_max=1_000, values_max=300, adds_values_max=50,
    trail_entries_max=2,
)  # fmt: skip
BYTES_MAX = 5_000 - 1_000 - ENVELOPE_GROWTH_BYTES
VALUES_MAX = 300 - 50 - (3 * 64 + 8)


def envelope_of(values: int, stages: int) -> Envelope:
    """An envelope with so many values of data, which has passed so many stages."""
    data = {"list": [1] * (values - 1)} if values else {}
    return Envelope(
        saga_id="s", data=data, trail=tuple(TrailEntry(stage="a", at=AT) for _ in range(stages))
    )


@pytest.mark.parametrize(
    "values, stages, size",
    [(0, 0, 10), (2, 1, BYTES_MAX), (VALUES_MAX, 1, BYTES_MAX)],
)
def test_an_envelope_with_room_for_this_stage_is_taken(values: int, stages: int, size: int) -> None:
    """Up to the last byte, value and stage that leave the room which is kept for it."""
    check_room(envelope_of(values, stages), size, ROOM)


@pytest.mark.parametrize(
    "values, stages, size, status, said, hint",
    [
        (2, 1, BYTES_MAX + 1, 413, f"{BYTES_MAX + 1} bytes", f"at most {BYTES_MAX} bytes"),
        (VALUES_MAX + 1, 1, 500, 422, f"more than {VALUES_MAX} members", f"at most {VALUES_MAX}"),
        (2, 2, 500, 422, "2 entries, and no room for this stage", "at most 2 stages"),
        (2, 3, 500, 422, "3 entries", "look for a ring"),
    ],
)
def test_an_envelope_that_would_outgrow_the_chain_is_refused_before_any_effect(
    values: int, stages: int, size: int, status: int, said: str, hint: str
) -> None:
    """The next stage would refuse it for our addition, when something stands already."""
    with pytest.raises(WireError) as caught:
        check_room(envelope_of(values, stages), size, ROOM)

    assert status == caught.value.status
    assert said in caught.value.detail
    assert hint in (caught.value.hint or "")
