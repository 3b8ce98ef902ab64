"""Prometheus' own tool judges what we print, our alert rules and the queries of our dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stage.cli.root import cli
from stage.telemetry import names, workers
from tests.scenario.chain import running_chain

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
ROOT = Path(__file__).resolve().parents[2]
KINDS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
VARIABLES = {
    "$__rate_interval": "5m",
    "$job": "stage",
    "$instance": ".*",
}


def printed_names() -> set[str]:
    """Every name of a series that a stage prints, or several workers together do."""
    return {workers.UP} | {
        names.prometheus_name(name) + ending
        for name, metric in names.METRICS.items()
        for ending in KINDS[metric.kind]
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    found: dict[str, Any] = json.loads((ROOT / "examples/grafana/stage.json").read_text())
    return found


def queries(board: dict[str, Any]) -> Iterator[str]:
    """The queries of its panels, its variables filled in."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query: str = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield query


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    """The output of promtool; it must be content and have nothing to advise."""
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert 0 == done.returncode, said
    return said


@pytest.mark.blocking
@needs_promtool
async def test_the_page_of_a_stage_pleases_promtool(tmp_path: Path) -> None:
    """`promtool check metrics` parses it and has nothing to say about names and help."""
    async with running_chain(tmp_path) as chain:
        await chain.send("s-1")
        _, _, body = await chain.request("GET", f"{chain.stage}/metrics")
    assert "" == promtool("check", "metrics", stdin=body)


@needs_promtool
def test_the_alert_rules_are_rules() -> None:
    """All of them, by `promtool check rules` with its lint on."""
    said = promtool("check", "rules", "--lint=all", str(ROOT / "examples/prometheus/alerts.yaml"))
    assert f"{len(ALERTS) + RECORDED} rules found" in said


