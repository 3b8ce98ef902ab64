"""The strategies of hypothesis: JSON values, saga ids, envelopes, bodies that are nearly right."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from stage.wire.envelope import SAGA_ID_RE, STAGE_NAME_RE, Envelope, TrailEntry, format_instant

texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(texts, values, max_size=5)
saga_ids = st.from_regex(SAGA_ID_RE, fullmatch=True)
stage_names = st.from_regex(STAGE_NAME_RE, fullmatch=True)
# From the year 1 to the year 9999, in whole milliseconds.
instants = st.integers(-62_135_596_800_000, 253_402_300_799_999).map(lambda ms: ms / 1000)
# Each of its digits, the first and the last day of the calendar more often than others.
instant_texts = st.builds(
    "{}-{}T{:02}:{:02}:{:02}{}{}".format,
    st.sampled_from(["0001", "1970", "2026", "9999"]) | st.integers(0, 9999).map("{:04}".format),
    st.sampled_from(["01-01", "12-31", "02-29", "00-00"]),
    st.integers(0, 24),
    st.integers(0, 60),
    st.integers(0, 60),
    st.just("") | st.from_regex(r"\.([0-9]|9{3}[0-9]|9){1,9}", fullmatch=True),
    st.just("Z") | st.from_regex(r"[+-][0-2][0-9]:[0-5][0-9]", fullmatch=True),
)
trails = st.lists(
    st.builds(TrailEntry, stage=stage_names, at=instants.map(format_instant)), max_size=4
).map(tuple)
envelopes = st.builds(
    Envelope,
    saga_id=saga_ids,
    data=objects,
    deadline=st.none() | instants,
    trail=trails,
)
# Pieces of JSON in any order: closer to the edge than random bytes.
pieces = st.lists(
    st.sampled_from(
        [
            b"{", b"}", b"[", b"]", b":", b",", b'"', b'"a"', b'"saga_id"', b'"data"', b"\\u",
            b"d800", b"\\", b"1", b"-", b"e9", b"1e999", b"NaN", b"Infinity", b"null", b"true",
            b" ", b"\xff", b"\xef\xbb\xbf", b"9999999999999999999999", b'"deadline"', b"\x00",
            b'"trail"',
        ]
    ),
    max_size=25,
).map(b"".join)  # fmt: skip
bodies = st.binary(max_size=200) | pieces | pieces.map(lambda inner: b'{"a":' + inner + b"}")
