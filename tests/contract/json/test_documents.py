"""The documents of docs/reference/contracts.md: what one part writes, the other reads, on generated resources."""

import json
import pkgutil
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.cluster import Cluster
from sundog_edge.counting.evidence import AgentState, AppliedDocument, ServerCounts, build_evidence
from sundog_edge.counting.ledger import Ledger
from sundog_edge.feedback import join
from sundog_edge.replicas.startup_reports import UNKNOWN_STARTUP
from sundog_edge.split import document as edge_document
from sundog_edge.split.layout import DEFAULT_DRAIN_S, Layout, fit_layout
from sundog_operator.api import ModelDeploymentSpec, parse_rate
from sundog_operator.core import revisions
from sundog_operator.core.edge import confirmation, split_document
from sundog_operator.core.edge import split as edge_split
from sundog_operator.core.edge.buckets import two_arm_ranges
from sundog_operator.core.edge.split import Split, SplitArm
from sundog_operator.core.kubernetes import grace_periods
from sundog_operator.core.observed import EdgeReport
from sundog_operator.core.ray import serve_config
from sundog_operator.core.ray.clusters import ClusterView
from sundog_operator.core.revisions import Revision
from sundog_operator.core.trial.experiment import state
from sundog_runtime.arguments import parse_arguments, parse_settings
from sundog_runtime.protocol.grpc_service import GrpcMethods

CONTRACTS = Path(__file__).parents[3] / "docs" / "reference" / "contracts.md"
CLUSTER = ClusterView("sundog-0", host="127.0.0.1", dashboard_port="8265", serve_port="8000")

CALLERS: list[dict[str, Any]] = [
    {"networks": ["10.0.0.0/8", "0.0.0.0/0"]},
    {"apiKeys": ["ops", "a.b_C-1"]},
    {"apiKeys": [f"k{n}" for n in range(32)], "networks": [f"10.0.{n}.0/24" for n in range(32)]},
]

ORIGINS = (
    "https://app.example.com",
    "http://localhost:3000",
    "http://[::1]:1",
    "app-1.a+b://a_b.c",
    "https://a" + ".b" * 120,
)

