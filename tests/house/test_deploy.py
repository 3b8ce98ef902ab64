"""deploy/ keeps what the stage needs: its times, its one process, its settings, no rights.

The tools of `make deploy` judge the same files by the rules of their platforms.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stage.bootstrap.exit_guard import EXIT_SECONDS_MAX
from stage.config import SETTINGS, Config, load

VARIABLES = {setting.variable for setting in SETTINGS} | {"STAGE_CONFIG"}
JOBS = ("database-init.yaml", "database-upgrade.yaml", "release-check.yaml")
CHECK = "release-check.yaml"


@pytest.fixture(scope="module")
def deploy(root: Path) -> Path:
    return root / "deploy"


@pytest.fixture(scope="module")
def compose(deploy: Path) -> Any:
    return yaml.safe_load((deploy / "compose.yaml").read_text(encoding="utf-8"))


def manifest(deploy: Path, name: str) -> Any:
    """The object of Kubernetes in a file that is applied, or the last one of several."""
    text = (deploy / "kubernetes" / name).read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))[-1]


def pod(deploy: Path, name: str) -> Any:
    """The pod that a Deployment or a Job makes."""
    return manifest(deploy, name)["spec"]["template"]["spec"]


def settings(deploy: Path, tmp_path: Path) -> Config:
    """The stage.toml of the manifests, as the stage reads it."""
    file = tmp_path / "stage.toml"
    file.write_text(manifest(deploy, "settings.yaml")["data"]["stage.toml"], encoding="utf-8")
    return load({}, {}, str(file))


def test_the_settings_of_the_manifests_are_settings(deploy: Path, tmp_path: Path) -> None:
    """The chart writes TOML that the stage takes, peers and their keys included."""
    config = settings(deploy, tmp_path)
    assert {"order", "shipping", "psp"} == {
        *config.upstreams, *config.downstreams, *config.externals
    }  # fmt: skip


def test_a_pod_is_given_the_time_that_the_stage_takes_to_stop(deploy: Path, tmp_path: Path) -> None:
    """preStop, drain delay, drain, and the forced end: then SIGKILL. The next one waits longer."""
    spec = pod(deploy, "deployment.yaml")
    (container,) = spec["containers"]
    config = settings(deploy, tmp_path)
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = stop + config.drain_delay_seconds + config.drain_seconds + EXIT_SECONDS_MAX
    granted = spec["terminationGracePeriodSeconds"]
    assert granted > needed
    wait = float(variables(container)["STAGE_LOCK_WAIT_SECONDS"])
    assert wait > granted
    probe = container["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] > wait + 60


def test_temporary_files_have_the_room_of_the_database(deploy: Path) -> None:
    """`stage erase` copies the database to /tmp: a pod that grows beyond its limit is evicted."""
    (temporary,) = (
        each["emptyDir"]
        for each in pod(deploy, "deployment.yaml")["volumes"]
        if each["name"] == "temporary"
    )
    volume = manifest(deploy, "volume.yaml")["spec"]["resources"]["requests"]["storage"]
    assert volume == temporary["sizeLimit"]


def test_one_pod_may_end_before_the_next_is_ready(deploy: Path) -> None:
    """With one file they would otherwise wait for each other for ever."""
    spec = manifest(deploy, "deployment.yaml")["spec"]
    assert 1 == spec["replicas"]
    assert {"maxSurge": 1, "maxUnavailable": 1} == spec["strategy"]["rollingUpdate"]
    budget = manifest(deploy, "disruption.yaml")["spec"]
    assert 1 == budget["maxUnavailable"]


def test_replicas_on_postgresql_are_replaced_one_by_one(deploy: Path) -> None:
    """The next one serves before one ends; a drain of a node takes one at a time; no volume."""
    folder = deploy / "kubernetes-postgres"
    found = yaml.safe_load((folder / "deployment.yaml").read_text(encoding="utf-8"))["spec"]
    assert found["replicas"] >= 2
    assert {"maxSurge": 1, "maxUnavailable": 0} == found["strategy"]["rollingUpdate"]
    budget = yaml.safe_load((folder / "disruption.yaml").read_text(encoding="utf-8"))["spec"]
    assert 1 == budget["maxUnavailable"] < found["replicas"]
    spec = found["template"]["spec"]
    assert ["podAntiAffinity"] == list(spec["affinity"])
    assert not [each for each in spec["volumes"] if "persistentVolumeClaim" in each]


def test_the_url_of_the_database_comes_from_a_secret(deploy: Path) -> None:
    """It may hold a password: it is no value of the chart, and stands in no manifest."""
    for name in ("deployment.yaml", *JOBS):
        text = (deploy / "kubernetes-postgres" / name).read_text(encoding="utf-8")
        *_, found = yaml.safe_load_all(text)
        (container,) = found["spec"]["template"]["spec"]["containers"]
        given = {each["name"]: each for each in container["env"]}
        secret = given["STAGE_DATABASE"]["valueFrom"]["secretKeyRef"]
        assert {"name": "payment-database", "key": "url"} == secret
        assert "STAGE_LOCK_WAIT_SECONDS" not in given and "postgresql:" not in text


def test_on_postgresql_the_migration_reaches_the_database_alone(deploy: Path) -> None:
    """And names; nothing reaches it."""
    text = (deploy / "kubernetes-postgres" / "network.yaml").read_text(encoding="utf-8")
    stage, migration = (each["spec"] for each in yaml.safe_load_all(text))
    assert [53, 53, 5432] == [
        port["port"] for rule in migration["egress"] for port in rule["ports"]
    ]
    assert "ingress" not in migration and migration["egress"][-1] == stage["egress"][-1]


@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes-postgres"])
def test_a_release_is_checked_before_its_pods_start(deploy: Path, folder: str) -> None:
    """Behind its expansions, in the new image, on the database, by the settings that come with it.

    Those of the release before are in force until the update: it would be judged by their peers.
    """
    text = (deploy / folder / CHECK).read_text(encoding="utf-8")
    settings, check = yaml.safe_load_all(text)
    upgrade, served, stage_settings = (
        yaml.safe_load((deploy / folder / name).read_text(encoding="utf-8"))
        for name in ("database-upgrade.yaml", "deployment.yaml", "settings.yaml")
    )
    hooks = [each["metadata"]["annotations"] for each in (upgrade, settings, check)]
    assert ["pre-upgrade"] * 3 == [each["helm.sh/hook"] for each in hooks]
    assert [0, 1, 2] == [int(each.get("helm.sh/hook-weight", 0)) for each in hooks]
    spec, pods = (each["spec"]["template"]["spec"] for each in (check, served))
    (container,), (serving,) = spec["containers"], pods["containers"]
    assert ["check", serving["args"][-1]] == container["args"]
    assert serving["image"] == container["image"] and serving["env"] == container["env"]
    assert stage_settings["data"] == settings["data"]
    others = [each for each in pods["volumes"] if each["name"] != "settings"]
    mine = {"name": "settings", "configMap": {"name": settings["metadata"]["name"]}}
    assert [mine, *others] == spec["volumes"]
    assert serving["volumeMounts"] == container["volumeMounts"]


@pytest.mark.parametrize("name", ["deployment.yaml", *JOBS])
def test_a_pod_has_no_rights(deploy: Path, name: str) -> None:
    """Not root, no capabilities, a root that cannot be written to, no token of the cluster."""
    spec = pod(deploy, name)
    assert spec["securityContext"]["runAsNonRoot"]
    assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # variables that begin with STAGE_, by the dozen
    for container in spec["containers"]:
        assert {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        } == container["securityContext"]
        assert set() == set(variables(container)) - VARIABLES


@pytest.mark.parametrize("name", ["deployment.yaml", *JOBS])
def test_no_pod_makes_a_database_by_the_way(deploy: Path, name: str) -> None:
    """By the chart, since the image of an author may be another one than ours."""
    (container,) = pod(deploy, name)["containers"]
    assert "true" == variables(container)["STAGE_DATABASE_MUST_EXIST"]


def variables(container: Any) -> dict[str, str]:
    """The environment of a container."""
    return {each["name"]: each["value"] for each in container["env"]}


def test_the_liveness_probe_does_not_ask_whether_the_stage_is_ready(deploy: Path) -> None:
    """A stage whose database is away would be restarted for ever, and mends itself otherwise."""
    (container,) = pod(deploy, "deployment.yaml")["containers"]
    asked = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "liveness", "readiness")
    }
    assert {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"} == asked


def test_the_service_is_known_by_the_names_that_callers_use(deploy: Path) -> None:
    """A request with another name in its Host header is refused."""
    (container,) = pod(deploy, "deployment.yaml")["containers"]
    name = manifest(deploy, "service.yaml")["metadata"]["name"]
    allowed = variables(container)["STAGE_ALLOWED_HOSTS"].split(",")
    assert {name, f"{name}.default.svc"} <= set(allowed)


def test_only_the_pods_of_the_stage_are_reached_and_reach(deploy: Path) -> None:
    """Both directions are closed but for what is named, and metrics are not for the neighbours."""
    text = (deploy / "kubernetes" / "network.yaml").read_text(encoding="utf-8")
    stage, migration = (each["spec"] for each in yaml.safe_load_all(text))
    assert ["Ingress", "Egress"] == stage["policyTypes"] == migration["policyTypes"]
    assert "ingress" not in migration and "egress" not in migration
    assert [8080, 9080] == [rule["ports"][0]["port"] for rule in stage["ingress"]]
    assert all(rule["from"] for rule in stage["ingress"])


def test_both_replicas_of_the_compose_file_are_alike(deploy: Path, compose: Any) -> None:
    """The second one is set as the first one is, and has its name in the network."""
    over = yaml.safe_load((deploy / "compose.postgres.yaml").read_text(encoding="utf-8"))
    first, second = (over["services"][name] for name in ("payment", "payment-2"))
    before = compose["services"]["payment"]["environment"]
    wanted = {**before, **first["environment"]}
    wanted.pop("STAGE_LOCK_WAIT_SECONDS")  # there is no file to wait for
    assert wanted == second["environment"]
    assert {"payment"} == set(second["networks"]["default"]["aliases"])
    assert second["read_only"] and ["ALL"] == second["cap_drop"]


def test_every_variable_of_the_compose_file_is_a_setting(compose: Any) -> None:
    """A misspelt one would be ignored with a warning."""
    given = {
        name
        for service in compose["services"].values()
        for name in service.get("environment", {})
        if name.startswith("STAGE_")
    }
    assert given and set() == given - VARIABLES


def test_the_containers_of_the_compose_file_have_no_rights(compose: Any) -> None:
    """Ours: no capabilities, a root that cannot be written to, ports on this machine alone."""
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if service["image"] == "saga-stage":
            assert service["read_only"] and ["ALL"] == service["cap_drop"], name
    granted = int(compose["services"]["payment"]["stop_grace_period"].removesuffix("s"))
    assert granted > Config().drain_seconds + EXIT_SECONDS_MAX


def test_the_unit_of_systemd_knows_settings_and_times(deploy: Path) -> None:
    """Its variables are settings, and it kills after the stage would have ended itself."""
    text = (deploy / "systemd" / "stage@.service").read_text(encoding="utf-8")
    given = set(re.findall(r"^Environment=(STAGE_\w+)=", text, flags=re.MULTILINE))
    assert given and set() == given - VARIABLES
    granted = re.search(r"^TimeoutStopSec=(\d+)$", text, flags=re.MULTILINE)
    assert granted is not None
    assert int(granted[1]) > Config().drain_seconds + EXIT_SECONDS_MAX


def test_the_commands_for_systemd_work_in_their_order(root: Path) -> None:
    """A module is imported from the folder of the unit; the database is there at the start."""
    page = (root / "docs" / "deploy.md").read_text(encoding="utf-8")
    section = page.partition("\n## systemd\n")[2].partition("\n## ")[0]
    commands = "".join(re.findall(r"```\n(.*?)```", section, flags=re.DOTALL))
    unit = (root / "deploy" / "systemd" / "stage@.service").read_text(encoding="utf-8")
    folder = re.search(r"^WorkingDirectory=(\S+)$", unit, flags=re.MULTILINE)
    assert folder is not None
    enter, init, start = (
        commands.index(word) for word in (f"cd {folder[1]}", "db init", "systemctl enable --now")
    )
    assert enter < init < start
