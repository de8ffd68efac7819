"""The objects of a namespace's edge, compared with reviewed files, and what they must never contain."""

import os
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sundog_edge import cli as edge_cli
from sundog_operator.api.installation import HaproxySettings, parse_installation
from sundog_operator.api.schema.node_tree import build_node_tree
from sundog_operator.app.edge_resources import make_shared_objects
from sundog_operator.core.edge import deployment as edge_deployment
from sundog_operator.core.edge import network_policies, objects, secrets
from sundog_operator.core.kubernetes.subset import contains

GOLDEN = Path(__file__).parent / "golden"
ADMINISTRATOR = """
edgeImage: example.com/edge@sha256:0
edge:
  replicas: 3
  resources: {requests: {cpu: "0.5", memory: 1024Mi}, limits: {cpu: 2}}
  haproxy: {bufferBytes: 65536, requestTimeout: 90s, clientTimeout: 1500ms, sourceConnections: 0}
  pods:
    serviceAccountName: theirs
    imagePullPolicy: Always
    imagePullSecrets: [{name: registry}]
    nodeSelector: {pool: edges}
    tolerations: [{key: edges, operator: Exists}]
    priorityClassName: high
    labels: {team: platform, app.kubernetes.io/name: not-theirs-to-say}
    annotations: {note: "1"}
    env: [{name: TZ, value: UTC}]
    volumes: [{name: extra, emptyDir: {}}]
    volumeMounts: [{name: extra, mountPath: /extra}]
    securityContext: {runAsNonRoot: true}
    containerSecurityContext: {privileged: false}
networkPolicies:
  enabled: true
  operatorNamespace: sundog-system
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
"""


def member(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "vision", "uid": f"uid-of-{name}"}
    return {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "ModelDeployment", "metadata": meta}


MEMBERS = [member("letters"), member("digits")]


def everything(text: str) -> list[dict[str, Any]]:
    installation = parse_installation(text, "test")
    return [
        objects.make_secret("vision", MEMBERS, {"keys": "e30="}),
        objects.make_config_map("vision", MEMBERS, {"version": 1}),
        *make_shared_objects("vision", MEMBERS, installation),
        edge_deployment.make_deployment("vision", MEMBERS, installation),
        objects.make_service(MEMBERS[0], tls=False),
        objects.make_service(MEMBERS[1], tls=True),
    ]


