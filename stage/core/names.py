"""The names of stages and steps. It imports nothing of ours: the command line starts with it."""

from __future__ import annotations

import re

STAGE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
"""For `fullmatch`: the name of a stage, of a neighbour, of an external API.

`wire.envelope` has the same pattern, because neighbours import `stage.wire` and no other room;
a test holds both together.
"""
STEP_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")
"""For `fullmatch`: the name of a step that an author declares; that of a forward has a colon."""
