"""`make deploy`: the tools of their platforms judge deploy/, each from a package registry.

hadolint reads the Dockerfile, Helm lints and renders the chart, kubernetes-validate holds every
object to the schema of two releases of Kubernetes, compose_spec parses the compose file, and
systemd-analyze, which is part of systemd, verifies and rates the unit.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv-deploy" / "bin"
RELEASES = ("1.30", "1.37")
"""The oldest release that the chart is for, and the newest that the tool knows."""
EXPOSURE_MAX = "20"
"""Of systemd's rating, which is shown as 2.0: 0 is closed, 100 is open."""
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
ON_POSTGRES: dict[str, Any] = yaml.safe_load(
    (DEPLOY / "helm" / "postgres.yaml").read_text(encoding="utf-8")
)
MORE: dict[str, Any] = {
    "allowedHosts": ["pay.example.com", "hooks.example.com"],
    "env": [{"name": "STAGE_HOST", "value": "::"}],
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "payment",
    "podAnnotations": {"sidecar.istio.io/inject": "false"},
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    "volume": {"size": "40Gi"},
}
"""Values of a cluster that wants more than the demo does."""
JOBS = ("database-init.yaml", "database-upgrade.yaml", "release-check.yaml")
WARNING = 2
"""Of Helm's severities; below it there is only information."""


