"""What the chart makes of its values: golden files, refusals, and what must hold whatever the values are."""

import json
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from charting import (
    CHART,
    CRDS,
    GOLDEN,
    NAMESPACE,
    RELEASE,
    ROOT,
    Object,
    cases,
    golden,
    objects,
    one,
    service_account,
    templates,
    values,
)
from charting.generate import MADE
from real_kubernetes.audit import Right
from sundog_operator.adapters import exposure_logs
from sundog_operator.api.installation import Installation, NetworkPolicySettings, parse_installation
from sundog_operator.core.kubernetes import metadata_services
from sundog_operator.shell.operator import LEASE_NAME

SMALLEST = values("smallest")
LEASES = "leases.coordination.k8s.io"
# Kinds that the schemas of Kubernetes itself do not know, and the versions of the API servers that we want to get along with.
FOREIGN = {"CustomResourceDefinition", "ServiceMonitor", "PodMonitor", "PrometheusRule"}
VERSIONS = ("1.32", "1.36")


def merged(base: Any, patch: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(patch, dict)):
        return patch
    return {**base, **{key: merged(base.get(key), value) for key, value in patch.items()}}


def pods(rendered: list[Object]) -> list[tuple[str, Object]]:
    """Name and spec of everything that becomes a pod."""
    return [
        (obj["metadata"]["name"], obj["spec"] if obj["kind"] == "Pod" else obj["spec"]["template"]["spec"])
        for obj in rendered
        if obj["kind"] in {"Pod", "Deployment"}
    ]


@pytest.mark.parametrize("case", cases())
def test_rendering_is_what_was_reviewed(case: str) -> None:
    assert (GOLDEN / f"{case}.yaml").read_text() == golden(case), "run `make generate` and review the difference"


def test_every_golden_file_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(cases())


@pytest.mark.parametrize("case", cases())
def test_lint_has_no_warning(case: str) -> None:
    report = helm_python.lint(str(CHART), values(case), strict=True, namespace=NAMESPACE)
    assert not report["errors"]
    assert [m["error"] for m in report["messages"] if m["severity"] > 0] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", cases())
def test_objects_are_valid(case: str, version: str) -> None:
    for obj in objects(values(case)):
        if obj["kind"] not in FOREIGN:
            kubernetes_validate.validate(obj, version, strict=True)


