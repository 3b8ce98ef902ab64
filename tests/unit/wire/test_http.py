"""Safe methods and Retry-After, as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage.wire.http import (
    RETRY_AFTER_SECONDS_MAX,
    SAFE_METHODS,
    encode_head,
    is_beside,
    parse_retry_after,
)

# Sun, 06 Nov 1994 08:49:37 GMT
NOW = 784_111_777.0


def test_safe_methods_are_those_of_the_rfc() -> None:
    """RFC 9110, 9.2.1. An API may define an effect for any other."""
    assert {"GET", "HEAD", "OPTIONS", "TRACE"} == SAFE_METHODS


@pytest.mark.parametrize(
    "value, seconds",
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("99999", RETRY_AFTER_SECONDS_MAX),
        ("9" * 64, RETRY_AFTER_SECONDS_MAX),
        ("9" * 65, None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", 0.0),
        ("Sunday, 06-Nov-44 08:49:47 GMT", RETRY_AFTER_SECONDS_MAX),
        ("Sunday, 06-Nov-45 08:49:47 GMT", 0.0),
        ("Sunday, 06-Nov-00 08:49:47 GMT", RETRY_AFTER_SECONDS_MAX),
        ("Mon, 06 Nov 2094 08:49:47 GMT", RETRY_AFTER_SECONDS_MAX),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 22.0),
        ("Sun, 31 Feb 1994 08:49:47 GMT", None),
        ("Sun, 06 Nov 1994 08:49:47 CET", None),
        ("Sun, 06 Nov 0000 08:49:47 GMT", None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    """Seconds or any of the three dates, never negative, and capped."""
    assert seconds == parse_retry_after(value, NOW)


@given(st.text(max_size=70), st.floats(0, 4e9))
def test_retry_after_never_raises(value: str, now: float) -> None:
    """Any text is a number of seconds within the limit, or none."""
    seconds = parse_retry_after(value, now)

    assert seconds is None or 0.0 <= seconds <= RETRY_AFTER_SECONDS_MAX


@pytest.mark.parametrize(
    "path, asked, beside",
    [
        ("/charges", "/charges", True),
        ("/charges", "/charges/c-1", True),
        ("/charges/c-1", "/charges", True),
        ("/charges?page=1", "/charges/c-1?full=1", True),
        ("/charges/", "/charges", True),
        ("/", "/charges", True),
        ("/charges", "/charge", False),
        ("/charge", "/charges", False),
        ("/charges", "/refunds/charges", False),
        ("/charges", "/", False),
        ("/charges", "", False),
    ],
)
def test_a_path_is_beside_those_above_and_below_it(path: str, asked: str, beside: bool) -> None:
    """Segment by segment, whatever the query; the root alone says nothing."""
    assert beside is is_beside(path, asked)


def test_a_head_ends_each_line_as_http_has_it() -> None:
    assert b"GET / HTTP/1.1\r\na: b\tc\r\n\r\n" == encode_head(["GET / HTTP/1.1", "a: b\tc"])


@pytest.mark.parametrize("text", ["a: b\r\nc: d", "a: b\nc: d", "a: b\rc", "a: \x00", "a: \x7f"])
def test_a_header_cannot_begin_another(text: str) -> None:
    """A line break in a value would be a header of its own (RFC 9110, 5.5)."""
    with pytest.raises(ValueError, match="control character"):
        encode_head(["GET / HTTP/1.1", text])
