"""A payload that is not accepted: the answer names the member, and never its value (rule 38)."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
import pydantic
import pytest

from stage.authoring.payload import Codec
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
