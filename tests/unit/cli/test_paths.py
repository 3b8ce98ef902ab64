"""The command line and the console write the path of a saga as the chain does."""

from __future__ import annotations

import pytest

from stage.cli.failure import Failure
from stage.cli.sagas import checked_path
from stage.console.draw import _environment
from stage.wire.envelope import path_of_saga

SAGA = "order:o-1~2.x_y"


def test_a_colon_is_not_escaped_anywhere() -> None:
    """No character that an id may have is."""
    drawn = _environment.from_string("{{ saga_id|saga_path }}").render(saga_id=SAGA)
    assert [f"/sagas/{SAGA}"] * 3 == [path_of_saga(SAGA), checked_path(SAGA), drawn]


def test_a_text_that_is_no_id_has_no_path() -> None:
    """The command line asks for nothing then."""
    with pytest.raises(Failure):
        checked_path("a/b")
