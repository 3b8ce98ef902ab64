"""The metrics of all workers as one text: each line has the number of its worker as a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

END: Final = "# EOF"
UP: Final = "stage_worker_up"
_UP_HEAD: Final = (
    f"# HELP {UP} Whether a worker of this stage was there to be asked.",
    f"# TYPE {UP} gauge",
)


def together(texts: Mapping[int, tuple[bytes, str] | None]) -> tuple[bytes, str]:
    """One text and its content type, in which each family stands once.

    None is the text of a worker that is away: it has no lines but the one that says so.
    """
    families: dict[str, list[str]] = {}
    content_type, ends = "", False
    for worker, found in texts.items():
        if found is None:
            continue
        body, content_type = found
        family: list[str] = []
        for line in body.decode().splitlines():
            if line == END:
                ends = True
            elif line.startswith("# "):
                family = families.setdefault(line.split(" ", 3)[2], [])
                if line not in family:
                    family.append(line)
            else:
                family.append(_labelled(line, worker))
    lines = [line for family in families.values() for line in family]
    lines += _UP_HEAD
    lines += [_labelled(f"{UP} {float(there is not None)}", w) for w, there in texts.items()]
    if ends:
        lines.append(END)
    return ("\n".join(lines) + "\n").encode(), content_type


def _labelled(line: str, worker: int) -> str:
    """A sample with one label more, before the others."""
    end = next(place for place, sign in enumerate(line) if sign in "{ ")
    name, rest = line[:end], line[end:]
    if rest.startswith("{"):
        return f'{name}{{worker="{worker}",{rest[1:]}'
    return f'{name}{{worker="{worker}"}}{rest}'
