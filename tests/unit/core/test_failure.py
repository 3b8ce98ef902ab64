"""The meaning of a code: what an author declared, then what HTTP says, then the function."""

from __future__ import annotations

import pytest

from stage.core.failure import FailureKind, classify_code

OF_THE_FUNCTION = {*range(200, 300), *range(400, 500)} - {401, 408, 425, 429}


@pytest.mark.parametrize("code", range(100, 600))
def test_every_code_has_one_meaning(code: int) -> None:
    """401 and 429 did not happen; 408, 425 and all but 2xx and 4xx are in doubt (rule 4)."""
    if code in OF_THE_FUNCTION:
        expected = None
    elif code in (401, 429):
        expected = FailureKind.TRANSIENT
    else:
        expected = FailureKind.IN_DOUBT
    assert expected is classify_code(code)


@pytest.mark.parametrize("code", [200, 202, 301, 401, 408, 409, 429, 503])
def test_the_declaration_of_a_call_takes_precedence(code: int) -> None:
    """Transient before refused before pending; another code keeps its meaning."""
    one, none = frozenset({code}), frozenset({599})
    assert FailureKind.TRANSIENT is classify_code(code, one, one, one)
    assert FailureKind.REFUSED is classify_code(code, none, one, one)
    assert FailureKind.PENDING is classify_code(code, none, none, one)
    assert classify_code(code) is classify_code(code, none, none, none)
