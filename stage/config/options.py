"""Settings from the options of the command line, or from a program that calls `load`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stage.config.given import Given, from_entries, from_pairs, nearest
from stage.config.settings import BY_NAME


def from_options(options: Mapping[str, object], problems: list[str]) -> Iterator[Given]:
    """The settings that are given; None is not given. An unknown name is a problem."""
    for name, value in options.items():
        setting = BY_NAME.get(name)
        if setting is None:
            problems.append(f"option {name}: is not known{nearest(name, BY_NAME)}")
        elif value is None:
            continue
        elif not setting.peers:
            yield Given(setting, value, f"option {setting.option}")
        elif isinstance(value, Mapping):
            yield from from_pairs(setting, value.items(), f"option {setting.option}", problems)
        else:
            # click gives a string or a tuple of them, and calls both an object.
            entries = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
            yield from from_entries(setting, entries, f"option {setting.option}", problems)
