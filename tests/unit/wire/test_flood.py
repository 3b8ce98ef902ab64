"""Bodies that cost much for their size: counted before they are decoded."""

from __future__ import annotations

import pytest

from stage.wire.flood import has_more_exponents, has_more_values


@pytest.mark.parametrize(
    "body, values",
    [
        (b'{"a":1}', 1),
        (b'{"a":1,"b":2}', 2),
        (b'[1,[2,3],{"a":4}]', 4),
        (b'{"a":",,,,","b":"\\",,"}', 2),
    ],
)
def test_the_values_of_a_body_are_counted_without_its_strings(body: bytes, values: int) -> None:
    """As many as are allowed are taken, and one more is not; a comma in a text is none."""
    assert not has_more_values(body, values)
    assert has_more_values(body, values - 1)


@pytest.mark.parametrize(
    "body, numbers",
    [
        (b"[1e10]", 1),
        (b"[1e10,2E+11,3.5e-12]", 3),
        (b'["1e10","2e10",1e10]', 1),
        (b"[1e9,1e9,1e10]", 1),
        (b'{"seen":true,"e":1e10}', 1),
    ],
)
def test_numbers_with_a_large_exponent_are_counted(body: bytes, numbers: int) -> None:
    """Of two digits or more, in either case and with any sign; not those in a text."""
    assert not has_more_exponents(body, numbers)
    assert has_more_exponents(body, numbers - 1)
