"""Generated objects: the operator's own reading and the API server's admission come to the same verdict."""

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from profiles import examples
from sundog_operator.api import RESOURCE_TYPES, find_violations
from sundog_operator.api.schema.node_tree import Node, build_node_tree

DURATIONS = ["30s", "0s", "5m", "1h30m", "2ms", "14d", "1d12h", "5", "", "-1s", "1.5h", "5m\n", "1m1h"]
QUANTITIES = [
    "1",
    "500m",
    "2Gi",
    "0",
    "0.5",
    ".5",
    "1e3",
    "1E",
    "1.",
    "-1",
    "2 Gi",
    "512m",
    "1GiB",
    "",
    1,
    0,
    -3,
    1.5,
    True,
]
PERCENTS = ["25%", "0%", "100%", "100.5%", "0.5%", "5", "%", "1000%", "99999%", "-5%"]
URIS = [
    "file:///models/a b",
    "s3://b/k",
    "s3://",
    "ftp://x",
    "",
    "file:///a\nb",
    "hf://ü",
    "S3://b",
    "https://[::1]:65536/a",
    "oci://r:5000/a/b:v1",
    "hf://a/b@c",
    "gs://my.bucket/a//b",
]
NAMES = ["wide", "control", "canary", "narrow", "a-b", "-a", "A", "", "x" * 64, "a.b", "a b"]
JUNK: list[Any] = [None, True, 0, -1, 7, 3.0, 0.5, 10**6, "", "x", [], [1], {}, {"a": 1}, [None], "é" * 200]
WORDS = [
    *DURATIONS,
    *QUANTITIES,
    *PERCENTS,
    *URIS,
    *NAMES,
    "net:Net",
    "net",
    "sha256:" + "a" * 64,
    "sha256:A",
    "0.5",
    "1.5",
    "2%",
    "500ms",
]
KEYS = ["wide", "control", "team", "example.com/team", "ray.io/cluster", "x-canary", "a b", "-", "", "k" * 318]


STRATEGIES: dict[int, st.SearchStrategy[Any]] = {}


def values(node: Node) -> st.SearchStrategy[Any]:
    """JSON for a shape: mostly close to right, now and then far off."""
    # Built once: a strategy per draw costs more than the checks.
    if id(node) not in STRATEGIES:
        STRATEGIES[id(node)] = st.deferred(lambda: st.one_of(*[near(node)] * 1, st.sampled_from(JUNK)))
    return STRATEGIES[id(node)]


def near(node: Node) -> st.SearchStrategy[Any]:
    if node.kind == "object":
        return objects(node)
    if node.kind == "array" and node.items is not None:
        return st.lists(values(node.items), max_size=3)
    if node.kind == "map" and node.items is not None:
        return st.dictionaries(st.sampled_from(KEYS), values(node.items), max_size=3)
    if node.kind == "free":
        return st.dictionaries(st.text(max_size=3), st.sampled_from(JUNK), max_size=3)
    if node.kind == "boolean":
        return st.booleans()
    if node.kind in ("integer", "number"):
        return numbers(node)
    if node.enum:
        return st.sampled_from([*node.enum, *node.enum, "other"])
    if node.limits.pattern is not None:
        return st.one_of(st.sampled_from(WORDS), st.from_regex(node.limits.pattern.replace("$", r"\Z")))
    return st.one_of(st.sampled_from(WORDS), st.text(max_size=20))


def numbers(node: Node) -> st.SearchStrategy[Any]:
    low = node.limits.ge if node.limits.ge is not None else node.limits.gt or 0
    high = node.limits.le if node.limits.le is not None else node.limits.lt or 100
    edges = [low, low - 1, low + 1, high, high + 1, 2, 50]
    whole = st.sampled_from([int(edge) for edge in edges])
    return st.one_of(whole, st.sampled_from([0.05, 0.5, 1.5])) if node.kind == "number" else whole


@st.composite
def objects(draw: st.DrawFn, node: Node) -> dict[str, Any]:
    """A few fields at a time: an object with everything in it is wrong in too many places at once."""
    required = [name for name, child in node.fields.items() if child.required and draw(st.integers(0, 30)) != 0]
    optional = sorted(set(node.fields) - set(required))
    chosen = draw(st.lists(st.sampled_from(optional), max_size=3, unique=True)) if optional else []
    result = {name: draw(values(node.fields[name].node)) for name in [*required, *chosen]}
    return result | ({"unheardOf": 1} if draw(st.integers(0, 20)) == 0 else {})


def resources(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    specs = values(build_node_tree(RESOURCE_TYPES[kind]).fields["spec"].node)
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": kind}
    names = st.sampled_from(["digits", "digits", "digits", "8b", "a" * 41, "a" * 64, "a.b"])
    return st.builds(lambda name, spec: {**head, "metadata": {"name": name}, "spec": spec}, names, specs)


def assert_agreement(admission: Any, obj: dict[str, Any]) -> None:
    found, denials = find_violations(obj), admission.denials(obj)
    event("accepted" if not found else "shape" if not denials or denials[0].phase == "shape" else "rule")
    assert bool(found) == bool(denials), (found, denials)
    if not denials:
        return
    paths = {violation.path for violation in found}
    keys = [violation for violation in found if violation.message.startswith("key ")]
    if denials[0].phase == "shape":
        # Keys are shape to the types and rules to the schema, which looks at rules last.
        assert {violation.path for violation in found if violation not in keys} == {denial.path for denial in denials}
    elif not keys:
        said = {(violation.path, violation.message) for violation in found}
        assert said == {split(denial) for denial in denials}
    assert all(paths)


def split(denial: Any) -> tuple[str, str]:
    if denial.path:
        return denial.path, denial.message
    path, _, message = denial.message.partition(": ")
    return path, message


@pytest.mark.parametrize("kind", sorted(RESOURCE_TYPES))
def test_generated_objects_get_the_same_verdict(admissions: Any, kind: str) -> None:
    @settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(resources(kind))
    def agree(obj: dict[str, Any]) -> None:
        assert_agreement(admissions[kind], obj)

    agree()


PARTS = [
    ("ModelDeployment", "spec.rollout"),
    ("ModelDeployment", "spec.resources"),
    ("ModelDeployment", "spec.autoscaling"),
    ("ModelDeployment", "spec.endpoint"),
    ("ModelDeployment", "spec.runtime"),
    ("ModelDeployment", "spec.scheduling"),
    ("Experiment", "spec.metrics"),
    ("Experiment", "spec.arms"),
    ("Experiment", "spec.weights"),
]
BASES = {
    "ModelDeployment": {"model": {"uri": "file:///models/a"}},
    "Experiment": {"modelDeployment": "digits", "arms": [{"name": "wide"}]},
}


@pytest.mark.parametrize(("kind", "path"), PARTS)
def test_one_part_at_a_time(admissions: Any, kind: str, path: str) -> None:
    """Depth: the rest of the object is good, so that the rules of the part are reached."""
    node = build_node_tree(RESOURCE_TYPES[kind])
    for name in path.split("."):
        node = node.fields[name].node

    @settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(near(node))
    def agree(value: Any) -> None:
        spec = BASES[kind] | {path.partition(".")[2]: value}
        obj = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": kind, "metadata": {"name": "digits"}, "spec": spec}
        assert_agreement(admissions[kind], obj)

    agree()