ALERTS = {
    "StageFailedToCompensate": {
        'stage_sagas_ended_total{outcome="failed_to_compensate"}': ("0x25 1x40", "0x65"),
    },
    "StageSagaParked": {'stage_parked{cause="in_doubt"}': ("0x20 2x40", "0x65")},
    "StageApprovalWaits": {
        'stage_oldest_approval_seconds{step="risk"}': ("0+60x65", "0+60x65"),
        'stage_approval_expiry_seconds{step="risk"}': ("3000-60x50 _x15", "86400-60x65"),
    },
    "StageApprovalExpires": {
        'stage_oldest_approval_seconds{step="risk"}': ("80000+60x65", "0+60x65"),
        'stage_approval_expiry_seconds{step="risk"}': ("4800-60x65", "3600-60x60 _x5"),
    },
    "StageCompensationDelayed": {"stage_oldest_compensation_seconds": ("0+60x65", "0+10x65")},
    "StageSagasRefused": {
        'stage_sagas_ended_total{outcome="completed"}': ("0+60x28 1680x40", "0+30x65"),
        'stage_sagas_ended_total{outcome="compensated"}': ("0x28 60+60x40", "0+30x65"),
        'stage_sagas_ended_total{outcome="failed_to_compensate"}': ("0x65", "0x65"),
    },
    "StageStandsStill": {
        "stage_sagas_accepted_total": ("0+5x400", "0+5x400"),
        'stage_sagas_ended_total{outcome="completed"}': ("0+5x355 1775x45", "0+5x400"),
    },
    "StageSaturated": {
        "stage_ready": ("1x65", "1x65"),
        'stage_paused{target="intake"}': ("0x65", "1x65"),
        'stage_requests_total{code="503"}': ("0+60x65", "0+60x65"),
        'stage_requests_total{code="200"}': ("0+600x65", "0+600x65"),
    },
    "StageSagaStuck": {"stage_oldest_unfinished_seconds": ("0+60x65", "5x65")},
    "StageInDoubt": {"stage_in_doubt": ("1x65", "0 1 0 1x3 0x60")},
    "StageBehind": {"stage_due_lag_seconds": ("0+60x65", "2x65")},
    "StageNotReady": {
        "stage_ready": ("1x5 0x60", "1x28 0x37"),
        "stage_draining": ("0x65", "0x28 1x37"),
    },
    "StageDown": {"up": ("1x5 0x60", "1x65"), "stage_ready": ("1x5 _x60", "1x5 0 1x60")},
    "StageGone": {
        "stage_ready": ("1x5 _x60", "1x5 _x60"),
        'stage_ready{pod="next"}': ("_x65", "_x6 0x59"),
    },
    "StageWorkerAway": {'stage_worker_up{worker="1"}': ("1x5 0x60", "1x28 0 1x40")},
    "StageCodeStuck": {'stage_code_stuck_total{thread="writer"}': ("0x25 1x40", "0x65")},
    "StagePeerLeftAlone": {'stage_breaker_open{peer="psp"}': ("1x65", "0 1 1 0x63")},
    "StageDenied": {
        'stage_peer_answers_total{peer="psp",answer="401"}': ("0+2x65", "0x65"),
        'stage_peer_answers_total{peer="psp",answer="certificate"}': ("0+2x65", "0x65"),
        'stage_peer_answers_total{peer="psp",answer="200"}': ("0+9x65", "0+9x65"),
    },
    "StageCallersRefused": {
        'stage_requests_total{code="403"}': ("0+20x65", "0+3x65"),
    },
    "StageLostSagas": {"stage_lost_sagas": ("0x20 1x45", "0x65")},
    "StageNewerSagas": {"stage_newer_sagas": ("0x5 3x60", "0x25 3x2 0x38")},
    "StageDatabaseError": {"stage_database_error": ("0x20 1x45", "0 1 0x63")},
    "StageLogGrows": {'stage_database_size_bytes{part="wal"}': ("2e9x65", "4e6x65")},
    "StageClockJumped": {"stage_clock_jump_seconds": ("0x20 -3600x45", "0 1 0x63")},
    "StageCrashes": {
        "process_start_time_seconds": ("0x20 100 200 300 400 500x40", "7x65"),
        "stage_ready": ("1x65", "1x65"),
    },
    "StageSlowCommits": {
        'stage_writer_commit_duration_seconds_bucket{le="0.25"}': ("0x65", "0+100x65"),
        'stage_writer_commit_duration_seconds_bucket{le="0.5"}': ("0+100x65", "0+100x65"),
        'stage_writer_commit_duration_seconds_bucket{le="+Inf"}': ("0+100x65", "0+100x65"),
    },
    "StageCertificateExpires": {
        'stage_certificate_expiry_seconds{place="tls_cert"}': ("500000x65", "0 700000x64"),
    },
    "StageFilesRefused": {'stage_files_refused{place="tls_cert"}': ("0x20 1x45", "0 1 1 0x62")},
    "StageLogDropped": {"stage_log_lines_dropped_total": ("0x25 40x40", "7x65")},
    "StagePaused": {'stage_paused{target="intake",direction="both"}': ("0x25 1x40", "0x65")},
    "StageDefect": {'stage_defects_total{where="run"}': ("0x25 1x40", "0x65")},
}
"""By rule: the series under which it fires, and those under which it does not, a minute apart."""
PODS = "kubernetes_sd_configs:\n      - role: pod\n"
AT = "30m"
INTERVALS = {"StageStandsStill": "5s"}
"""Between the samples of a rule whose windows are shorter than a minute."""
PAGES = sorted(set((ROOT / "docs/runbook").glob("*.md")) - {ROOT / "docs/runbook/README.md"})
RECORDED = 3
"""Rules of the file that are no alerts."""


def timed(alert: str, column: int) -> str:
    """A test for `promtool test rules`: the alert at AT under one column of its series."""
    series = "".join(
        f"      - {{series: '{sample_of(name)}', values: '{values[column]}'}}\n"
        for name, values in ALERTS[alert].items()
    )
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return (
        f"  - interval: {INTERVALS.get(alert, '1m')}\n    input_series:\n{series}"
        "    promql_expr_test:\n"
        f"      - {{expr: '{firing}', eval_time: {AT},"
        f" exp_samples: [{{labels: '{{}}', value: {1 - column}}}]}}\n"
    )


def sample_of(name: str) -> str:
    """A series with the labels that a scrape gives it."""
    base, _, labels = name.partition("{")
    more = f",{labels}" if labels else "}"
    return f'{base}{{job="stage",instance="a:8080"{more}'