def judged(*command: str | Path, given: str | None = None) -> str:
    """Run a tool; what it says when it has nothing against it."""
    done = subprocess.run(
        [str(each) for each in command], input=given, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def rendered(values: dict[str, Any]) -> dict[str, str]:
    """The manifests of the demo with these values; Helm has no warning about the chart."""
    given = json.dumps(values)
    found = json.loads(judged(TOOLS / "python", DEPLOY / "render.py", "--lint", given=given))
    assert [] == found["lint"]["errors"]
    assert [] == [each for each in found["lint"]["messages"] if each["severity"] >= WARNING]
    manifests: dict[str, str] = found["manifests"]
    return manifests


def test_the_dockerfile_is_clean() -> None:
    """By every rule of hadolint, and of the shellcheck in it."""
    assert "" == judged(TOOLS / "hadolint", DEPLOY / "Dockerfile")


def test_a_fault_of_the_dockerfile_is_seen(tmp_path: Path) -> None:
    """The judge judges: an image without a tag."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (tmp_path / "Dockerfile").write_text(text.replace("python:3.13-slim-bookworm", "python"))
    with pytest.raises(AssertionError, match="DL3006"):
        judged(TOOLS / "hadolint", tmp_path / "Dockerfile")


def test_the_manifests_are_what_the_chart_renders() -> None:
    """deploy/kubernetes is not edited by hand: run deploy/render.py after a change of the chart."""
    there = {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    }
    assert rendered({}) == there


def test_the_manifests_on_postgresql_are_what_the_chart_renders() -> None:
    """With the values of both examples: there is no volume among them."""
    demo = yaml.safe_load((DEPLOY / "helm" / "demo.yaml").read_text(encoding="utf-8"))
    network = {**demo["network"], **ON_POSTGRES["network"]}
    there = {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted((DEPLOY / "kubernetes-postgres").glob("*.yaml"))
    }
    assert rendered({**ON_POSTGRES, "network": network}) == there
    assert "volume.yaml" not in there


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"strategy": "Recreate", "keysSecret": "", "network": {}},
        {"volume": {"size": "1Gi", "storageClassName": "local"}, "settings": {"drain_seconds": 5}},
        ON_POSTGRES,
        MORE,
    ],
    ids=["demo", "closed", "other volume", "PostgreSQL", "more"],
)
def test_every_object_fits_the_schema_of_kubernetes(
    tmp_path: Path, release: str, values: dict[str, Any]
) -> None:
    """Strictly: a member that Kubernetes does not know is refused."""
    manifests = rendered(values)
    for name, text in manifests.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = sorted(tmp_path.glob("*.yaml"))
    assert len(manifests) == len(files) >= 7
    judged(TOOLS / "kubernetes-validate", "--strict", "-k", release, *files)


def test_a_fault_of_a_manifest_is_seen(tmp_path: Path) -> None:
    """The judge judges: a member that was misspelt."""
    text = rendered({})["deployment.yaml"].replace("replicas:", "replica:")
    (tmp_path / "deployment.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match="replica"):
        judged(TOOLS / "kubernetes-validate", "--strict", tmp_path / "deployment.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"taget": "payments:payment"},
        {"target": ""},
        {"image": ""},
        {"strategy": "Sometimes"},
        {"settings": {"database": "sqlite:///elsewhere.db"}},
        {"settings": {"admin_port": 1}},
        {"postgres": {"url": "postgresql://stage:secret@db/stage"}},
        {"postgres": {"urlSecret": "payment-database", "replicas": 1}},
        {"settings": {"drain_seconds": "long"}},
        {"settings": {"allowed_hosts": "pay.example.com"}},
        {"allowedHosts": ["https://pay.example.com"]},
        {"allowedHosts": ["a.example.com,b.example.com"]},
        {"env": [{"name": "STAGE_ALLOWED_HOSTS", "value": "pay.example.com"}]},
        {"env": [{"value": "nameless"}]},
        {"env": [{"name": "STAGE_TLS_CERT", "value": "/etc/stage/keys/payment.pem"}]},
    ],
)
def test_values_that_are_wrong_are_refused(values: dict[str, Any]) -> None:
    """By the schema of the chart, before anything is installed."""
    with pytest.raises(AssertionError, match="HelmValuesError"):
        rendered(values)


def test_times_follow_from_the_settings() -> None:
    """A longer drain gives the pod more time, and the next one more patience."""
    text = rendered({"settings": {"drain_seconds": 300}, "preStopSeconds": 10})["deployment.yaml"]
    spec = yaml.safe_load(text)["spec"]["template"]["spec"]
    assert 320 == spec["terminationGracePeriodSeconds"]
    waits = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert "335" == waits["STAGE_LOCK_WAIT_SECONDS"]


@pytest.mark.parametrize("name", ["deployment.yaml", *JOBS])
def test_a_pod_has_what_its_cluster_wants(name: str) -> None:
    """Webhooks and the console come under names that only the operator knows; SDKs have variables.

    The environment outranks the settings, so that the names can be given here alone. VACUUM
    writes a copy of the database to /tmp: the pod must not be evicted for it.
    """
    made = list(yaml.safe_load_all(rendered(MORE)[name]))[-1]["spec"]["template"]
    spec = made["spec"]
    for member in ("imagePullSecrets", "serviceAccountName", "nodeSelector", "tolerations"):
        assert MORE[member] == spec[member]
    assert MORE["podAnnotations"].items() <= made["metadata"]["annotations"].items()
    given = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert "::" == given["STAGE_HOST"]
    allowed = given["STAGE_ALLOWED_HOSTS"].split(",")
    assert ["payment", "payment.default"] == allowed[:2] and MORE["allowedHosts"] == allowed[-2:]
    (temporary,) = (each for each in spec["volumes"] if each["name"] == "temporary")
    assert "40Gi" == temporary["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize(
    "settings, scheme", [({}, None), ({"tls_cert": "/etc/stage/keys/payment.pem"}, "HTTPS")]
)
def test_probes_speak_as_the_ports_do(settings: dict[str, Any], scheme: str | None) -> None:
    """With a certificate every port speaks TLS: a pod that is asked in plain is never ready."""
    given = {"settings": {"drain_seconds": 20, **settings}}
    spec = yaml.safe_load(rendered(given)["deployment.yaml"])["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    asked = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert [scheme] * 3 == [each.get("scheme") for each in asked]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.postgres.yaml"])
def test_the_compose_file_is_one(name: str) -> None:
    """With its anchors resolved, since the parser wants merge keys to be gone."""
    compose = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    parse = (
        "import sys; from compose_spec import PyCompose;"
        " print(*PyCompose.from_yaml(sys.stdin.read()).service_names())"
    )
    text = yaml.safe_dump({name: part for name, part in compose.items() if name[:2] != "x-"})
    assert sorted(compose["services"]) == judged(TOOLS / "python", "-c", parse, given=text).split()
    wrong = text.replace("read_only:", "readonly:", 1)
    with pytest.raises(AssertionError, match="readonly"):
        judged(TOOLS / "python", "-c", parse, given=wrong)


def test_the_unit_of_systemd_is_sound_and_closed(tmp_path: Path) -> None:
    """Verified with an executable that is there, and rated by how much it leaves open."""
    assert SYSTEMD_ANALYZE is not None, "systemd-analyze comes with systemd: install it"
    text = (DEPLOY / "systemd" / "stage@.service").read_text(encoding="utf-8")
    unit = tmp_path / "stage@payment.service"
    unit.write_text(text.replace("/opt/stage/bin/stage", sys.executable), encoding="utf-8")
    judged(SYSTEMD_ANALYZE, "verify", "--man=no", unit)
    rate = (SYSTEMD_ANALYZE, "security", "--offline=true", f"--threshold={EXPOSURE_MAX}")
    judged(*rate, unit)
    opened = re.sub(r"^(?:Protect|Private|Restrict|System).*\n", "", text, flags=re.MULTILINE)
    unit.write_text(opened.replace("/opt/stage/bin/stage", sys.executable), encoding="utf-8")
    with pytest.raises(AssertionError):
        judged(*rate, unit)