specs = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries(
            {"uri": st.just("file:///models/digits/v1")}, optional={"config": st.just({"width": 8})}
        )
    },
    optional={
        "runtime": st.fixed_dictionaries(
            {},
            optional={
                "maxOngoingRequests": st.integers(1, 10_000),
                "batching": st.fixed_dictionaries(
                    {}, optional={"maxSize": st.integers(1, 4096), "maxDelay": st.sampled_from(("0s", "500us", "2s"))}
                ),
                "warmup": st.fixed_dictionaries(
                    {}, optional={"requests": st.integers(0, 1000), "timeout": st.just("90s")}
                ),
                "userConfig": st.dictionaries(st.text(max_size=8), st.integers(), max_size=3),
            },
        ),
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "cpu": st.sampled_from(("250m", "1", "2.5", "64")),
                "gpu": st.one_of(
                    st.fixed_dictionaries(
                        {}, optional={"count": st.sampled_from((0, 1, 8)), "vendor": st.sampled_from(("nvidia", "amd"))}
                    ),
                    st.just({"count": 1, "sharing": {"mode": "fraction", "fraction": "0.25"}}),
                ),
            },
        ),
        "endpoint": st.fixed_dictionaries(
            {},
            optional={
                "requestTimeout": st.sampled_from(("1ms", "30s", "2h", "23h59m")),
                "maxRequestBytes": st.sampled_from(("1", "10Mi", "2Gi")),
                "tls": st.just({"secretName": "cert.example"}),
                "reveal": st.booleans(),
                "compression": st.sampled_from(("none", "gzip")),
                "overrides": st.lists(
                    st.fixed_dictionaries(
                        {
                            "header": st.sampled_from(("x-pick", "x_pick")),
                            "value": st.from_regex(r"[A-Za-z0-9._~-]{1,128}", fullmatch=True),
                            "arm": st.sampled_from(("stable", "canary", "wide")),
                            "callers": st.sampled_from(CALLERS),
                        }
                    ),
                    max_size=16,
                    unique_by=lambda each: (each["header"], each["value"]),
                ),
                "auth": st.fixed_dictionaries(
                    {},
                    optional={
                        "apiKeys": st.just({"secretName": "keys"}),
                        "jwt": st.fixed_dictionaries(
                            {"jwksSecretName": st.just("jwks")},
                            optional={
                                "issuer": st.sampled_from(("https://a.example/", "a b", "ä")),
                                "audience": st.just("digits"),
                            },
                        ),
                    },
                ),
                "cors": st.one_of(
                    st.just({"allowedOrigins": ["*"]}),
                    st.fixed_dictionaries(
                        {"allowedOrigins": st.lists(st.sampled_from(ORIGINS), min_size=1, unique=True)},
                        optional={
                            "allowedHeaders": st.just(["x-a", "x_b"]),
                            "exposedHeaders": st.just(["0"]),
                            "maxAge": st.sampled_from(("0s", "1500ms", "23h59m59s")),
                            "allowCredentials": st.booleans(),
                        },
                    ),
                ),
                "queue": st.fixed_dictionaries(
                    {"maxRequests": st.sampled_from((0, 100_000)), "timeout": st.sampled_from(("0s", "1ms", "23h"))}
                ),
                "rateLimit": st.fixed_dictionaries(
                    {}, optional={"perClient": st.sampled_from(("1/h", "999999999/s")), "total": st.just("60/m")}
                ),
            },
        ),
        "rollout": st.one_of(
            st.just({}),
            st.from_regex(r"[A-Za-z0-9][-A-Za-z0-9_]{0,62}", fullmatch=True).map(
                lambda header: {"unit": {"header": header}}
            ),
            st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True).map(lambda cookie: {"unit": {"cookie": cookie}}),
            st.from_regex(r"\$(\.[A-Za-z0-9_-]{1,20}|\[[0-9]{1,4}\]){1,8}", fullmatch=True).map(
                lambda path: {"unit": {"jsonPath": path}}
            ),
        ),
    },
)


def revision_of(spec: ModelDeploymentSpec, number: int = 3) -> Revision:
    content = revisions.content_of(spec)
    return Revision(number, revisions.content_hash(content), content)


@given(specs, st.integers(1, 1000))
def test_the_model_server_reads_what_the_operator_deploys(spec_json: dict[str, Any], replicas: int) -> None:
    spec = ModelDeploymentSpec.from_json(spec_json)
    app = json.loads(
        json.dumps(
            serve_config.make_application(
                "vision", "digits", revision_of(spec), spec, serve_config.ReplicaScale(replicas, replicas)
            )
        )
    )
    arguments = parse_arguments(app["args"])
    settings = parse_settings(app["deployments"][0]["user_config"])
    assert (arguments.service, arguments.revision, arguments.model.uri) == ("digits", 3, spec.model.uri)
    assert arguments.batching.max_size == spec.runtime.batching.max_size
    assert arguments.batching.max_delay_seconds == spec.runtime.batching.max_delay.total_seconds()
    assert arguments.warmup.timeout_seconds == spec.runtime.warmup.timeout.total_seconds()
    assert (arguments.gpu.count > 0) == ("gpu" in app["args"])
    assert not arguments.gpu.count or (arguments.gpu.count, arguments.gpu.vendor) == (
        spec.resources.gpu.count,
        spec.resources.gpu.vendor,
    )
    assert arguments.gpu.memory_fraction == (0.25 if spec.resources.gpu.sharing.fraction else None)
    assert settings.user_config == spec.runtime.user_config
    assert app["deployments"][0]["num_replicas"] == replicas


