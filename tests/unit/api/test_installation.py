"""The file of an installation: defaults, every field, and one line for whatever is wrong with it."""

from datetime import timedelta

import pytest

from sundog_operator.api.installation import HaproxySettings, Installation, PodTemplate, parse_installation
from sundog_operator.api.schema.node_tree import build_node_tree
from sundog_operator.app.dependencies import OperatorSettings
from sundog_operator.errors import InstallationError

FULL = """
runtimeImage: example.com/runtime:1
edgeImage: example.com/edge:1
watchNamespaces: [vision, text]
workers: 8
watchSecrets: true
maxNamespaceMemory: 64Mi
clusterDomain: k8s.example
ray:
  version: 2.60.1
  pods:
    serviceAccountName: ray
    imagePullPolicy: Never
    imagePullSecrets: [{name: registry}]
    nodeSelector: {pool: models}
    tolerations: [{operator: Exists}]
    priorityClassName: high
    runtimeClassName: kata
    labels: {example.com/team: ml}
    annotations: {example.com/note: "any text: it is"}
    env: [{name: HTTPS_PROXY, value: "http://proxy:3128"}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
    volumes: [{name: usr, hostPath: {path: /usr}}]
    volumeMounts: [{name: usr, mountPath: /usr, readOnly: true}]
    securityContext: {runAsUser: 0}
    containerSecurityContext: {}
  cache: {hostPath: /var/lib/sundog}
  head: {resources: {requests: {cpu: 1}, limits: {memory: 3Gi}}}
  idleTimeout: 20s
  gcsFaultTolerance:
    image: example.com/redis:7
    storage: {size: 2Gi, className: fast}
    external: {address: "redis.example.com:6379", passwordSecretName: redis}
edge:
  replicas: 3
  resources: {limits: {memory: 2Gi}}
  haproxy: {bufferBytes: 65536, requestTimeout: 1m, clientTimeout: 90s, sourceConnections: 0, trustedProxies: [10.9.0.0/16]}
  pods: {nodeSelector: {pool: edge}}
gpu: {aliases: {h100: {example.com/gpu: [H100-SXM]}}}
spot: {labels: {example.com/tier: [spot]}}
nodePools:
- name: l4
  maxNodes: 3
  labels: {pool: l4}
  taints: [{key: nvidia.com/gpu}]
  allocatable: {cpu: 8, memory: 30Gi, nvidia.com/gpu: 1}
networkPolicies: {enabled: true, operatorNamespace: sundog-system, metricsFrom: [{podSelector: {}}]}
webhooks: {hosts: [gate.ci.svc]}
feedback: {store: {memory: 2Gi, external: {address: "outcomes.example.com:6379"}}}
prometheus: {url: "http://prometheus.monitoring.svc:9090", timeout: 5s}
exposureLogs: {places: ["s3://logs/experiments", "pvc://logs"]}
requireDigest: true
"""


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n"])
def test_an_empty_file_is_all_defaults(text: str) -> None:
    assert parse_installation(text, "f") == Installation()


