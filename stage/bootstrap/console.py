"""The pages for operators, where the extra `console` is installed.

They are loaded with this module: templates are read from files, which no request may wait for.
"""

from __future__ import annotations

import importlib.util

from stage.inbound.service import Show

if THERE := importlib.util.find_spec("jinja2") is not None:
    from stage.console import Console


def make_console(trace_url: str = "") -> Show | None:
    """The pages of one stage; None without the extra. `trace_url` is where traces are shown."""
    return Console(trace_url).show if THERE else None