def test_the_servicer_that_the_operator_names_has_the_protocols_methods() -> None:
    [path] = serve_config.make_document([], CLUSTER)["grpc_options"]["grpc_servicer_functions"]
    servicer, server = Mock(), Mock()
    pkgutil.resolve_name(path)(servicer, server)
    [handler] = server.add_generic_rpc_handlers.call_args[0][0]
    assert handler.service_name() == "inference.GRPCInferenceService"
    methods = "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"
    for method in methods:
        assert callable(getattr(GrpcMethods, method))
        assert handler.service(Mock(method=f"/inference.GRPCInferenceService/{method}")) is not None


def test_grpc_listens_where_the_cluster_says() -> None:
    cluster = replace(CLUSTER, grpc_port="14012")
    options = serve_config.make_document([], cluster)["grpc_options"]
    assert (options["port"], options["enable_reflection"]) == (14012, False)


@given(specs, st.integers(0, 100), st.booleans())
def test_the_edge_reads_what_the_operator_writes(spec_json: dict[str, Any], weight: int, ready: bool) -> None:
    spec = ModelDeploymentSpec.from_json(spec_json)
    stable, canary = two_arm_ranges(weight)
    arms = (SplitArm("stable", 7, 100 - weight, tuple(stable)), SplitArm("canary", 8, weight, tuple(canary)))
    split = Split("uid", "uid", 4, arms, experiment="digits-r8") if ready else None
    service = split_document.make_service_entry("vision", "digits", spec, "sundog-0", split)
    written = split_document.make_document(
        "vision", [service], split_document.make_cluster_entries([CLUSTER], None), None
    )
    read = edge_document.parse_document(json.dumps(written).encode(), "vision")
    assert [arm.weight for arm in read.services[0].arms] == ([100 - weight, weight] if ready else [])
    assert {name: value for name, value in _admission_of(read.services[0]).items() if value} == _admission_of(spec)
    assert read.services[0].experiment == ("digits-r8" if ready else "")
    assert read.services[0].unit.model_dump(exclude_defaults=True) == written["services"][0]["unit"]
    assert read.services[0].requestTimeoutSeconds == spec.endpoint.request_timeout.total_seconds()
    assert read.services[0].reveal is spec.endpoint.reveal
    asked = [(each.header, each.value, each.arm, each.callers) for each in spec.endpoint.overrides]
    there = {"stable", "canary"} - {each.name for each in arms if not each.weight} if ready else set()
    found = [(each.header, each.value, each.arm, each.callers) for each in read.services[0].overrides]
    assert [(*words, callers.keys, callers.networks) for *words, callers in found] == [
        (*words, callers.api_keys, callers.networks) for *words, callers in asked if words[2] in there
    ]


@pytest.mark.parametrize(
    ("timeout", "wait", "cold_start", "seconds"),
    [
        ("30s", "5s", "", 120),
        ("95s", "5s", "", 120),
        ("95s", "5001ms", "", 240),
        ("100s", "0s", "", 120),
        ("3m35s", "5s", "", 240),
        ("1ms", "23h", "", 122_880),
        ("23h59m", "23h", "", 245_760),
        ("30s", "5s", "4s", 120),
        ("30s", "5s", "20m", 1920),
    ],
)
def test_both_sides_give_an_edge_that_leaves_the_same_time(
    timeout: str, wait: str, cold_start: str, seconds: int
) -> None:
    """The operator gives it to the edge's pod, and the edge to its HAProxy."""
    endpoint = {"requestTimeout": timeout, "queue": {"timeout": wait}}
    scaling = {"minReplicas": 0, "maxReplicas": 1, "coldStartTimeout": cold_start}
    fields = {"autoscaling": scaling} if cold_start else {}
    services = [
        split_document.make_service_entry("vision", name, ModelDeploymentSpec.from_json(spec), "sundog-0", None)
        for name, spec in (
            ("digits", {"model": {"uri": "file:///m"}, "endpoint": endpoint, **fields}),
            ("letters", {"model": {"uri": "file:///m"}}),
        )
    ]
    written = split_document.make_document(
        "vision", services, split_document.make_cluster_entries([CLUSTER], None), None
    )
    read = edge_document.parse_document(json.dumps(written).encode(), "vision")
    assert grace_periods.edge_drain_s(written["services"]) == seconds
    assert (fit_layout(Layout(), read).drain_s or DEFAULT_DRAIN_S) == seconds


