"""The fakes of `stage dev`: those of the model where it names some."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage.cli.dev import _fakes_of
from stage.cli.failure import Failure
from stage.cli.target import find_stage
from stage.core.events import Request

DEMO = "stage.demo.payment:payment"
UNDO = Request(method="POST", path="/refunds", body=b"{}")


def test_a_fake_of_the_model_speaks_as_its_api() -> None:
    """The compensation of the demo ends at `refunded`, which no other fake says."""
    (psp,) = _fakes_of(DEMO, find_stage(DEMO)).values()
    assert b'{"refunded":true}' == psp.answer(UNDO, "s-1:payment:charge:undo").body


def test_a_fake_that_no_step_calls_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the file that names it."""
    (tmp_path / "wrong_fakes_model.py").write_text("fakes = {'bank': object}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Failure, match=r"wrong_fakes_model\.py has a fake of 'bank'.* calls: psp"):
        _fakes_of("wrong_fakes:payment", find_stage(DEMO))
