"""Alerts and dashboard: valid queries, for series and labels that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import promql_parser
import pytest
import yaml

from charting import CHART, ROOT, chart, one, values

ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
METRIC = re.compile(r"\b(?:sundog|controller_runtime|workqueue|leader_election|rest_client)_[a-z0-9_]+")
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")
# Series that every program of controller-runtime has, in good and in bad health. `0+5x30` is a counter that rises by 5 a minute.
PROCESS_SERIES = {
    'leader_election_master_status{name="$name", $target}': ("1x30", "0x30"),
    'controller_runtime_reconcile_errors_total{controller="raycluster", $target}': ("0x30", "0+5x30"),
    'workqueue_queue_duration_seconds_bucket{name="$name", le="60.0", $target}': ("0x30", "0+5x30"),
    'workqueue_queue_duration_seconds_bucket{name="$name", le="+Inf", $target}': ("0x30", "0+5x30"),
    'workqueue_longest_running_processor_seconds{name="$name", $target}': ("0x30", "900x30"),
}
SUNDOG = {"name": "sundog", "target": 'namespace="sundog-system", job="a", instance="a"'}
KUBERAY = {"name": "raycluster", "target": 'namespace="kuberay", job="b", instance="b"'}
# As Grafana fills them in.
VARIABLES = {"$__rate_interval": "5m", "$namespace": ".*", "$service": ".*"}


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield panel["title"], text


def exported() -> str:
    """The code that names metrics."""
    sources = [*ROOT.glob("operator/src/**/*.py"), *ROOT.glob("serving/src/sundog_edge/agent/metrics.py")]
    return "\n".join(path.read_text() for path in sources)


@pytest.mark.parametrize(("title", "expression"), list(expressions()), ids=lambda text: text[:24])
def test_queries_are_valid(title: str, expression: str) -> None:
    promql_parser.parse(expression)


@pytest.mark.parametrize("name", sorted({m for _, text in expressions() for m in METRIC.findall(text)}))
def test_the_series_exist(name: str) -> None:
    # The agent composes the last word of these names.
    stem = re.sub(r"^sundog_edge_log_\w+$", "sundog_edge_log_", SUFFIX.sub("", name))
    assert stem in exported()


def test_they_are_rendered_as_they_are_written() -> None:
    everything = values("everything")
    assert one(everything, "PrometheusRule", "sundog-blue")["spec"] == ALERTS
    rendered = one(everything, "ConfigMap", "sundog-blue-dashboard")["data"]["sundog.json"]
    assert json.loads(rendered) == DASHBOARD


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_and_a_first_step(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["annotations"]["description"].startswith("First ")
    assert rule["for"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_labels_that_its_query_keeps(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    kept = {label.strip() for part in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in part.split(",")}
    assert used <= (kept or {"name"})


def firing(folder: Path, series: dict[str, str]) -> set[str]:
    """The alerts that fire after half an hour, by promtool."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    inputs = [{"series": name, "values": samples} for name, samples in series.items()]
    # promtool prints what it got where it expected something else. No alert has this name.
    asked = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": "30m", "exp_samples": [{"labels": "none", "value": 1}]}
    tests = [{"interval": "1m", "input_series": inputs, "promql_expr_test": [asked]}]
    (folder / "rules.yaml").write_text(yaml.safe_dump(ALERTS))
    (folder / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    ran = subprocess.run([promtool, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True)
    assert "got:" in ran.stderr + ran.stdout, ran
    return set(re.findall(r'alertname="(\w+)"', ran.stderr + ran.stdout))


def series_of(program: dict[str, str], *, bad: bool) -> dict[str, str]:
    every = {Template(name).substitute(program): samples[bad] for name, samples in PROCESS_SERIES.items()}
    return every | (
        {f"sundog_operator_leader{{{SUNDOG['target']}}}": ("1x30", "0x30")[bad]} if program is SUNDOG else {}
    )


def test_alerts_about_the_operator_follow_no_other_program(tmp_path: Path) -> None:
    assert firing(tmp_path, series_of(SUNDOG, bad=False) | series_of(KUBERAY, bad=True)) == set()
    every = {"SundogNoLeader", "SundogReconcileErrors", "SundogWorkWaits", "SundogPassHangs"}
    assert firing(tmp_path, series_of(SUNDOG, bad=True) | series_of(KUBERAY, bad=False)) == every
    assert firing(tmp_path, series_of(KUBERAY, bad=False)) == {"SundogNoLeader"}, "no process of Sundog is left"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_the_namespace_by_which_routes_select(rule: dict[str, Any]) -> None:
    for part in re.findall(r"\b(?:sum|max) (by \([^)]*\))?", rule["expr"]):
        assert "namespace" in part


def test_a_release_s_alerts_are_about_its_own_namespace() -> None:
    rendered = chart().render(values("everything"), name="sundog", namespace="platform")
    (rules,) = [
        each
        for each in yaml.safe_load_all(rendered["sundog/templates/monitoring.yaml"])
        if each and each["kind"] == "PrometheusRule"
    ]
    written = yaml.safe_dump(ALERTS).replace('namespace="sundog-system"', 'namespace="platform"')
    assert rules["spec"] == yaml.safe_load(written) != ALERTS


def test_an_operator_without_a_leader_is_seen_beside_another_release(tmp_path: Path) -> None:
    other = 'sundog_operator_leader{namespace="other", job="a", instance="a"}'
    assert firing(tmp_path, {other: "1x30"}) == {"SundogNoLeader"}, "its series are gone"
    assert firing(tmp_path, {other: "1x30"} | series_of(SUNDOG, bad=True)) >= {"SundogNoLeader"}
    assert firing(tmp_path, {other: "0x30"} | series_of(SUNDOG, bad=False)) == set(), "the other one has its own rule"


def test_no_alert_and_no_panel_has_the_name_of_another() -> None:
    names = [title for title, _ in expressions()]
    assert len(names) == len(set(names))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_a_panel_has_a_description(panel: dict[str, Any]) -> None:
    assert panel["description"]
