"""Reads a Dockerfile as it stands: how the process of its last stage runs."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

DOCKERFILE = Path(__file__).resolve().parents[2] / "deploy" / "Dockerfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The parts of an image that decide how its process runs."""

    user: str = ""
    folder: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def read_image(path: Path = DOCKERFILE) -> Image:
    """The last stage of a Dockerfile whose commands are JSON lists."""
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    instructions = [
        line.split(None, 1) for line in text.replace("\\\n", " ").splitlines() if line.strip()
    ]
    begin = max(at for at, (word, _) in enumerate(instructions) if word == "FROM")
    found: dict[str, str] = {}
    for word, rest in instructions[begin:]:
        before = found.get(word, "") if word in ("ENV", "LABEL") else ""
        found[word] = f"{before} {rest}".strip()
    return Image(
        user=found["USER"],
        folder=found["WORKDIR"],
        entrypoint=tuple(json.loads(found["ENTRYPOINT"])),
        command=tuple(json.loads(found["CMD"])),
        health=tuple(json.loads(found["HEALTHCHECK"].partition("CMD ")[2])),
        environment=_pairs(found.get("ENV", "")),
        labels=_pairs(found.get("LABEL", "")),
    )


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(text))
