"""The store of a namespace's edges: who needs it, its objects, and who gets its secrets."""

from typing import Any

import pytest

from sundog_operator.api.installation import parse_installation
from sundog_operator.core.edge import deployment as edge_deployment
from sundog_operator.core.edge import feedback_store as edge_store
from sundog_operator.core.edge import network_policies, objects
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import valkey

EXTERNAL = "feedback: {store: {external: {address: 'redis.example.com:6380', passwordSecretName: redis}}}"
OPEN = "feedback: {store: {external: {address: 'redis.example.com:6380'}}}"
MEMBERS = [
    {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "vision", "uid": f"uid-of-{name}"},
    }
    for name in ("letters", "digits")
]
CONVERSION = [{"name": "conversion", "feedback": "converted"}]


def experiment(phase: str = "", **metrics: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "wide-or-narrow", "namespace": "vision", "uid": "u"},
        "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}], "metrics": metrics},
        **({"status": {"phase": phase}} if phase else {}),
    }


def stateful_set(text: str = "") -> dict[str, Any]:
    installation = parse_installation(text, "test")
    store = edge_store.make_namespace_store("vision", MEMBERS)
    return valkey.make_stateful_set(store, edge_store.make_server(installation), installation.edge.pods, None)


def deployment(text: str = "", *, feedback: bool = True) -> dict[str, Any]:
    return edge_deployment.make_deployment("vision", MEMBERS, parse_installation(text, "test"), feedback=feedback)


def agent(made: dict[str, Any]) -> dict[str, Any]:
    (found,) = [each for each in made["spec"]["template"]["spec"]["containers"] if each["name"] == "agent"]
    return dict(found)


def feedback_options(made: dict[str, Any]) -> list[str]:
    return [each for each in agent(made)["args"] if each.startswith(("--signing-key", "--store"))]


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (experiment(), False),
        (experiment(guardrails=[{"metric": "errorRate"}]), False),
        (experiment(guardrails=[{"name": "revenue", "feedback": "paid"}]), True),
        (experiment(success=CONVERSION), True),
        (experiment(secondary=CONVERSION), True),
        (experiment("Queued", success=CONVERSION), True),
        (experiment("Concluded", success=CONVERSION), True),
        (experiment("Stopped", success=CONVERSION), True),
        (experiment(success=[{"name": "conversion"}]), False),
        ({"metadata": {"name": "broken"}}, False),
        ({**experiment(success=CONVERSION), "status": "damaged"}, True),
    ],
)
def test_an_experiment_with_metrics_of_outcomes_wants_it_as_long_as_it_exists(
    obj: dict[str, Any], wanted: bool
) -> None:
    assert edge_store.is_needed_by(obj) is wanted


@pytest.mark.parametrize(
    "spec", [{"metrics": {}}, {"metrics": {"success": [{"name": "conversion"}]}}, {"arms": "none"}]
)
def test_an_edit_of_what_runs_costs_nothing_that_was_kept(spec: dict[str, Any]) -> None:
    outcomes = [{"name": "conversion", "role": "success", "feedback": "converted", "type": "rate", "goal": "increase"}]
    arms = [{"name": name, "hash": name, "buckets": 5000} for name in ("control", "wide")]
    plan = {"hash": "0" * 16, "comparison": {"arms": arms, "outcomes": outcomes, "maxDuration": "1h", "maxUnits": 9}}
    edited = {**experiment("Running"), "status": {"phase": "Running", "plan": plan}}
    edited["spec"] = {**edited["spec"], **spec}
    assert edge_store.is_needed_by(edited)
    assert not edge_store.is_needed_by({**edited, "status": {}})


@pytest.mark.parametrize(("phase", "wanted"), [("Pending", True), ("Running", True), ("Stopped", False)])
def test_a_rollout_wants_it_until_its_end(phase: str, wanted: bool) -> None:
    outcomes = [{"name": "kept", "role": "guardrail", "feedback": "accepted", "margin": 0.1}]
    rollout = {**experiment(), "status": {"phase": phase, "plan": {"hash": "0" * 16, "outcomes": outcomes}}}
    assert edge_store.is_needed_by(rollout) is wanted


@pytest.mark.parametrize(
    ("guardrails", "wanted"),
    [
        ([], False),
        ([{"metric": "errorRate"}], False),
        ([{"name": "kept", "feedback": "accepted"}], True),
    ],
)
def test_a_model_deployment_wants_it_before_its_rollout_begins(guardrails: list[Any], wanted: bool) -> None:
    """Edges restart when they get it."""
    obj = {**MEMBERS[0], "spec": {"model": {"uri": "file:///models/v1"}, "rollout": {"guardrails": guardrails}}}
    assert edge_store.is_needed_by_rollouts_of(obj) is wanted


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"rollout": {"guardrails": [{"name": "kept", "feedback": "accepted"}]}, "replicsa": 2}, True),
        ({"rollout": {"guardrails": [{"feedback": "accepted"}]}}, True),
        ({"rollout": {"guardrails": [{"metric": "errorRate"}, 7]}}, False),
        ({"rollout": {"guardrails": "accepted"}}, False),
        ({"rollout": ["accepted"]}, False),
        (None, False),
    ],
)
def test_a_mistake_in_a_spec_does_not_remove_it(spec: dict[str, Any] | None, wanted: bool) -> None:
    """Its outcomes would be lost, and edges would roll twice."""
    assert edge_store.is_needed_by_rollouts_of({**MEMBERS[0], "spec": spec}) is wanted


