"""Prints the bill of materials of the environment that runs it, as CycloneDX 1.6 in JSON.

Run by the build of the image and by `make sbom`, which asks with --licences for a list of name,
version and licence too. It needs the standard library alone, so that the tool which counts the
packages is not one of them.
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
    """One package, with its licence: an SPDX expression where the package states one."""
    name = normal(package.name)
    url = f"pkg:pypi/{name}@{package.version}"
    known = {"type": "library", "name": name, "version": package.version}
    licence = package.metadata.json.get("license_expression")
    if licence:
        licences: list[dict[str, Any]] = [{"expression": licence}]
    else:
        licences = [{"license": {"name": named}} for named in _named(package)]
    return {**known, "bom-ref": url, "purl": url, **({"licenses": licences} if licences else {})}


def licences(installed: list[Distribution]) -> str:
    """A line a package: name, version, licence."""
    lines = []
    for each in installed:
        licence = each.metadata.json.get("license_expression") or " or ".join(_named(each))
        lines.append(f"{normal(each.name)} {each.version}: {licence or 'not stated'}")
    return "\n".join(sorted(lines))


def _named(package: Distribution) -> list[str]:
    """The licences that an older package names: its classifiers, or a licence field of one line."""
    found = package.metadata.json.get("classifier", [])
    named = [each.rpartition(" :: ")[2] for each in found if each.startswith("License ::")]
    said = str(package.metadata.json.get("license") or "").strip()
    return named or ([said] if said and "\n" not in said else [])


def normal(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    if "--licences" in sys.argv:
        print(licences(list(distributions())))
    else:
        json.dump(document(list(distributions())), sys.stdout, indent=1)
