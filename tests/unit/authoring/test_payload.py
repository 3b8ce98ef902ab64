"""A payload that is not accepted: the answer names the member, and never its value (rule 38)."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
import pydantic
import pytest

from stage.authoring.http import Http
from stage.authoring.payload import Codec, NotANumber, encode_json
from stage.wire.problem import WireError

CARD = "4111111111111111"


class Kind(Enum):
    CARD = "card"


class Plain(msgspec.Struct):
    kind: Kind
    amount: int = 0

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ValueError(f"cannot read {CARD}")


class Model(pydantic.BaseModel):
    card: int

    @pydantic.field_validator("card")
    @classmethod
    def check(cls, value: int) -> int:
        if value < 0:
            raise ValueError(f"cannot read {CARD}")
        return value


@pytest.mark.parametrize(
    "kind, data, named",
    [
        (Plain, {"kind": CARD}, "Invalid value - at `$.kind`"),
        (Plain, {"kind": "card", "amount": CARD}, "Expected `int`, got `str` - at `$.amount`"),
        (Plain, {"kind": "card", "amount": -1}, "ValueError"),
        (Plain, {}, "Object missing required field `kind`"),
        (list[Plain], [{"kind": "card", "amount": -1}], "ValueError - at `$[0]`"),
        (Model, {"card": CARD + "x"}, "int_parsing at card"),
        (Model, {"card": -1}, "value_error at card"),
        (Model, {}, "missing at card"),
    ],
)
def test_the_member_is_named_and_its_value_is_not(kind: Any, data: Any, named: str) -> None:
    with pytest.raises(WireError) as caught:
        Codec(kind).from_data(data)
    assert (422, f"data: {named}") == (caught.value.status, caught.value.detail)
    assert "4111" not in str(caught.value)


class Weight(pydantic.BaseModel):
    grams: float | None


weighed: Codec[Weight] = Codec(Weight)
NO_NUMBERS = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("wrapped", [lambda n: n, lambda n: {"a": [None, (n,)]}, lambda n: {n}])
def test_a_number_that_json_does_not_have_is_no_null(number: float, wrapped: Any) -> None:
    """An amount that is null is another order."""
    with pytest.raises(NotANumber, match="null would stand in its place"):
        encode_json(wrapped(number))


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_model_holds_no_number_that_json_does_not_have(number: float) -> None:
    with pytest.raises(NotANumber):
        weighed.to_json(Weight(grams=number))


def test_a_null_and_a_text_that_looks_like_one_are_json() -> None:
    assert b'{"a":null,"b":"NaN or Infinity"}' == encode_json({"a": None, "b": "NaN or Infinity"})
    assert b'{"grams":null}' == weighed.to_json(Weight(grams=None))


def test_a_request_holds_no_number_that_json_does_not_have() -> None:
    """Nothing is described, so that nothing is sent."""
    with pytest.raises(ValueError, match=r"json= of http\.post\('/charges'\) is no JSON: JSON has"):
        _ = Http("psp").post("/charges", json={"amount": float("nan")})