def test_a_namespace_may_name_as_many_networks_as_an_edge_takes() -> None:
    assert split_document.MAX_OVERRIDE_NETWORKS == edge_document.MAX_NETWORKS


def _admission_of(wanted: edge_document.Service | ModelDeploymentSpec) -> dict[str, Any]:
    """What an edge read, or a spec asked for, in the same words; what is not asked for is left out."""
    if isinstance(wanted, edge_document.Service):
        queue, jwt = wanted.queue, wanted.auth.jwt
        rates = {name: getattr(wanted.rateLimit, name) for name in ("perClient", "total")}
        return {
            "tls": wanted.tls,
            "compression": wanted.compression,
            "cors": wanted.cors.model_dump() if wanted.cors else None,
            "keys": wanted.auth.apiKeys,
            "jwt": (jwt.jwks, jwt.issuer, jwt.audience) if jwt else None,
            "queue": (queue.maxRequests, queue.timeoutSeconds) if queue else None,
            **{name: (rate.requests, rate.seconds) if rate else None for name, rate in rates.items()},
        }
    endpoint = wanted.endpoint
    token, cors = endpoint.auth.jwt, endpoint.cors
    limits = {"perClient": endpoint.rate_limit.per_client, "total": endpoint.rate_limit.total}
    asked = {
        "tls": endpoint.tls.secret_name,
        "compression": endpoint.compression.removeprefix("none"),
        "cors": {
            "allowedOrigins": cors.allowed_origins,
            "allowedHeaders": cors.allowed_headers,
            "exposedHeaders": cors.exposed_headers,
            "maxAgeSeconds": int(cors.max_age.total_seconds()),
            "allowCredentials": cors.allow_credentials,
        }
        if cors
        else None,
        "keys": endpoint.auth.api_keys.secret_name,
        "jwt": (token.jwks_secret_name, token.issuer, token.audience) if token.jwks_secret_name else None,
        "queue": (endpoint.queue.max_requests, endpoint.queue.timeout.total_seconds()),
        **{name: parse_rate(text) if text else None for name, text in limits.items()},
    }
    return {name: value for name, value in asked.items() if value}


def test_the_operator_reads_what_the_edge_reports() -> None:
    spec = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}})
    split = edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 7, followed=8)
    written = split_document.make_document(
        "vision",
        [split_document.make_service_entry("vision", "digits", spec, "sundog-0", split)],
        split_document.make_cluster_entries([CLUSTER], None),
        None,
    )
    document = edge_document.parse_document(json.dumps(written).encode(), "vision")
    seen = AgentState(
        "edge-0",
        "vision",
        servers={"digits-r7": ServerCounts(up=2)},
        running={"digits": {"digits-r8": 3}},
        problems={"digits": ["Secret keys is missing or empty"]},
        admitting={"digits": False},
    )
    evidence = json.loads(json.dumps(build_evidence(seen, AppliedDocument(document, 1.0, {}), Ledger(), 2.0)))
    reports = [EdgeReport("edge-0", ready=True, terminating=False, evidence=evidence)]
    assert confirmation.confirm("digits", split, reports).confirmed
    assert confirmation.confirm("digits", split, reports, written["services"][0]["hash"]).confirmed
    assert not confirmation.confirm("digits", split, reports, "5f0c9a3e1b7d2c4a").confirmed
    assert not confirmation.confirm(
        "digits", edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 8), reports
    ).confirmed
    assert (
        confirmation.healthy_replicas("digits", 7, reports) == confirmation.reported_replicas("digits", 7, reports) == 2
    )
    assert confirmation.count_in_flight("digits", 8, reports) == 3
    assert confirmation.find_edge_problems("digits", reports) == [("edge-0", "Secret keys is missing or empty")]
    assert confirmation.refuses_every_caller("digits", reports)
    unread = build_evidence(replace(seen, running=None), AppliedDocument(document, 1.0, {}), Ledger(), 2.0)
    reports.append(EdgeReport("edge-1", ready=True, terminating=False, evidence=json.loads(json.dumps(unread))))
    assert confirmation.confirm("digits", split, reports).confirmed
    assert confirmation.count_in_flight("digits", 8, reports) is None
    assert confirmation.count_in_flight("digits", 8, [reports[0], replace(reports[1], ready=False)]) == 3
    # Operators of an earlier release read a missing value as 0, and none of them expects null.
    assert "inFlight" not in unread["services"]["digits"]