@needs_promtool
def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """Each rule is run by promtool over an hour that is bad and one that is not."""
    rules = ROOT / "examples/prometheus/alerts.yaml"
    written = re.findall(r"alert: (\w+)", rules.read_text())
    assert sorted(ALERTS) == sorted(written)
    cases = "".join(timed(alert, column) for alert in ALERTS for column in (0, 1))
    test = tmp_path / "test.yaml"
    test.write_text(f"rule_files: ['{rules}']\nevaluation_interval: 1m\ntests:\n{cases}")
    promtool("test", "rules", str(test))


DONE, UNDONE, TAKEN = (
    'stage_sagas_ended_total{job="stage",instance="%s",outcome="completed"}',
    'stage_sagas_ended_total{job="stage",instance="%s",outcome="compensated"}',
    'stage_sagas_accepted_total{job="stage",instance="%s"}',
)
YOUNG = {
    "a pod that came in the middle of it": (
        "StageSagasRefused", "1m",
        {DONE % "a": "0+60x65", UNDONE % "a": "0x65",
         DONE % "b": "_x18 0+30x45", UNDONE % "b": "_x18 0+30x45"},
    ),
    "the first sagas since days": (
        "StageSagasRefused", "1m", {DONE % "a": "0x65", UNDONE % "a": "0x28 60+60x40"},
    ),
    "a pod that has never ended a saga": (
        "StageStandsStill", "5s",
        {TAKEN % "a": "0+5x300 1500x100", DONE % "a": "0+5x300 1500x100",
         TAKEN % "b": "_x340 0+5x60", DONE % "b": "_x340 0x60"},
    ),
    "an hour of standing still": (
        "StageStandsStill", "5s", {TAKEN % "a": "0+5x400", DONE % "a": "0+5x120 600x280"},
    ),
}  # fmt: skip
"""By case: an alert that has to fire, the time between samples, and the series."""


@needs_promtool
@pytest.mark.parametrize("case", list(YOUNG))
def test_the_usual_share_is_that_of_all_pods(tmp_path: Path, case: str) -> None:
    """A pod that is new, or was idle, has no past to be measured by."""
    alert, interval, inputs = YOUNG[case]
    series = "".join(
        f"      - {{series: '{name}', values: '{values}'}}\n" for name, values in inputs.items()
    )
    test = tmp_path / "test.yaml"
    test.write_text(
        f"rule_files: ['{ROOT / 'examples/prometheus/alerts.yaml'}']\nevaluation_interval: 1m\n"
        f"tests:\n  - interval: {interval}\n    input_series:\n{series}"
        "    promql_expr_test:\n"
        f'      - {{expr: \'count(ALERTS{{alertname="{alert}",alertstate="firing"}})\','
        f" eval_time: {AT}, exp_samples: [{{labels: '{{}}', value: 1}}]}}\n"
    )
    promtool("test", "rules", str(test))


@needs_promtool
def test_the_scrapes_of_the_page_are_configurations(tmp_path: Path) -> None:
    """Of hosts, and of the pods of the chart: by labels and a port that these have.

    Some builds of the tool know no Kubernetes, so that its rules are judged with hosts.
    """
    found = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/metrics.md").read_text(), re.DOTALL)
    assert 2 == len(found)
    for text in found:
        file = tmp_path / "prometheus.yml"
        file.write_text(text.replace(PODS, "static_configs:\n      - targets: [a]\n"))
        promtool("check", "config", "--syntax-only", str(file))
    assert PODS in found[1]
    template = (ROOT / "deploy/kubernetes/deployment.yaml").read_text()
    for label in ("app.kubernetes.io/name", "app.kubernetes.io/part-of"):
        assert f"{label}: " in template.partition("  template:")[2]
        assert "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", label) in found[1]
    assert "{name: admin, containerPort: 9080}" in template and "regex: admin" in found[1]


