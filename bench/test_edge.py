"""The edge with split and counting against plain Ray Serve in its fastest mode, and against the replica's bare port.

Two Rays run the same raw ASGI application side by side, both in throughput mode without access log.
"""

from collections.abc import Iterator

import pytest

from measuring.load import Request, Side, compare, ratio
from measuring.networks import body_of, features
from measuring.record import Record, throughput
from ports import free_ports
from real_edge import Edge, arm, service
from real_ray import RayServe, running_ray
from waiting import eventually

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(900)]

REQUEST = Request(body_of("x", features()), units=512)
ROUNDS = 6


def application(name: str) -> dict[str, object]:
    return {
        "name": name,
        "route_prefix": f"/{name}.app",
        "import_path": "measuring.serve_apps:mlp",
        "args": {},
        "logging_config": {"enable_access_log": False},
        "deployments": [{"name": "Mlp", "num_replicas": 1, "max_ongoing_requests": 256}],
    }


@pytest.fixture
def plain_serve(environment: dict[str, str]) -> Iterator[str]:
    """Start the application on a Ray in HAProxy and throughput mode; yield its URL."""
    metrics, stats, fallback, fallback_grpc, base = free_ports(5)
    del base
    mode = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
    }
    with running_ray({**environment, **mode}) as ray:
        ray.put({"applications": [application("plain")]})
        ray.wait_running("plain")
        url = f"http://{ray.fallback}/plain.app/"
        eventually(lambda: REQUEST.is_answered(url), "plain Ray Serve answers")
        yield url


def test_edge_against_plain_serve_and_the_bare_replica(
    wrk: None, ray_serve: RayServe, edge: Edge, plain_serve: str
) -> None:
    ray_serve.put({"applications": [application("mlp")]})
    ray_serve.wait_running("mlp")
    (replica,) = ray_serve.replicas("mlp")
    prefix = "/mlp.app"
    edge.apply(
        [service("mlp", [arm("stable", "mlp", prefix, [(2500, 10000)]), arm("canary", "mlp", prefix, [(0, 2500)])])]
    )
    sides = [
        Side("edge, split and counting", edge.url("mlp"), REQUEST),
        Side("plain Ray Serve, HAProxy + optimized", plain_serve, REQUEST),
        Side("bare replica port", f"http://{replica}{prefix}/", REQUEST),
    ]
    record = Record(
        "edge",
        "The edge against plain Ray Serve, raw ASGI MLP, answers per second",
        ("connections", *(side.name for side in sides), "edge / plain Serve", "edge / bare replica"),
    )
    before, lost_before = edge.counted()
    for connections in (1, 16):
        samples = compare(sides, connections, ROUNDS)
        ours, plain, bare = (samples[side.name] for side in sides)
        record.keep_samples(f"c{connections}", samples)
        record.add(
            str(connections),
            *(throughput(samples[side.name]) for side in sides),
            f"{ratio(ours, plain):.2f}",
            f"{ratio(ours, bare):.2f}",
        )
    counted, lost = edge.counted()
    record.notes.append(f"The edge counted {counted - before} requests, {lost - lost_before} log lines were lost.")
    record.finish()
