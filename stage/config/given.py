"""The values of a source, before they are judged, and how peers are written in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from stage.config.peers import URL
from stage.config.settings import Setting
from stage.config.values import redacted


class Given(NamedTuple):
    """The value that one source gives for one setting; `peer` and `key` are set for a peer's."""

    setting: Setting
    value: object
    origin: str
    peer: str = ""
    key: str = URL


def from_entries(
    setting: Setting, entries: list[Any], origin: str, problems: list[str]
) -> Iterator[Given]:
    """Peers given as a list of NAME=URL and NAME.KEY=VALUE."""
    pairs = []
    for entry in entries:
        name, equals, url = str(entry).partition("=")
        if equals:
            pairs.append((name.strip(), url.strip()))
        else:
            problems.append(
                f"{origin}: {redacted(str(entry))!r} is not NAME=URL:"
                " give for example shipping=http://host:8080"
            )
    yield from from_pairs(setting, pairs, origin, problems)


def from_pairs(setting: Setting, pairs: Any, origin: str, problems: list[str]) -> Iterator[Given]:
    """Peers given as pairs of NAME or NAME.KEY and a value, or of NAME and all of its keys.

    A name that is given twice is a problem.
    """
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            problems.append(f"{origin}: {name!r} is given twice: keep one")
        seen.add(name)
        peer, dot, key = str(name).partition(".")
        if isinstance(value, Mapping):
            yield from (Given(setting, each, origin, name, key) for key, each in value.items())
        else:
            yield Given(setting, value, origin, peer, key if dot else URL)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence on a name that is not known: the name that was meant, or what to do."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ": remove it"