def test_of_replicas_that_an_edge_has_not_looked_at_nothing_is_known() -> None:
    split = edge_split.make_stable_split("digits", "1f0c9a3e-5d2b", 7)
    spec = ModelDeploymentSpec.from_json({"model": {"uri": "file:///m"}})
    service = split_document.make_service_entry("vision", "digits", spec, "sundog-0", split)
    written = split_document.make_document(
        "vision", [service], split_document.make_cluster_entries([CLUSTER], None), None
    )
    in_force = AppliedDocument(edge_document.parse_document(json.dumps(written).encode(), "vision"), 1.0, {})
    told = [
        json.loads(json.dumps(build_evidence(AgentState(edge, "vision", servers=servers), in_force, Ledger(), 2.0)))
        for edge, servers in (("edge-0", {}), ("edge-1", {"digits-r7": ServerCounts(up=2)}))
    ]
    young, other = (EdgeReport(each["edge"], ready=True, terminating=False, evidence=each) for each in told)
    assert confirmation.reported_replicas("digits", 7, [young]) is None
    assert confirmation.reported_replicas("digits", 7, [young, other]) == 2
    assert confirmation.healthy_replicas("digits", 7, [young, other]) == 0
    assert confirmation.reported_replicas("digits", 7, []) == 0


async def test_the_stand_in_edge_reports_in_the_shape_of_the_real_one() -> None:
    cluster = Cluster()
    await cluster.apply()
    await cluster.settle(20)
    pod = {"metadata": {"name": "sundog-edge-0"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    (fake,) = await cluster.edges.read([pod])
    assert fake.evidence is not None
    document = edge_document.parse_document(json.dumps(cluster.edges.in_force()[0]).encode(), "vision")
    looked = AgentState(
        "edge-0", "vision", servers={"digits-r1": ServerCounts(up=1)}, starts={"digits-r1": UNKNOWN_STARTUP}
    )
    real = build_evidence(looked, AppliedDocument(document, 1.0, {}), Ledger(), 2.0)
    real_service, fake_service = real["services"]["digits"], fake.evidence["services"]["digits"]
    assert set(fake.evidence) <= set(real)
    assert set(fake_service) <= set(real_service)
    assert {name: set(arm) for name, arm in fake_service["arms"].items()} == {
        name: set(arm) for name, arm in real_service["arms"].items()
    }


def examples() -> list[dict[str, Any]]:
    """The first one of each section."""
    sections = CONTRACTS.read_text().split("\n## ")[1:]
    shown = [re.search(r"```json\n(.*?)```", section, re.DOTALL) for section in sections]
    return [json.loads(block[1].replace("…", "0")) for block in shown if block is not None]


@pytest.mark.parametrize("number", range(3))
def test_the_page_shows_documents_that_hold(number: int) -> None:
    example = examples()[number]
    match number:
        case 0:
            assert parse_arguments(example["args"]).revision == 8
            assert parse_settings(example["deployments"][0]["user_config"]).max_request_bytes == 10 * 2**20
        case 1:
            assert edge_document.parse_document(json.dumps(example).encode(), "vision").generation == 17
        case _:
            row = example["counters"][0]
            assert row["assigned"] == sum(row["ends"].values()) + row["inFlight"] + row["lost"]


def test_an_operator_waits_for_the_last_cohort_that_an_edge_counts() -> None:
    assert state.COHORTS == join.COHORTS
