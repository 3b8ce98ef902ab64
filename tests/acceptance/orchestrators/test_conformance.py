"""One suite for all callers of a chain: the same stories come to the same end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from examples.temporal.processes import NoServer, program
from tests.acceptance.orchestrators.callers import CALLERS, Caller, NotThere
from tests.acceptance.orchestrators.stories import STORIES
from tests.kits import Strikes
from tests.sizes import SIZES

pytestmark = pytest.mark.asyncio(loop_scope="module")
ABSENT = {
    ("plain", "killed-worker"),
    ("plain", "killed-server"),
    ("step_functions", "killed-worker"),
    ("step_functions", "killed-server"),
}
"""No process to kill: the head of a plain chain is a neighbour, and AWS runs its own."""
CASES = [
    (who, name)
    for number, who in enumerate(CALLERS)
    for place, name in enumerate(STORIES)
    if (number + place) % SIZES.story_stride == 0
]
"""Each story under half of the callers, or under all."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def named_caller(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, Caller]]:
    """One of the callers, with all that it calls."""
    if request.param.startswith("temporal"):
        try:
            program()
        except NoServer as error:
            pytest.skip(str(error))
    caller: Caller = CALLERS[request.param](tmp_path_factory.mktemp(request.param))
    try:
        await caller.start()
        yield request.param, caller
    finally:
        await caller.stop()


@pytest.mark.kit("F29")
@pytest.mark.parametrize("named_caller, name", CASES, indirect=["named_caller"])
async def test_a_story_ends_as_under_every_caller(
    named_caller: tuple[str, Caller], name: str, strikes: Strikes
) -> None:
    """The outcome that the caller sees, and the books of the world."""
    who, caller = named_caller
    story = STORIES[name]
    saga_id = f"{name}-1"
    if (who, name) in ABSENT:
        with pytest.raises(NotThere):
            await story.act(caller, saga_id)
        return
    assert story.outcome == await story.act(caller, saga_id)
    await caller.parts.until(saga_id, story.books)
    strikes.report("stories", 1)
