"""For tests of a stage: fakes for its steps, a trial of its compensations, matchers of its spans.

They work under any test runner; for pytest the neighbours are a fixture (`stage.testing.plugin`).
The names are imported when first used: pytest loads the plugin in every project.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stage.core.events import Request
    from stage.ports.stage import Answer
    from stage.testing.compensations import assert_compensates
    from stage.testing.effects import FakeApi
    from stage.testing.fakes import FakeHttp, FakeTx, Statement, fake_saga, fake_webhook, reply
    from stage.testing.gateways import assert_doubts_gateways
    from stage.testing.slips import assert_no_slips
    from stage.testing.spans import SpanCollector, Spans, SpanSeen, seen_of

__all__ = [
    "Answer",
    "FakeApi",
    "FakeHttp",
    "FakeTx",
    "Request",
    "SpanCollector",
    "SpanSeen",
    "Spans",
    "Statement",
    "assert_compensates",
    "assert_doubts_gateways",
    "assert_no_slips",
    "fake_saga",
    "fake_webhook",
    "reply",
    "seen_of",
]

_MODULES = {
    "stage.core.events": ("Request",),
    "stage.ports.stage": ("Answer",),
    "stage.testing.compensations": ("assert_compensates",),
    "stage.testing.effects": ("FakeApi",),
    "stage.testing.fakes": (
        "FakeHttp",
        "FakeTx",
        "Statement",
        "fake_saga",
        "fake_webhook",
        "reply",
    ),
    "stage.testing.gateways": ("assert_doubts_gateways",),
    "stage.testing.slips": ("assert_no_slips",),
    "stage.testing.spans": ("SpanCollector", "SpanSeen", "Spans", "seen_of"),
}


def __getattr__(name: str) -> object:
    """Give a public name from its module, and keep it for the next time."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
