"""The reference pages are complete and up to date."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference import __main__ as generate
from reference import metrics
from reference.reasons import (
    ADVICE,
    EVENTS,
    EXPERIMENT_CONDITIONS,
    MODEL_DEPLOYMENT_CONDITIONS,
    PAUSE_REASONS,
    START_FAILURE_REASONS,
)
from sundog_operator.core.kubernetes.references import ADMINISTRATOR_VARIABLES

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs" / "reference"
SOURCES = [*ROOT.glob("operator/src/**/*.py"), *ROOT.glob("serving/src/**/*.py")]
METRICS_LIBRARIES = ("prometheus_client.", "ray.util.metrics.")
VARIABLE = re.compile(r"_?[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|RAY_[a-z_]+")
LABEL = re.compile(r"(?:[a-z0-9-]+\.)+[a-z]+/[a-z][A-Za-z0-9.-]*")

NO_VARIABLES = {
    # Refused, and named above the tables.
    *("AMD_VISIBLE_DEVICES", "HABANA_VISIBLE_DEVICES", "NVIDIA_IMEX_CHANNELS"),
    *("A100_NVLINK_80GB", "H100_NVLINK_80GB", "H100_PCIE"),
    *("FLAG_NOT_FOUND", "INVALID_CONTEXT", "PARSE_ERROR", "TARGETING_KEY_MISSING", "TARGETING_MATCH"),
    *(
        "DEPLOY_FAILED",
        "RUSAGE_THREAD",
        "SC_PAGE_SIZE",
        "SC_PHYS_PAGES",
        "TCP_KEEPCNT",
        "TCP_KEEPIDLE",
        "TCP_KEEPINTVL",
    ),
}
"""Upper-case strings in the code that are names of other things."""

READ_BY_LIBRARIES = {
    *("AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"),
    "GOOGLE_APPLICATION_CREDENTIALS",
}
SINGLE_WORDS = {"KUBECONFIG", "TMPDIR"}

NO_LABELS = {
    *("amd.com/gpu", "aws.amazon.com/neuroncore", "gpu.intel.com/xe", "habana.ai/gaudi"),
    *("nvidia.com/gpu", "nvidia.com/gpu.shared"),
    *("kueue.x-k8s.io/admission", "kai.scheduler/queue", "volcano.sh/queue-name"),
    *(
        "kubernetes.io/h2c",
        "kubernetes.io/tls",
        "serving.sundog.dev/never-set",
        "serving.sundog.dev/operator",
        "k8s.io/initial-events-end",
    ),
}
"""Strings in the code that look like labels: devices, a gate, refused labels, a protocol, a type of Secrets, a reporter, tests."""


def text(page: str) -> str:
    return (PAGES / page).read_text()


def strings(path: Path) -> Iterator[str]:
    """Strings of a module, except exported names; f-strings that begin with the API group as a whole."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "__init__.py":
            yield node.value
        if isinstance(node, ast.JoinedStr) and ast.unparse(node).startswith("f'{GROUP}/"):
            yield ast.unparse(node)[2:-1].replace("{GROUP}", "serving.sundog.dev")


def first_column(page: str) -> set[str]:
    cells = re.findall(r"^\| (`[^|]+`) \|", text(page), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_generated_files_are_written_and_up_to_date(tmp_path: Path) -> None:
    root = tmp_path / "new"
    generate.write_files(root)
    written = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    assert len(written) >= 11
    assert [path for path in written if (ROOT / path).read_text() != (root / path).read_text()] == [], (
        "run `make generate`"
    )


def exports_metrics(path: Path) -> bool:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return any(f"{name}.".startswith(METRICS_LIBRARIES) for name in names)


def test_the_page_renders_every_module_that_exports_metrics() -> None:
    exporting = {path.relative_to(ROOT).as_posix() for path in SOURCES if exports_metrics(path)}
    assert exporting == {
        "operator/src/sundog_operator/adapters/metrics.py",
        "serving/src/sundog_edge/agent/http_server.py",
        "serving/src/sundog_edge/agent/metrics.py",
        "serving/src/sundog_runtime/serve.py",
    }


@pytest.mark.parametrize(
    ("exported", "labels"),
    [
        (metrics.operator_metrics(), metrics.OPERATOR_LABELS),
        (metrics.edge_metrics(), metrics.EDGE_LABELS),
        (metrics.runtime_metrics(), metrics.RUNTIME_LABELS),
    ],
    ids=["operator", "edge", "runtime"],
)
def test_every_metric_has_a_meaning_and_every_label_too(
    exported: list[metrics.MetricText], labels: dict[str, str]
) -> None:
    assert {label for each in exported for label in each.labels} == set(labels)
    for each in exported:
        assert each.meaning
        assert f"| `{each.name}` | {each.type} |" in text("metrics.md")


def test_every_environment_variable_is_on_the_page() -> None:
    found = {value for path in SOURCES if not path.name.endswith("_pb2.py") for value in strings(path)}
    variables = {value for value in found if VARIABLE.fullmatch(value)} - NO_VARIABLES
    assert variables | SINGLE_WORDS == first_column("environment-variables.md")
    assert set(text("environment-variables.md").split("`")) >= READ_BY_LIBRARIES


def test_keys_of_a_secret_replace_no_documented_variable_of_the_administrator() -> None:
    page = text("environment-variables.md").partition("\n## Model server\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(SUNDOG_\w+)`", page, re.MULTILINE))
    assert set(ADMINISTRATOR_VARIABLES) == documented - {"SUNDOG_CACHE_DIR", "SUNDOG_PVC_ROOT"}


def test_every_label_annotation_and_finalizer_is_on_the_page() -> None:
    found = {value for path in SOURCES for value in strings(path) if LABEL.fullmatch(value)}
    labels = {value for value in found if not re.search(r"/v\d", value)} - NO_LABELS
    listed = first_column("labels-and-annotations.md")
    finalizers = {label for label in labels if label.endswith("-finalizer")}
    assert labels - finalizers == listed
    assert all(f"`{finalizer}`" in text("labels-and-annotations.md") for finalizer in finalizers)


def test_every_reason_that_is_trouble_has_advice() -> None:
    conditions = [*MODEL_DEPLOYMENT_CONDITIONS, *EXPERIMENT_CONDITIONS]
    ends = {
        "Complete",
        "MaxDuration",
        "MaxUnits",
        "NotStarted",
        "Promoted",
        "StopCommand",
        "StoppedByUser",
        "Superseded",
    }
    trouble = {
        each.reason
        for condition in conditions
        for each in condition.reasons
        if each.truth == ("True" if condition.type == "Stalled" else "False")
    }
    trouble |= {each.reason for each in (*START_FAILURE_REASONS, *PAUSE_REASONS)}
    trouble |= {each.reason for each in EVENTS if each.truth == "Warning"}
    assert trouble - ends - set(ADVICE) == set()


def test_no_advice_is_left_over_and_anchors_are_unique() -> None:
    headings = re.findall(r"^#+ (.+)$", text("condition-reasons.md"), re.MULTILINE)
    assert set(ADVICE) - set(headings) == set()
    assert [heading for heading, count in Counter(map(str.lower, headings)).items() if count > 1] == []
