"""Renders the chart. Needs `helm-python-sdk`, which has Helm's own code in it: see `make deploy`.

Without arguments it writes deploy/kubernetes/ anew: the release payment, with the demo's values;
and deploy/kubernetes-postgres/, the same with replicas on PostgreSQL.
With --lint it reads further values as JSON from its input, lints the chart with them, and prints
what it found and each manifest, by the name of its file, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import helm_python

HERE = Path(__file__).resolve().parent
CHART = HERE / "helm" / "stage"
DEMO = HERE / "helm" / "demo.yaml"
RENDERED = HERE / "kubernetes"
ON_POSTGRES = HERE / "helm" / "postgres.yaml"
RENDERED_ON_POSTGRES = HERE / "kubernetes-postgres"
RELEASE = "payment"
HEAD = "# Rendered from deploy/helm by deploy/render.py: change it there, and run `make deploy`.\n"


def demo() -> dict[str, Any]:
    """The values of the payment stage of the demo."""
    values: dict[str, Any] = helm_python.values_from_yaml(DEMO.read_text(encoding="utf-8"))
    return values


def on_postgres() -> dict[str, Any]:
    """The same on PostgreSQL."""
    values = demo()
    over: dict[str, Any] = helm_python.values_from_yaml(ON_POSTGRES.read_text(encoding="utf-8"))
    return {**values, **over, "network": {**values["network"], **over["network"]}}


def manifests(values: dict[str, Any]) -> dict[str, str]:
    """The manifests that Helm makes of the chart at an installation, by the name of the file."""
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=RELEASE, namespace="default", is_install=True)
    return {
        Path(name).name: HEAD + text.strip() + "\n"
        for name, text in sorted(rendered.items())
        if text.strip()
    }


def main(arguments: list[str]) -> int:
    """Write the manifests, or lint the chart and print them."""
    if arguments == ["--lint"]:
        values = {**demo(), **json.load(sys.stdin)}
        found = helm_python.lint(str(CHART), values)
        json.dump({"lint": found, "manifests": manifests(values)}, sys.stdout, default=str)
        return 0
    for folder, values in ((RENDERED, demo()), (RENDERED_ON_POSTGRES, on_postgres())):
        folder.mkdir(exist_ok=True)
        for name, text in manifests(values).items():
            (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
