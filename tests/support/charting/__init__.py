"""The chart in tests: rendered by Helm's own code, without a cluster."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "sundog"
CASES = ROOT / "tests" / "contract" / "chart" / "cases"
GOLDEN = ROOT / "tests" / "contract" / "chart" / "golden"
RELEASE = "sundog"
NAMESPACE = "sundog-system"
CRDS = "templates/crds.yaml"

Values = Mapping[str, Any]
Object = dict[str, Any]


@cache
def chart() -> helm_python.Chart:
    """Load the chart of this checkout."""
    return helm_python.Chart.load(str(CHART))


def cases() -> list[str]:
    """Return the names of the value sets with golden files."""
    return sorted(path.stem for path in CASES.glob("*.yaml"))


def values(case: str) -> dict[str, Any]:
    """Return one of these value sets."""
    loaded: dict[str, Any] = yaml.safe_load((CASES / f"{case}.yaml").read_text(encoding="utf-8"))
    return loaded


def templates(given: Values, release: str = RELEASE) -> dict[str, str]:
    """Return each template's text by its path in the chart. Raises helm_python's HelmError if `helm template` would fail."""
    rendered = chart().render(dict(given), name=release, namespace=NAMESPACE)
    return {path.removeprefix("sundog/"): text for path, text in sorted(rendered.items())}


def objects(given: Values) -> list[Object]:
    """Return all objects of a release."""
    documents = (document for _, text in _manifests(given) for document in yaml.load_all(text, Loader=yaml.CSafeLoader))
    return [document for document in documents if document is not None]


def one(given: Values, kind: str, name: str = RELEASE) -> Object:
    """Return the object of a kind and name. Raises ValueError if there is not exactly one."""
    (found,) = [obj for obj in objects(given) if obj["kind"] == kind and obj["metadata"]["name"] == name]
    return found


def installed(release: str, places: list[str], *watched: str) -> Object:
    """Return the ConfigMap of a release with these places for exposure logs and these watched namespaces; none means all."""
    given = values("smallest")
    installation = {**given["installation"], "exposureLogs": {"places": places}}
    named = {"fullnameOverride": release, "watchNamespaces": list(watched)}
    return one({**given, **named, "installation": installation}, "ConfigMap", release)


def golden(case: str) -> str:
    """Render the golden file of a case: everything except the CRDs, which are compared with their source."""
    parts = (f"# {path}\n{text.strip()}\n" for path, text in _manifests(values(case)) if path != CRDS and text.strip())
    return "---\n".join(parts)


def _manifests(given: Values) -> Iterator[tuple[str, str]]:
    return ((path, text) for path, text in templates(given).items() if path.endswith(".yaml"))