@needs_promtool
@pytest.mark.parametrize(
    "minutes, left, fire",
    [
        (29, 3 * 1440, []),
        (61, 3 * 1440, ["Waits"]),
        (4200, 90, ["Waits"]),
        (4260, 59, ["Expires", "Waits"]),
        (29, 31, []),
        (31, 29, ["Waits"]),
        (44, 16, ["Waits"]),
        (46, 14, ["Expires", "Waits"]),
    ],
)
def test_an_approval_is_reported_by_its_time_out(
    tmp_path: Path, minutes: int, left: int, fire: list[str]
) -> None:
    """One of three days after an hour, and an hour before its end; one of an hour by its shares."""
    labels = '{job="stage",instance="a:8080",step="risk"}'
    inputs = "".join(
        f"      - {{series: '{name}{labels}', values: '{60 * value}x5'}}\n"
        for name, value in (
            ("stage_oldest_approval_seconds", minutes),
            ("stage_approval_expiry_seconds", left),
        )
    )
    counted = 'count(ALERTS{alertname="StageApproval%s",alertstate="firing"}) or vector(0)'
    expected = "".join(
        f"      - {{expr: '{counted % name}', eval_time: 3m,"
        f" exp_samples: [{{labels: '{{}}', value: {int(name in fire)}}}]}}\n"
        for name in ("Expires", "Waits")
    )
    test = tmp_path / "test.yaml"
    test.write_text(
        f"rule_files: ['{ROOT / 'examples/prometheus/alerts.yaml'}']\nevaluation_interval: 1m\n"
        f"tests:\n  - interval: 1m\n    input_series:\n{inputs}    promql_expr_test:\n{expected}"
    )
    promtool("test", "rules", str(test))


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    """With what it means, what to look at, what to press and what not to."""
    text = (ROOT / "examples/prometheus/alerts.yaml").read_text()
    named = dict(re.findall(r"alert: (\w+)\n(?:.*\n)*?          runbook: (\S+)", text))
    assert set(ALERTS) == set(named)
    pages = {f"docs/runbook/{path.name}" for path in PAGES}
    assert pages == set(named.values())
    for alert, page in named.items():
        title, *rest = (ROOT / page).read_text().splitlines()
        assert f"# {alert}" == title
        assert ["## Look at", "## Press", "## Do not"] == [
            line for line in rest if line.startswith("#")
        ]


def test_the_commands_of_the_pages_exist() -> None:
    """Nobody types a command at three in the morning that there is not."""
    for path in PAGES:
        for command in re.findall(r"`stage ([a-z]+)", path.read_text()):
            assert command in cli.commands, f"{path.name}: stage {command}"


@needs_promtool
def test_every_query_of_the_dashboard_is_a_query(tmp_path: Path) -> None:
    """Each is parsed as the expression of a recording rule."""
    rules = [
        {"record": f"stage:panel{number}", "expr": query}
        for number, query in enumerate(queries(dashboard()))
    ]
    file = tmp_path / "rules.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist() -> None:
    """A name that no stage prints would be an empty panel, and an alert that never fires."""
    alerts = (ROOT / "examples/prometheus/alerts.yaml").read_text()
    expressions = [*queries(dashboard()), *re.findall(r"expr: (.+)", alerts)]
    asked = {name for text in expressions for name in re.findall(r"\bstage_\w+", text)}
    assert asked <= printed_names()
    judged = {name.removesuffix("_bucket") for name in asked}
    assert "stage_writer_commit_duration_seconds" in judged


@needs_promtool
def test_the_dashboard_does_not_call_a_process_ready_that_is_gone(tmp_path: Path) -> None:
    """Its series ends, and of what has ended a panel shows the last value."""
    (ready,) = [query for query in queries(dashboard()) if "stage_ready" in query]
    series = {"up": "1x5 0x60", "stage_ready": "1x5 stale _x60"}
    inputs = "".join(
        f"      - {{series: '{name}{{job=\"stage\",instance=\"a\"}}', values: '{values}'}}\n"
        for name, values in series.items()
    )
    test = tmp_path / "test.yaml"
    test.write_text(
        f"evaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n{inputs}"
        f"    promql_expr_test:\n      - {{expr: '{ready}', eval_time: 30m,"
        " exp_samples: [{labels: '{}', value: 0}]}\n"
    )
    promtool("test", "rules", str(test))


def test_every_panel_says_what_it_shows() -> None:
    """With a title, a description, a unit and a place of its own."""
    board = dashboard()
    panels = board["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    assert len(panels) == len({json.dumps(panel["gridPos"], sort_keys=True) for panel in panels})
    for panel in panels:
        assert panel["title"]
        if "row" != panel["type"]:
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert "${datasource}" == panel["datasource"]["uid"]
    assert {"datasource", "job", "instance"} == {
        each["name"] for each in board["templating"]["list"]
    }