def test_it_refuses_instead_of_forgetting_and_outlives_its_pod() -> None:
    made = stateful_set("feedback: {store: {memory: 512Mi, storage: {size: 2Gi, className: fast}}}")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    command = container["command"][-1]
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command
    assert command.endswith(f"--maxmemory {int(0.7 * 512 * 2**20)}")
    assert container["resources"]["limits"] == {"memory": "512Mi"}
    (claim,) = made["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"] == {"storage": "2Gi"}
    assert "volumeClaimTemplates" not in stateful_set("feedback: {store: {storage: {size: ''}}}")["spec"]


def test_its_pod_is_restricted_and_talks_to_no_api_server() -> None:
    spec = stateful_set()["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    # The signing key belongs to the edges alone: a reader of the store may read outcomes, but sign nothing.
    (password,) = container["env"]
    assert password["valueFrom"] == {"secretKeyRef": {"name": "sundog-edge-store", "key": "password"}}


def test_it_is_found_by_a_label_that_no_edge_has() -> None:
    made = stateful_set()
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert not objects.EDGE_SELECTOR.items() <= labels.items()
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = valkey.make_service(edge_store.make_namespace_store("vision", MEMBERS))
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["metadata"]["name"] == made["spec"]["serviceName"] == "sundog-edge-store"


def test_its_objects_go_after_the_last_modeldeployment() -> None:
    store = edge_store.make_namespace_store("vision", MEMBERS)
    made = [edge_store.make_secret(store, "p", "k"), valkey.make_service(store), stateful_set()]
    for obj in made:
        meta = obj["metadata"]
        assert meta["name"] == "sundog-edge-store", obj["kind"]
        assert [owner["uid"] for owner in meta["ownerReferences"]] == ["uid-of-digits", "uid-of-letters"], obj["kind"]
        assert not any("controller" in owner for owner in meta["ownerReferences"]), obj["kind"]
        assert meta["labels"]["app.kubernetes.io/name"] == "sundog-edge-store", obj["kind"]


def test_only_the_agent_is_given_the_key_and_the_password() -> None:
    spec = deployment()["spec"]["template"]["spec"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "sundog-feedback"]
    assert volume["projected"]["sources"] == [
        {"secret": {"name": "sundog-edge-store", "items": [{"key": "signing-key", "path": "signing-key"}]}},
        {"secret": {"name": "sundog-edge-store", "items": [{"key": "password", "path": "password"}]}},
    ]
    mounted = {c["name"]: [m for m in c["volumeMounts"] if m["name"] == "sundog-feedback"] for c in spec["containers"]}
    assert mounted == {
        "haproxy": [],
        "agent": [{"name": "sundog-feedback", "mountPath": "/var/run/secrets/sundog-feedback", "readOnly": True}],
    }
    assert feedback_options(deployment()) == [
        "--signing-key=/var/run/secrets/sundog-feedback/signing-key",
        "--store=redis://sundog-edge-store:6379",
        "--store-password-file=/var/run/secrets/sundog-feedback/password",
    ]


def test_a_store_of_somebody_else_is_used_with_its_password_or_without() -> None:
    made = deployment(EXTERNAL)
    assert feedback_options(made)[1:] == [
        "--store=redis://redis.example.com:6380",
        "--store-password-file=/var/run/secrets/sundog-feedback/password",
    ]
    (volume,) = [each for each in made["spec"]["template"]["spec"]["volumes"] if each["name"] == "sundog-feedback"]
    assert [source["secret"]["name"] for source in volume["projected"]["sources"]] == ["sundog-edge-store", "redis"]
    assert feedback_options(deployment(OPEN))[1:] == ["--store=redis://redis.example.com:6380"]

    made = deployment(EXTERNAL.replace("redis}}}", "redis, usernameFromSecret: true}}}"))
    assert feedback_options(made)[2:] == [
        "--store-password-file=/var/run/secrets/sundog-feedback/password",
        "--store-username-file=/var/run/secrets/sundog-feedback/username",
    ]
    (volume,) = [each for each in made["spec"]["template"]["spec"]["volumes"] if each["name"] == "sundog-feedback"]
    assert [
        (source["secret"]["name"], source["secret"]["items"][0]["key"]) for source in volume["projected"]["sources"]
    ] == [
        ("sundog-edge-store", "signing-key"),
        ("redis", "password"),
        ("redis", "username"),
    ]


def test_edges_without_it_are_as_they_were() -> None:
    without = deployment(feedback=False)
    # The Deployment of this version without a store. A change here restarts all edges at an upgrade.
    assert without["metadata"]["annotations"] == {names.ANNOTATION_MADE_AS: "42775f9bc0920e80"}
    assert feedback_options(without) == []
    assert not edge_deployment.has_feedback_store(without)
    assert edge_deployment.has_feedback_store(deployment())
    assert without["spec"]["template"] != deployment()["spec"]["template"]


def test_the_store_answers_the_edges_of_its_namespace_alone_and_asks_for_names_at_most() -> None:
    policy = network_policies.make_store_policy("vision")
    labels = stateful_set()["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["ingress"] == [
        {
            "ports": [{"protocol": "TCP", "port": 6379}],
            "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "sundog-edge"}}}],
        }
    ]
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}]
