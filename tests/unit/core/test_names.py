"""The protocol's pattern of a stage name is that of the core."""

from __future__ import annotations

from stage.core.names import STAGE_NAME
from stage.wire.envelope import STAGE_NAME_RE


def test_the_wire_and_the_core_accept_the_same_stage_names() -> None:
    """Neighbours import the wire and not the core, so the wire needs a copy of its own."""
    assert STAGE_NAME.pattern == STAGE_NAME_RE.pattern
