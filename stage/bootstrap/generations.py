"""The generations of a database, on a server or in a file: a restore begins one (rule 33)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from stage.core.errors import ConfigurationError
from stage.ports.identity import Identity

Change = Callable[[Identity, float], Identity]
"""Makes the next identity out of the present one and the instant, in epoch seconds."""


def restored(as_of: float, latest: float | None, newest: Callable[[Identity], int]) -> Change:
    """Begin the generation behind the `newest`, with a backup of the age `as_of`.

    `latest` is when a saga in it changed last; None: it has none. Sagas may be missing from then
    on, whatever a person says: of a time that is too late, the release would say that they never
    were.
    """
    return lambda found, now: replace(
        found,
        generation=newest(found) + 1,
        restored_as_of=min(as_of, found.born_at if latest is None else latest),
        restored_at=now,
        released_at=None,
    )


def released(unasked: Sequence[str]) -> Change:
    """Release the present generation. Raises ConfigurationError for neighbours still `unasked`."""
    if unasked:
        raise ConfigurationError(
            f"{', '.join(unasked)} was not asked for the sagas since the backup: run"
            " `stage reconcile` first"
        )
    return lambda found, now: replace(found, released_at=now)
