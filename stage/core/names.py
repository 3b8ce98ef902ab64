"""The names of stages, in a module that imports nothing: the command line starts with it."""

from __future__ import annotations

import re

STAGE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}\Z")
"""For `match`: the name of a stage, of a neighbour, of an external API."""
