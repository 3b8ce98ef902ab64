"""The result of one measurement of growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The figures with their goals, what else is worth a line, and the raw numbers as JSON."""

    figures: Sequence[Figure]
    raw: Mapping[str, object]
    notes: Sequence[str] = field(default=())
