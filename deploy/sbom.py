"""Prints the bill of materials of the environment that runs it, as CycloneDX 1.6 in JSON.

Run by the build of the image. It needs the standard library alone, so that the tool which counts
the packages is not one of them.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions
from typing import Any

PRODUCT = "saga-stage"


def document(installed: list[Distribution]) -> dict[str, Any]:
    """The document of these packages. The product is its subject, and no component of its own."""
    found = {normal(each.name): component(each) for each in installed}
    subject = found.pop(PRODUCT, {"type": "application", "name": PRODUCT})
    python = {"type": "platform", "name": "python", "version": platform.python_version()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**subject, "type": "application"}},
        "components": [python, *(found[name] for name in sorted(found))],
    }


def component(package: Distribution) -> dict[str, Any]:
    """One package, with its licence where the package states an SPDX expression."""
    name = normal(package.name)
    url = f"pkg:pypi/{name}@{package.version}"
    known = {"type": "library", "name": name, "version": package.version}
    licence = package.metadata.json.get("license_expression")
    licences = {"licenses": [{"expression": licence}]} if licence else {}
    return {**known, "bom-ref": url, "purl": url, **licences}


def normal(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    json.dump(document(list(distributions())), sys.stdout, indent=1)
