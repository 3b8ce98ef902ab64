"""The pages of the site that are not in docs/, and the links between all of them.

The pages are written for readers of the repository: they link to files of code, and to pages beside
docs/. Here each of these becomes a page too, and each link the one to it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
HOME = "README.md"
FOLDERS = {
    "docs/decisions": ("Decisions", "[0-9]*.md"),
    "docs/evidence": ("Evidence", "*.*"),
}
"""Each folder that a page links to: the title of its contents, and the files in it."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".conf": "nginx"}
REFERENCE = {
    "stage": ("Authoring", ["stage.serving.Stage", *(f"stage.authoring.{name}" for name in (
        "Saga", "Tx", "Http", "Response", "OutgoingRequest", "Webhook", "Landed", "Declined",
        "Refused", "Transient", "InDoubt", "Pending", "NotVerified",
    )), "stage.bootstrap.tables.store_of"]),
    "testing": ("Testing", [*(f"stage.testing.{name}" for name in (
        "effects.FakeApi", "compensations.assert_compensates", "gateways.assert_doubts_gateways",
    )), *(f"stage.testing.fakes.{name}" for name in (
        "FakeHttp", "FakeTx", "Statement", "fake_saga", "reply",
    )), *(f"stage.testing.spans.{name}" for name in ("SpanCollector", "Spans", "SpanSeen")),
        "stage.testing.external.make_external", "stage.testing.neighbours.served",
        "stage.testing.plugin.stage_neighbours"]),
    "simulation": ("Simulation", [f"stage.simulation.{name}" for name in (
        "ApiModel", "UnkeyedApi", "ApiRequest", "Effect", "json_answer",
    )]),
    "config": ("Configuration", ["stage.config.Config", "stage.config.load"]),
}  # fmt: skip
"""The objects of each page of the reference, in its order."""

_FENCE = re.compile(r"^(?P<fence>```+).*?^(?P=fence)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_INDENT = re.compile(r"^ +(?=\S)", re.MULTILINE)
_BEGINS_A_LIST = re.compile(r"^(?![-|> ]|\d+\. )(.+)\n(?=- )", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of other files."""
    for name, text in _pages():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """Give each link its page, and lists the form that this renderer of Markdown takes."""
    here = page.file.src_uri
    if here.startswith(("reference/", "source/")):
        return text
    lead = "" if here == "index.md" or (ROOT / here).exists() else DOCS
    whence = HOME if here == "index.md" else lead + here
    return "".join(
        part if fenced else _as_rendered(_LINK.sub(lambda found: _link(found, whence, here), part))
        for fenced, part in _parts(text)
    )


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """The fenced blocks, and the text between them."""
    at = 0
    for found in _FENCE.finditer(text):
        yield False, text[at : found.start()]
        yield True, found[0]
        at = found.end()
    yield False, text[at:]


def _as_rendered(text: str) -> str:
    """Four spaces for each level of a list, and an empty line before one."""
    text = _INDENT.sub(lambda found: " " * (4 * -(-len(found[0]) // 3)), text)
    return _BEGINS_A_LIST.sub(r"\1\n\n", text)


def _link(found: re.Match[str], whence: str, here: str) -> str:
    target, anchor = found[2], found[3] or ""
    if re.match(r"[a-z]+:", target):
        return found[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(whence), target))
    to = posixpath.relpath(_page_of(place), posixpath.dirname(here) or ".")
    return f"{found[1]}{to}{anchor}{found[4]}"


def _page_of(place: str) -> str:
    """The page of the site that shows a file of the repository."""
    if place == HOME:
        return "index.md"
    if place in FOLDERS:
        return f"{place.removeprefix(DOCS)}/index.md"
    if place.startswith(DOCS):
        return place.removeprefix(DOCS)
    return place if place.endswith(".md") else f"source/{place}.md"


def _pages() -> Iterator[tuple[str, str]]:
    linked: set[str] = set()
    for file in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        whence = file.relative_to(ROOT).as_posix()
        text = file.read_text(encoding="utf-8")
        if "/" not in whence:
            yield _page_of(whence), text
        places = (_LINK.finditer(part) for fenced, part in _parts(text) if not fenced)
        linked |= {
            posixpath.normpath(posixpath.join(posixpath.dirname(whence), found[2]))
            for each in places
            for found in each
        }
    for place in sorted(linked):
        if (ROOT / place).is_file() and not place.startswith(DOCS) and not place.endswith(".md"):
            yield _page_of(place), _source(place)
    for name, (title, objects) in REFERENCE.items():
        yield (
            f"reference/{name}.md",
            f"# {title}\n\n" + "".join(f"::: {each}\n\n" for each in objects),
        )
    for place, (title, pattern) in FOLDERS.items():
        yield _page_of(place), _contents(ROOT / place, title, pattern)


def _source(place: str) -> str:
    text = (ROOT / place).read_text(encoding="utf-8").rstrip()
    return f"# {place}\n\n````{LANGUAGES.get(Path(place).suffix, 'text')}\n{text}\n````\n"


def _contents(folder: Path, title: str, pattern: str) -> str:
    """The files of a folder, each by its first line where that is a heading."""
    lines = [f"# {title}", ""]
    for file in sorted(folder.glob(pattern)):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        said = first.removeprefix("# ") if first.startswith("# ") else file.name
        lines.append(f"- [{said}]({file.name})")
    return "\n".join(lines) + "\n"
