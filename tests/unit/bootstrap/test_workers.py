"""The parent of workers: when it starts one anew."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stage.bootstrap import workers
from stage.bootstrap.seat import Seat
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment


def test_a_worker_that_may_not_begin_is_tried_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had lived for long, and a line in the log for each try would fill the disk."""
    seat = Seat(index=0, processes=1, folder=tmp_path)
    parent = workers._Parent(payment, Config(), [seat], lambda *_: None)

    def refuse(worker: workers._Worker) -> None:
        raise ConfigurationError("the code changed: restart the stage")

    monkeypatch.setattr(parent, "_check", refuse)
    (worker,) = parent._workers
    worker.started_at = time.monotonic() - 2 * workers.STEADY_SECONDS
    pauses = []
    for _ in range(8):
        worker.again_at = time.monotonic()
        parent._start_again()
        pauses.append(worker.again_seconds)
    assert sorted(pauses) == pauses and workers.AGAIN_SECONDS_MAX == pauses[-1]