@pytest.mark.parametrize(("name", "text"), [("edge", ""), ("edge-administrated", ADMINISTRATOR)])
def test_what_is_made_is_what_was_read(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    made = yaml.safe_dump_all(everything(text), sort_keys=False, width=120)
    if os.environ.get("SUNDOG_WRITE_GOLDEN"):
        path.write_text(made)
    assert made == path.read_text()


def haproxy_args(text: str = "") -> list[str]:
    deployment = edge_deployment.make_deployment("vision", MEMBERS, parse_installation(text, "test"))
    container = next(each for each in deployment["spec"]["template"]["spec"]["containers"] if each["name"] == "haproxy")
    found: list[str] = container["args"]
    return found


def test_a_pod_that_may_drain_for_long_is_given_the_grace_for_it() -> None:
    deployment = edge_deployment.make_deployment("vision", MEMBERS, parse_installation("", "test"), drain_s=960)
    spec = deployment["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 1000
    assert "--drain-seconds=960" in spec["containers"][0]["args"]


def test_only_what_an_administrator_changes_of_haproxy_is_an_argument() -> None:
    changed = {
        "bufferBytes: 32768": "--buffer-bytes=32768",
        "requestTimeout: 1m": "--request-seconds=60",
        "clientTimeout: 1500ms": "--client-seconds=2",
        "sourceConnections: 0": "--source-connections=0",
        "trustedProxies: [10.1.0.0/16, 10.2.0.7/32]": "--trusted-proxies=10.1.0.0/16,10.2.0.7/32",
    }
    for text, argument in changed.items():
        assert haproxy_args(f"edge: {{haproxy: {{{text}}}}}") == [*haproxy_args(), argument]
    usual = "bufferBytes: 16384, requestTimeout: 15s, clientTimeout: 30s, sourceConnections: 8192, trustedProxies: []"
    assert haproxy_args(f"edge: {{haproxy: {{{usual}}}}}") == haproxy_args()


def test_the_defaults_of_an_installation_are_those_of_the_edge_s_command_line() -> None:
    """Omitted arguments must mean the installation's defaults."""
    usual = {option.name: option for option in edge_cli.haproxy.params}
    limits = build_node_tree(HaproxySettings).fields
    fields = HaproxySettings()
    for option, told in (
        ("buffer_bytes", fields.buffer_bytes),
        ("request_seconds", fields.request_timeout.total_seconds()),
        ("client_seconds", fields.client_timeout.total_seconds()),
        ("source_connections", fields.source_connections),
        ("trusted_proxies", ",".join(fields.trusted_proxies)),
    ):
        assert usual[option].default == told, option
    for option, field in (("buffer_bytes", "bufferBytes"), ("source_connections", "sourceConnections")):
        bounds = usual[option].type
        assert isinstance(bounds, click.IntRange)
        assert (bounds.min, bounds.max) == (limits[field].node.limits.ge, limits[field].node.limits.le)


def test_who_may_ask_the_api_server_is_the_agent_alone() -> None:
    deployment = edge_deployment.make_deployment("vision", MEMBERS, parse_installation("", "test"))
    spec = deployment["spec"]["template"]["spec"]
    mounted = {c["name"]: {mount["name"] for mount in c["volumeMounts"]} for c in spec["containers"]}
    assert mounted == {"haproxy": {"state"}, "agent": {"state", "account", "ray-token"}}
    assert spec["automountServiceAccountToken"] is False


def test_the_template_does_not_change_with_members_documents_or_secrets() -> None:
    installation = parse_installation("", "test")
    one = edge_deployment.make_deployment("vision", MEMBERS[:1], installation)
    two = edge_deployment.make_deployment("vision", MEMBERS, installation)
    assert one["spec"] == two["spec"]
    assert one["metadata"]["annotations"] == two["metadata"]["annotations"]


def test_every_shared_object_goes_after_its_last_owner_and_a_service_with_its_own() -> None:
    *common, letters, digits = everything("")
    for obj in common:
        owners = obj["metadata"]["ownerReferences"]
        assert [owner["uid"] for owner in owners] == ["uid-of-digits", "uid-of-letters"], obj["kind"]
        assert not any("controller" in owner for owner in owners)
    assert [owner["uid"] for owner in letters["metadata"]["ownerReferences"]] == ["uid-of-letters"]
    assert digits["metadata"]["ownerReferences"][0]["controller"] is True


@pytest.mark.parametrize(
    ("labels", "ours"),
    [
        ({}, False),
        ({"app.kubernetes.io/managed-by": "Helm", "serving.sundog.dev/model-deployment": "digits"}, False),
        ({"app.kubernetes.io/managed-by": "sundog"}, False),
        ({"app.kubernetes.io/managed-by": "sundog", "serving.sundog.dev/model-deployment": "letters"}, False),
        ({"app.kubernetes.io/managed-by": "sundog", "serving.sundog.dev/model-deployment": "digits"}, True),
    ],
)
def test_whose_service_it_is(labels: dict[str, str], ours: bool) -> None:
    assert objects.is_made_for({"metadata": {"name": "digits", "labels": labels}}, MEMBERS[1]) is ours


def test_what_the_api_server_gives_back_is_what_we_asked_for() -> None:
    installation = parse_installation(ADMINISTRATOR, "test")
    wanted = edge_deployment.make_deployment("vision", MEMBERS, installation)
    stored = wanted["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert stored == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2"}}
    assert contains(wanted, wanted)


def test_secrets_that_do_not_fit_are_left_out_from_the_last_on() -> None:
    large = {"data": {"key": "x" * (secrets.MAX_SECRET_BYTES // 2)}}
    found = secrets.compose_secret_data(
        [("a", large), ("gone", None), ("b", large), ("c", {"data": {"key": "eA=="}}), ("d", {})]
    )
    assert found.keys() == {"a", "c", "d"}
    assert sum(len(text) for text in found.values()) < 1.4 * secrets.MAX_SECRET_BYTES


def allowed(policies: list[dict[str, Any]], name: str, port: int) -> list[dict[str, Any]] | None:
    """Return who may connect to a port of a policy's pods; None for everyone."""
    (policy,) = [policy for policy in policies if policy["metadata"]["name"] == name]
    peers: list[dict[str, Any]] = []
    for rule in policy["spec"]["ingress"]:
        ports = rule.get("ports", [{"port": 0, "endPort": 65535}])
        if any(each["port"] <= port <= each.get("endPort", each["port"]) for each in ports):
            if "from" not in rule:
                return None
            peers += rule["from"]
    return peers


def test_agents_and_ray_answer_only_whom_they_must() -> None:
    policies = network_policies.make_policies("vision", parse_installation(ADMINISTRATOR, "test").network_policies)
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "sundog-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "sundog-operator"}},
    }
    edges = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "sundog-edge"}}}
    ray = {
        "podSelector": {
            "matchLabels": {"app.kubernetes.io/part-of": "sundog"},
            "matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}],
        }
    }
    scraper = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert allowed(policies, "sundog-edge", 8080) is None
    assert allowed(policies, "sundog-edge", 8443) is None
    assert allowed(policies, "sundog-edge", 9090) == [operator, scraper]
    assert allowed(policies, "sundog-ray", 8265) == [ray, operator, edges]
    for port in (8000, 9000, 30000, 30500, 31000, 40001):
        assert allowed(policies, "sundog-ray", port) == [ray, edges], port
    for port in (6379, 10001, 52365):
        assert allowed(policies, "sundog-ray", port) == [ray], port
    assert allowed(policies, "sundog-ray", 8080) == [ray, scraper]
    assert allowed(policies, "sundog-valkey", 6379) == [ray]


