"""Draws the templates: every value is escaped, and no answer lets a browser run what is not ours.

Templates and files are read once, when this module is loaded: no request waits for a disk.
"""

from __future__ import annotations

from importlib.resources import files
from secrets import token_urlsafe
from typing import Any, Final
from urllib.parse import urlencode

import jinja2

from stage.core.advice import NOBODY_KNOWS, PROSPECTS
from stage.inbound.console_paths import CONSOLE
from stage.inbound.request import Answer, Request
from stage.wire.duration import duration
from stage.wire.envelope import parse_instant, path_of_saga

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""A page may load files of ours alone, and has no script or style within it."""
SAFETY: Final = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),  # with none at all, a browser hides the origin of a form
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
HTML: Final = ("Content-Type", "text/html; charset=utf-8")
TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
SIZES: Final = (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000))


def _texts(folder: str) -> dict[str, str]:
    found = files("stage.console").joinpath(folder).iterdir()
    return {file.name: file.read_text(encoding="utf-8") for file in found}


FILES: Final = _texts("files")
"""The style and the script of the pages."""


def size(count: int) -> str:
    """A number of bytes as a person says it: 512 B, 4.1 MB, 20 GB."""
    for unit, factor in SIZES:
        if count >= factor:
            shown = f"{count / factor:.1f}".removesuffix(".0")
            return f"{shown} {unit}"
    return f"{count} B"


def words(name: object) -> str:
    """A value of an enum as words."""
    return str(name).replace("_", " ")


def new_key() -> str:
    """The idempotency key of one form, as it is drawn once."""
    return token_urlsafe(16)


_environment: Final = jinja2.Environment(
    loader=jinja2.DictLoader(_texts("html")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "duration": duration,
    "size": size,
    "words": words,
    "prospect": lambda name: PROSPECTS.get(name, words(name)),
    "saga_path": path_of_saga,
    "query": urlencode,
}


def page(template: str, request: Request, now: float, status: int = 200, **values: Any) -> Answer:
    """The template as an answer. `now` is the instant from which ages are counted."""
    about = {
        "root": request.prefix + CONSOLE,
        "reader": request.about.principal,
        "age": lambda instant: duration(now - parse_instant(instant)),
        "until": lambda instant: duration(parse_instant(instant) - now),
        "new_key": new_key,
        "nobody_knows": NOBODY_KNOWS,
    }
    text = _environment.get_template(template).render(**about, **values)
    return Answer(status=status, headers=(HTML, *SAFETY), body=text.encode())


def file(name: str) -> Answer | None:
    """A file of the pages; None where there is none of that name."""
    text = FILES.get(name)
    if text is None:
        return None
    kind = ("Content-Type", TYPES[name.rpartition(".")[2]])
    return Answer(headers=(kind, *SAFETY), body=text.encode())


def to(request: Request, path: str) -> Answer:
    """Send the browser to another page of ours, to be read with GET."""
    return Answer(
        status=303, headers=(("Location", f"{request.prefix}{CONSOLE}{path}"), *SAFETY), body=b""
    )
