"""The findings of `stage check` as a test: a slip fails the tests of a project."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stage.bootstrap.check import Level, check_stage
from stage.config import Config
from stage.serving import Stage


def assert_no_slips(
    stage: Stage[Any, Any], *, meant: Collection[str] = (), database: str = ""
) -> None:
    """Nothing is found in the plan, the functions and the migrations of a stage.

    `meant` are words of warnings that the author has looked at, such as the name of a step.
    `database` is the one that the stage is served on, as `--database` names it. It is not opened:
    where it is `postgresql://…`, no statement is prepared in SQLite, which lacks words such as
    FOR UPDATE. Settings and databases are left to `stage check`. Raises AssertionError with a line
    for each error and each warning.
    """
    __tracebackhide__ = True
    config = Config(database=database) if database else Config()
    found = [
        f"{each.level}: {each.text}"
        for each in check_stage(stage, config).findings
        if each.level is Level.ERROR
        or (each.level is Level.WARNING and not any(words in each.text for words in meant))
    ]
    if found:
        raise AssertionError("\n".join(found))