def asked(policies: list[dict[str, Any]], name: str) -> list[dict[str, Any]] | None:
    """Return the egress rules of a policy's pods; None where they may connect to everything."""
    (spec,) = [policy["spec"] for policy in policies if policy["metadata"]["name"] == name]
    assert ("Egress" in spec["policyTypes"]) is ("egress" in spec)
    rules: list[dict[str, Any]] | None = spec.get("egress")
    return rules


def reached(rules: list[dict[str, Any]], address: str, port: int) -> bool:
    """Return whether a rule allows the address, for a plugin that counts nodes and pods among addresses."""
    found = ip_address(address)
    return any(
        not ("ports" in rule and port not in {each["port"] for each in rule["ports"]})
        and ("to" not in rule or any(within(found, peer["ipBlock"]) for peer in rule["to"] if "ipBlock" in peer))
        for rule in rules
    )


def within(address: IPv4Address | IPv6Address, block: dict[str, Any]) -> bool:
    return address in ip_network(block["cidr"]) and not any(address in ip_network(each) for each in block["except"])


@pytest.mark.parametrize("name", ["sundog-edge", "sundog-ray-heads", "sundog-ray-workers"])
def test_pods_reach_everything_but_the_credentials_of_their_node(name: str) -> None:
    policies = network_policies.make_policies("vision", parse_installation(ADMINISTRATOR, "test").network_policies)
    rules = asked(policies, name)
    assert rules is not None
    for address in ("169.254.169.254", "fd00:ec2::254"):
        assert not reached(rules, address, 80), address
    assert reached(rules, "169.254.20.10", 53), "a node's DNS cache"
    for address in ("10.0.0.7", "8.8.8.8", "fd00::7"):
        for port in (53, 80, 443, 6443, 8265, 30000):
            assert reached(rules, address, port), (address, port)
    assert {"namespaceSelector": {}} in rules[0]["to"]


@pytest.mark.parametrize(
    ("given", "ports"),
    [("", [443, 6443]), ("  apiServerPorts: [16443]\n", [16443])],
    ids=["as it is", "an administrator's"],
)
def test_agents_and_autoscalers_reach_an_api_server_on_a_node_and_nobody_needs_to_name_it(
    given: str, ports: list[int]
) -> None:
    """Some plugins count neither pods nor nodes among addresses."""
    policies = network_policies.make_policies(
        "vision", parse_installation(ADMINISTRATOR + given, "test").network_policies
    )
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    for name in ("sundog-edge", "sundog-ray-heads"):
        by_port = [rule["ports"] for rule in asked(policies, name) or () if "to" not in rule]
        assert by_port == [dns, [{"protocol": "TCP", "port": port} for port in ports]], name
    assert [rule["ports"] for rule in asked(policies, "sundog-ray-workers") or () if "to" not in rule] == [dns]


def test_a_store_of_rays_asks_for_names_at_most() -> None:
    policies = network_policies.make_policies("vision", parse_installation(ADMINISTRATOR, "test").network_policies)
    assert asked(policies, "sundog-valkey") == [
        {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
    ]


def test_every_pod_of_ray_has_a_policy_of_egress_and_policies_that_add_up_add_nothing() -> None:
    """All policies that select a pod apply, so the one for all of Ray must not mention egress."""
    policies = network_policies.make_policies("vision", parse_installation(ADMINISTRATOR, "test").network_policies)
    assert asked(policies, "sundog-ray") is None
    selected = {
        policy["metadata"]["name"]: policy["spec"]["podSelector"]["matchLabels"].get("ray.io/node-type")
        for policy in policies
        if policy["metadata"]["name"].startswith("sundog-ray-")
    }
    assert selected == {"sundog-ray-heads": "head", "sundog-ray-workers": "worker"}


def test_an_edge_that_is_not_ready_holds_up_no_drain() -> None:
    """Before the first model no edge is ready, and a budget that waits for readiness would block every drain."""
    assert objects.make_disruption_budget("vision", MEMBERS)["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
