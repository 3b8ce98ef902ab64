"""The pages for operators, where the extra `console` is installed.

They are loaded with this module: templates are read from files, which no request may wait for.
"""

from __future__ import annotations

import importlib.util

from stage.inbound.service import Show

CONSOLE: Show | None = None
"""None without the extra."""

if importlib.util.find_spec("jinja2") is not None:
    from stage.console import show

    CONSOLE = show