def test_an_unknown_field_would_be_found() -> None:
    broken = one(SMALLEST, "Deployment") | {"sepc": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("case", cases())
def test_pods_are_restricted(case: str) -> None:
    for name, pod in pods(objects(values(case))):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["readOnlyRootFilesystem"] is True, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("case", cases())
def test_every_object_says_whose_it_is_and_where(case: str) -> None:
    for obj in objects(values(case)):
        meta = obj["metadata"]
        assert meta["labels"]["app.kubernetes.io/managed-by"] == "Helm", meta
        assert meta["labels"]["app.kubernetes.io/instance"] == "sundog", meta
        cluster_scoped = obj["kind"] in {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
        assert cluster_scoped != ("namespace" in meta), meta


@pytest.mark.parametrize("case", cases())
def test_nothing_is_rendered_twice(case: str) -> None:
    seen = [(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]) for obj in objects(values(case))]
    assert len(seen) == len(set(seen))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelled key": ({"replica": 2}, "additional properties 'replica' not allowed"),
    "a misspelled inner key": ({"image": {"repositry": "x"}}, "additional properties 'repositry' not allowed"),
    "no number of replicas": ({"replicas": "two"}, "got string, want integer"),
    "a digest of another kind": ({"image": {"digest": "md5:1"}}, "does not match pattern"),
    "no pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "value must be one of"),
    "no namespace": ({"watchNamespaces": ["Vision"]}, "does not match pattern"),
    "no interval": ({"metrics": {"interval": "often"}}, "does not match pattern"),
    "no port": ({"networkPolicy": {"apiServerPorts": [70000]}}, "maximum: got 70,000, want 65,535"),
    "no port at all": ({"networkPolicy": {"apiServerPorts": []}}, "minItems"),
    "no security context": ({"podSecurityContext": "restricted"}, "got string, want object"),
    "a misspelled key of the operator's": ({"installation": {"ray": {"pod": {}}}}, "additional properties 'pod'"),
    "no quantity": (
        {"installation": {"edge": {"resources": {"limits": {"memory": "much"}}}}},
        "does not match pattern",
    ),
    "no workers": ({"installation": {"workers": 0}}, "minimum: got 0, want 1"),
    "a buffer that is too small": (
        {"installation": {"edge": {"haproxy": {"bufferBytes": 1024}}}},
        "minimum: got 1,024, want 16,384",
    ),
    "a cache that is no path": ({"installation": {"ray": {"cache": {"hostPath": "cache"}}}}, "does not match pattern"),
    "namespaces in the wrong place": ({"installation": {"watchNamespaces": ["a"]}}, "additional properties"),
    "no image": ({"image": {"repository": ""}}, "image.repository: name the image"),
    "no runtime image": ({"installation": {"runtimeImage": ""}}, "installation.runtimeImage: name the image"),
    "a digest that is cut off": (
        {"installation": {"runtimeImage": "registry.example.com/sundog/runtime@sha256:0123"}},
        "does not match pattern",
    ),
    "an image with a space": ({"installation": {"edgeImage": "sundog/edge: 1"}}, "does not match pattern"),
    "no account": ({"serviceAccount": {"create": False}}, "serviceAccount.name: name the account"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_bad_values_are_refused_with_the_key(what: str) -> None:
    patch, message = REFUSED[what]
    with pytest.raises(helm_python.HelmError) as refused:
        templates(merged(SMALLEST, patch))
    assert message in str(refused.value)


def test_the_operator_and_the_edge_take_the_digest_and_no_tag() -> None:
    name = f"registry.example.com/sundog/operator-edge@sha256:{'0' * 64}"
    repository, _, digest = name.partition("@")
    given = merged(SMALLEST, {"image": {"repository": repository, "tag": "1.2", "digest": digest}})
    (container,) = one(given, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == name
    installation = yaml.safe_load(one(given, "ConfigMap")["data"]["installation.yaml"])
    assert installation["edgeImage"] == name


def every_object(schema: Any) -> list[Any]:
    """All parts of a schema that describe an object with known keys."""
    if isinstance(schema, list):
        return [found for part in schema for found in every_object(part)]
    if not isinstance(schema, dict):
        return []
    inner = [found for part in schema.values() for found in every_object(part)]
    return [schema, *inner] if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" else inner


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    parts = every_object(schema)
    assert len(parts) > 8
    assert all(part["additionalProperties"] is False for part in parts)
    assert not missing(schema, yaml.safe_load((CHART / "values.yaml").read_text()))


def missing(schema: Any, defaults: Any, path: str = "") -> list[str]:
    """Keys of the schema that values.yaml does not show."""
    found = []
    for name, part in schema.get("properties", {}).items():
        if name == "global" or part.get("type") == ["object", "null"]:
            continue
        if name not in (defaults or {}):
            found.append(f"{path}{name}")
        else:
            found += missing(part, defaults[name], f"{path}{name}.")
    return found


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_what_is_made_is_up_to_date(path: Path) -> None:
    text = path.read_text()
    assert text == MADE[path](text), "run `make generate`"


@pytest.mark.parametrize("case", cases())
def test_the_operator_reads_the_file_that_the_chart_writes(case: str) -> None:
    given = values(case)
    name = given.get("fullnameOverride", "sundog")
    text = one(given, "ConfigMap", name)["data"]["installation.yaml"]
    installation = parse_installation(text, case)
    assert installation.runtime_image == given["installation"]["runtimeImage"]
    assert installation.edge_image.startswith("registry.example.com/sundog/")
    assert installation.watch_namespaces == tuple(sorted(set(given.get("watchNamespaces", ()))))


def test_all_defaults_are_the_operators_own() -> None:
    text = one(SMALLEST, "ConfigMap")["data"]["installation.yaml"]
    wanted = Installation(
        runtime_image=SMALLEST["installation"]["runtimeImage"],
        edge_image="registry.example.com/sundog/operator-edge:0.1.0",
        network_policies=NetworkPolicySettings(
            enabled=True,
            operator_namespace=NAMESPACE,
            metrics_from=tuple(yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]["metricsFrom"]),
        ),
    )
    assert parse_installation(text, "smallest") == wanted


@pytest.mark.parametrize("name", ["modeldeployments.yaml", "experiments.yaml"])
def test_the_chart_installs_the_same_crds(name: str) -> None:
    source = (ROOT / "crds" / name).read_text()
    assert (CHART / "files" / "crds" / name).read_text() == source, "run `make generate`"
    crd = yaml.safe_load(source)
    (installed,) = [
        obj
        for obj in yaml.safe_load_all(templates(SMALLEST)[CRDS])
        if obj["metadata"]["name"] == crd["metadata"]["name"]
    ]
    assert installed["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert installed["spec"] == crd["spec"]


def test_crds_can_be_left_to_others() -> None:
    assert not [obj for obj in objects(values("bare")) if obj["kind"] == "CustomResourceDefinition"]


def test_the_annotations_name_every_crd() -> None:
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    told = {entry["name"] for entry in yaml.safe_load(annotations["artifacthub.io/crds"])}
    assert told == {yaml.safe_load(path.read_text())["metadata"]["name"] for path in Path(ROOT / "crds").glob("*.yaml")}


@pytest.mark.extended
def test_another_installation_file_means_other_pods_and_nothing_else_does() -> None:
    def template(patch: dict[str, Any]) -> Object:
        found: Object = one(merged(SMALLEST, patch), "Deployment")["spec"]["template"]
        return found

    assert template({"installation": {"edgeImage": "x/y:2"}}) != template({})
    assert template({"networkPolicy": {"enabled": False}}) != template({})
    assert template({"metrics": {"dashboard": True}, "replicas": 5}) == template({})


def test_claims_of_exposure_logs_are_mounted_where_the_operator_looks_for_them() -> None:
    operator = dict(pods(objects(values("everything"))))["sundog-blue"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in operator["volumes"]
        if "persistentVolumeClaim" in volume
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in operator["containers"][0]["volumeMounts"]}
    assert sorted(claims.values()) == ["2026.archive", "logs"]
    assert mounts | {name: str(exposure_logs.CLAIMS_ROOT / claim) for name, claim in claims.items()} == mounts


def test_a_single_replica_has_no_budget_that_would_hold_up_a_drain() -> None:
    assert "PodDisruptionBudget" in {obj["kind"] for obj in objects(SMALLEST)}
    assert "PodDisruptionBudget" not in {obj["kind"] for obj in objects(values("bare"))}


def test_no_pod_of_the_operator_reaches_the_metadata_service() -> None:
    policy = one(SMALLEST, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule.get("to", ()) if "ipBlock" in to]
    assert [block["except"] for block in blocks] == [metadata_services.list_exceptions(version) for version in (4, 6)]
    open_rules = [rule for rule in policy["egress"] if "to" not in rule]
    assert [port["port"] for rule in open_rules for port in rule["ports"]] == [53, 53]


def test_edges_and_heads_get_the_address_of_an_api_server_at_another_port() -> None:
    text = one(values("everything"), "ConfigMap", "sundog-blue")["data"]["installation.yaml"]
    assert parse_installation(text, "everything").network_policies.api_server_ports == (16443,)


@pytest.mark.extended
@pytest.mark.parametrize("name", [RELEASE, "blue", "sundog-blue"])
def test_the_operator_may_hold_the_configured_lease_and_no_other(name: str) -> None:
    given = {**SMALLEST, "fullnameOverride": name}
    may = {grant.name for grant in service_account.granted(given) if grant.right == Right("update", LEASES)}
    assert may == {service_account.lease(given, name)}


def test_a_plain_release_has_the_lease_of_an_operator_without_a_configured_one() -> None:
    assert service_account.lease(SMALLEST) == LEASE_NAME


@pytest.mark.parametrize("release", [RELEASE, "sundog-operator"])
def test_the_operator_lets_the_test_of_its_release_in(release: str) -> None:
    rendered = templates(SMALLEST, release)
    pod, policy = (yaml.safe_load(rendered[f"templates/{path}.yaml"]) for path in ("tests/ready", "networkpolicy"))
    (source,) = [each for each in policy["spec"]["ingress"][0]["from"] if "namespaceSelector" not in each]
    assert source["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["metadata"]["labels"].items() - pod["metadata"]["labels"].items() == {
        ("app.kubernetes.io/name", "sundog-operator")
    }


def test_two_releases_in_one_namespace_share_nothing_and_not_their_lease() -> None:
    first, second = (
        {**values("namespaced"), "fullnameOverride": name, "watchNamespaces": [team]}
        for name, team in (("blue", "vision"), ("green", "speech"))
    )
    blue, green = ({identity(obj) for obj in objects(given)} for given in (first, second))
    assert blue
    assert not blue & green
    assert service_account.lease(first, "blue") != service_account.lease(second, "green")


def identity(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


@pytest.mark.extended
@pytest.mark.parametrize("key", ["podSecurityContext", "securityContext"])
def test_users_and_rights_of_processes_can_be_left_to_the_cluster(key: str) -> None:
    def given(patch: Any) -> list[Any]:
        found = [pod for _, pod in pods(objects(merged(SMALLEST, {key: patch})))]
        assert len(found) == 2
        return found if key == "podSecurityContext" else [container for pod in found for container in pod["containers"]]

    assert not [part for part in given(None) if "securityContext" in part]
    assert [part["securityContext"]["runAsUser"] for part in given({"runAsUser": 1000})] == [1000, 1000]


def test_users_of_processes_alone_can_be_left_to_the_cluster() -> None:
    """As OpenShift's `restricted-v2` wants it."""
    left = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    for _, pod in pods(objects(merged(SMALLEST, {"podSecurityContext": left}))):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_extra_objects_are_templates_of_the_release() -> None:
    name = '{{ include "sundog.fullname" . }}-note'
    plain = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "{{ .Release.Namespace }}"},
    }
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: text}\n"
    given = merged(SMALLEST, {"extraObjects": [plain, text]})
    assert one(given, "ConfigMap", "sundog-note")["metadata"]["namespace"] == NAMESPACE
    assert one(given, "Secret", "text") is not None


def test_common_labels_are_everywhere_but_at_pods_and_replace_none_of_ours() -> None:
    labels = {"cost-center": "ml", "app.kubernetes.io/name": "theirs"}
    for obj in objects(merged(SMALLEST, {"commonLabels": labels})):
        found = obj["metadata"]["labels"]
        assert found["cost-center"] == "ml", obj["metadata"]
        assert found["app.kubernetes.io/name"] != "theirs", obj["metadata"]
    deployment = one(merged(SMALLEST, {"commonLabels": labels}), "Deployment")
    assert "cost-center" not in deployment["spec"]["template"]["metadata"]["labels"]


def test_common_annotations_are_everywhere_but_at_pods_and_replace_none_of_ours() -> None:
    theirs = {"example.com/owner": "ml", "helm.sh/resource-policy": "delete"}
    given = merged(values("everything"), {"commonAnnotations": theirs, "podAnnotations": {}})
    for obj in objects(given):
        found = obj["metadata"]["annotations"]
        assert found["example.com/owner"] == "ml", obj["metadata"]
        kept = "keep" if obj["kind"] == "CustomResourceDefinition" else "delete"
        assert found["helm.sh/resource-policy"] == kept, obj["metadata"]
    account_ = one(given, "ServiceAccount", given["serviceAccount"]["name"])
    assert account_["metadata"]["annotations"].items() >= given["serviceAccount"]["annotations"].items()
    (hook,) = [obj for obj in objects(given) if obj["kind"] == "Pod"]
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
    deployment = one(given, "Deployment", given["fullnameOverride"])
    assert "example.com/owner" not in deployment["spec"]["template"]["metadata"]["annotations"]


def test_an_operator_of_some_namespaces_holds_the_same_there_and_nothing_of_the_cluster() -> None:
    """The rights of the cluster's mode were compared with their use on a real API server."""
    given = values("namespaced")
    assert not [obj for obj in objects(given) if obj["kind"] == "ClusterRoleBinding"]
    everywhere = service_account.granted(SMALLEST)
    nodes = service_account.Grant(Right("list", "nodes"))
    assert service_account.granted(given) == everywhere - {nodes}
    assert nodes in everywhere
    places = {obj["metadata"]["namespace"] for obj in objects(given) if obj["kind"] == "RoleBinding"}
    assert places == {*given["watchNamespaces"], NAMESPACE}
