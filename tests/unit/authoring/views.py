"""The saga as a function of an author sees it, for tests that call one."""

from __future__ import annotations

from stage.ports.stage import RunView


def view(key: str = "s-1:store:upload:do") -> RunView:
    """A saga that has just begun."""
    return RunView(
        id="s-1",
        stage="store",
        data={"amount": 100},
        trail=(),
        results={},
        keys={},
        deadline=None,
        budget=None,
        key=key,
        attempt=1,
        now=0.0,
    )