def test_every_field_is_read() -> None:
    read = parse_installation(FULL, "f")
    assert read.watch_namespaces == ("vision", "text")
    pods = read.ray.pods
    assert pods.image_pull_secrets[0].name == "registry"
    assert pods.env[1] == {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    assert (pods.security_context, pods.container_security_context) == ({"runAsUser": 0}, {})
    assert read.ray.head.resources.requests == {"cpu": "1"}
    assert read.ray.idle_timeout == timedelta(seconds=20)
    assert read.ray.gcs_fault_tolerance.external.address == "redis.example.com:6379"
    assert read.gpu.aliases == {"h100": {"example.com/gpu": ("H100-SXM",)}}
    # Nothing in the file is at its default, so a field that is not read would show.
    dumped = read.model_dump(exclude_defaults=True)
    assert set(dumped) == set(build_node_tree(Installation).fields)
    assert set(dumped["ray"]["pods"]) == set(build_node_tree(PodTemplate).fields)
    assert len(dumped["edge"]["haproxy"]) == len(build_node_tree(HaproxySettings).fields)
    assert dumped["ray"]["cache"] == {"hostPath": "/var/lib/sundog"}


def test_what_is_written_is_read_back() -> None:
    read = parse_installation(FULL, "f")
    assert Installation.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ray: {verison: 2.60.0}", "ray.verison: unknown field; did you mean version?"),
        ("ray: {version: nightly}", "ray.version: nightly; expected a release of Ray such as 2.60.0"),
        ("workers: many", 'workers: "many"; expected an integer'),
        ("workers: 0", "workers: 0; expected 1 to 64"),
        ("runtimeImage: ''", "runtimeImage: empty; expected at least 1 character"),
        ("exposureLogs: {places: ['file:///logs']}", "; expected a location prefix such as s3://logs/experiments or pvc://claim/experiments"),
        ("exposureLogs: {places: ['s3://logs/']}", "; expected a location prefix such as s3://logs/experiments or pvc://claim/experiments"),
        ("exposureLogs: {places: ['pvc://Logs']}", "; expected a location prefix such as s3://logs/experiments or pvc://claim/experiments"),
        ("watchNamespaces: [a, a]", "watchNamespaces[1]: a appears twice; expected it once"),
        ("ray: {pods: {env: [{value: x}]}}", "ray.pods.env: item without a name; expected a name in each"),
        ("ray: {pods: {volumeMounts: [{name: x}]}}", "ray.pods.volumeMounts: item without a name or mountPath; expected both in each"),
        ("edge: {resources: {limits: {memory: lots}}}", "lots"),
        ("ray: {gcsFaultTolerance: {external: {passwordSecretName: x}}}", "external.address: empty with passwordSecretName"),
        ("ray: {gcsFaultTolerance: {external: {address: redis}}}", "redis; expected an address such as"),
        ("ray: {gcsFaultTolerance: {external: {address: 'r:1', usernameFromSecret: true}}}", "passwordSecretName: empty with username"),
        ("edge: {haproxy: {bufferBytes: 16383}}", "edge.haproxy.bufferBytes: 16383; expected 16384 to 1048576"),
        ("edge: {haproxy: {bufferBytes: 1Mi}}", 'edge.haproxy.bufferBytes: "1Mi"; expected an integer'),
        ("edge: {haproxy: {clientTimeout: 0s}}", "edge.haproxy.clientTimeout: 0s; expected more than 0s"),
        ("edge: {haproxy: {sourceConnections: -1}}", "edge.haproxy.sourceConnections: -1; expected at least 0"),
        ("edge: {haproxy: {trustedProxies: [10.0.0.1]}}", "trustedProxies[0]: 10.0.0.1; expected an IPv4 network such as 10.0.0.0/8"),
        ("edge: {haproxy: {trustedProxies: [10.0.0.1/8]}}", "10.0.0.1/8 has bits set beyond its prefix; expected zeros there"),
        ("edge: {haproxy: {trustedProxies: [10.0.0.0/8, 10.0.0.0/8]}}", "trustedProxies[1]: 10.0.0.0/8 appears twice; expected it once"),
        ("ray: {cache: {hostPath: cache}}", "ray.cache.hostPath: cache; expected an absolute path such as /var/lib/sundog"),
        ("ray: {cache: {hostPath: /a/../b}}", "ray.cache.hostPath: /a/../b; expected an absolute path"),
        ("- a", 'the object: ["a"]; expected an object'),
        ("a: [", "line 1: "),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("workers: 1\nedge: {replicas: 1}\nworkers: 2", "line 3: duplicate key 'workers', first in line 1"),
        ("a: &a [" + "x," * 9_000 + "]\nb: [" + "*a," * 60 + "]", "line 2: aliases expand to more than 1048576 characters"),
        ("x" * (2**20 + 1), "1048577 bytes; expected at most 1048576"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_reported_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InstallationError) as caught:
        parse_installation(text, "/etc/sundog/installation.yaml")
    error = str(caught.value)
    assert error.startswith("/etc/sundog/installation.yaml: ")
    assert message in error
    assert "\n" not in error


def test_settings_of_an_installation() -> None:
    installation = parse_installation(FULL, "f")
    settings = OperatorSettings.of(installation, "sundog-0")
    assert settings.runtime_image == "example.com/runtime:1"
    assert (settings.edge_image, settings.workers) == ("example.com/edge:1", 8)
    assert settings.installation is installation
    assert OperatorSettings().installation is None


def test_policies_that_would_keep_the_operator_out_are_refused() -> None:
    with pytest.raises(InstallationError, match=r"networkPolicies\.operatorNamespace: .*would block the operator"):
        parse_installation("networkPolicies: {enabled: true}", "f")
