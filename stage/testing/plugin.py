"""The neighbours as pytest fixtures; pytest finds this module by its entry point.

    async def test_a_saga_is_handed_on(stage_neighbours):
        async with stage_neighbours(payment, externals={"psp": url}) as chain:
            ...

`stage` is imported where a fixture is used, so that the plugin costs other tests nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from stage.authoring.declaration import StageDeclaration
    from stage.testing.neighbours import Neighbours

RunsNeighbours = Callable[..., AbstractAsyncContextManager["Neighbours"]]


@pytest.fixture
def stage_neighbours() -> RunsNeighbours:
    """Serves a stage between an upstream and a downstream that misbehave by script.

    Call it with the stage and the URLs of its external APIs, and enter what it gives.
    """

    @asynccontextmanager
    async def serve(
        stage: StageDeclaration[Any, Any], externals: Mapping[str, str] | None = None
    ) -> AsyncIterator[Neighbours]:
        from stage.testing.neighbours import served

        async with served(stage, externals or {}) as neighbours:
            yield neighbours

    return serve
